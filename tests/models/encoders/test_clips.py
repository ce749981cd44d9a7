"""Encoders of clips: what they see of time, and that a clip that stands still is an image."""

import pytest
import torch
from torch import nn

from models.blocks.positions import MOST_TIMES
from models.encoders.clips.convolutions import ClipConvolution
from models.encoders.clips.frames import FramesEncoder
from models.encoders.clips.tubelets import TubeletEncoder
from models.encoders.encoder import Encoder, Tokens
from models.encoders.factory import EncoderConfig, build_encoder
from models.starting.fitting import fit_weights
from tests.small_methods import fill_free_memory

SIZE = 16
FRAMES = EncoderConfig(name="resnet18_small", width=8, time="frames")
TUBELETS = EncoderConfig(name="vit_tiny_small", width=8, time="tubelets")
DIVIDED = EncoderConfig(name="vit_tiny_small", width=8, time="divided", tubelet=3)
INFLATED = EncoderConfig(name="resnet18_small", width=8, time="inflated")
ALL = (FRAMES, TUBELETS, DIVIDED, INFLATED)


def built(config: EncoderConfig) -> Encoder:
    return build_encoder(config, SIZE).eval()


def clips(num_frames: int = 6) -> torch.Tensor:
    return torch.randn(2, num_frames, 3, SIZE, SIZE)


@pytest.mark.parametrize("config", ALL, ids=lambda config: config.time)
def test_clips_are_embedded_as_rows_and_pooled_from_maps_and_the_last_layer(
    config: EncoderConfig,
) -> None:
    encoder, seen = built(config), clips()
    embedding = encoder(seen)
    assert encoder.media == config.media == "clip"
    assert embedding.shape == (2, encoder.embed_dim)
    assert torch.allclose(encoder.pool(encoder.maps(seen)), embedding, atol=1e-5)
    (last,) = encoder.layers(seen, [encoder.depth])
    assert torch.allclose(encoder.pool(last), embedding, atol=1e-5)


@pytest.mark.parametrize("config", ALL, ids=lambda config: config.time)
def test_all_but_the_mean_of_frames_tell_a_clip_from_its_reverse(config: EncoderConfig) -> None:
    encoder, seen = built(config), clips()
    for parameter in encoder.parameters():  # attention through time adds nothing at first
        torch.nn.init.normal_(parameter, std=0.1) if parameter.ndim > 1 else None
    alike = torch.allclose(encoder(seen), encoder(seen.flip(1)), rtol=1e-3, atol=1e-4)
    assert alike == (config.time == "frames")


def test_frames_are_embedded_as_images() -> None:
    encoder, seen = built(FRAMES), clips()
    assert isinstance(encoder, FramesEncoder) and encoder.supports("frames")
    frames = encoder.frames(seen)
    assert torch.allclose(frames[1, 4], encoder.each(seen[1, 4:5])[0], atol=1e-5)
    assert torch.allclose(frames.mean(1), encoder(seen), atol=1e-6)


def test_tubelets_that_are_kept_are_encoded_as_if_there_were_no_others() -> None:
    encoder, seen = built(TUBELETS), clips()
    assert isinstance(encoder, TubeletEncoder) and encoder.num_tokens(seen) == 3 * 64
    every = torch.arange(3 * 64).expand(2, -1)
    assert torch.allclose(
        encoder.tokens(seen, every).patches, encoder.tokens(seen).patches, atol=1e-5
    )
    of_first = encoder.tokens(seen, every[:, :64]).patches
    changed = seen.clone()
    changed[:, 2:] = 0  # frames of other tubelets
    assert torch.equal(encoder.tokens(changed, every[:, :64]).patches, of_first)
    later = torch.roll(seen, 2, dims=1)  # the same frames a tubelet later: another position
    assert not torch.allclose(encoder.tokens(later, every[:, 64:128]).patches, of_first, atol=1e-3)


def test_divided_attention_starts_as_attention_in_each_frame() -> None:
    encoder, seen = built(DIVIDED), clips()
    changed = seen.clone()
    changed[:, 3:] = 0
    tokens = encoder.tokens(seen).patches, encoder.tokens(changed).patches
    assert torch.allclose(tokens[0][:, :64], tokens[1][:, :64], atol=1e-5)
    assert not encoder.supports("tokens")


@pytest.mark.parametrize(
    ("of_images", "of_clips"),
    [
        (EncoderConfig(name="resnet18_small", width=8), INFLATED),
        (EncoderConfig(name="vit_tiny_small", width=8), TUBELETS),
    ],
    ids=["inflated", "tubelets"],
)
def test_weights_of_images_make_of_a_still_clip_what_they_made_of_the_image(
    of_images: EncoderConfig, of_clips: EncoderConfig
) -> None:
    torch.manual_seed(1)
    image_encoder, encoder = built(of_images), built(of_clips)
    fit = fit_weights(encoder, image_encoder.get_submodule(image_encoder.core).state_dict(), "w")
    assert fit.tensor_share == 1 and not fit.left_over
    image = torch.randn(1, 3, SIZE, SIZE)
    still = image.unsqueeze(1).expand(-1, 30, -1, -1, -1)
    if of_clips.time == "tubelets":
        first = encoder.layers(still[:, :2], [1])[0]
        expected = image_encoder.layers(image, [1])[0]
        assert isinstance(first, Tokens) and isinstance(expected, Tokens)
        # all but the position in time, which an image has not
        assert isinstance(encoder, TubeletEncoder)
        encoder.times.zero_()
        first = encoder.layers(still[:, :2], [1])[0]
        assert isinstance(first, Tokens)
        assert torch.allclose(first.patches, expected.patches, atol=1e-4)
        return
    network = encoder.get_submodule("network")
    inside = network["stem"](still.transpose(1, 2))[:, :, 15]  # type: ignore[index]
    assert torch.allclose(inside, image_encoder.stem(image), atol=1e-5)  # type: ignore[operator]


def test_a_checkpoint_of_clips_keeps_its_kernel_through_time() -> None:
    encoder = built(TUBELETS)
    state = dict(encoder.get_submodule("vit").state_dict())
    kernel = torch.randn(24, 3, 2, 2, 2)  # (D, 3, t, p, p)
    state["patch_embed.proj.weight"] = kernel
    fit_weights(encoder, state, "w")
    taken = encoder.get_submodule("vit").state_dict()["patch_embed.proj.weight"]
    assert torch.equal(taken.unflatten(1, (2, 3))[:, 1, 2], kernel[:, 2, 1])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"name": "torchvision:r3d_18", "time": "frames"}, "sees clips by itself"),
        ({"name": "resnet18", "time": "inflated"}, "take resnet18_small"),
        ({"tubelet": 4}, "has no effect without encoder.time"),
        ({"time": "frames", "patch_size": 8}, "is for still images"),
        ({"time": "frames", "keep_tokens": 0.5, "name": "vit_tiny_small"}, "is for still images"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    settings: dict[str, object], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        EncoderConfig.model_validate(settings)


def test_a_convolutional_network_has_no_tubelets_and_a_clip_must_divide() -> None:
    with pytest.raises(ValueError, match="no plain vision transformer"):
        built(EncoderConfig(name="resnet18", time="tubelets"))
    with pytest.raises(ValueError, match=r"do not divide .* encoder.tubelet"):
        built(TUBELETS)(clips(5))
    with pytest.raises(ValueError, match=str(MOST_TIMES)):
        built(TUBELETS)(torch.zeros(1, 2 * MOST_TIMES + 2, 3, 8, 8))


@pytest.mark.slow  # 33 million weights
def test_torchvisions_network_of_clips_is_one() -> None:
    encoder = built(EncoderConfig(name="torchvision:r3d_18"))
    assert encoder(clips(4)).shape == (2, encoder.embed_dim) == (2, 512)


@pytest.mark.parametrize("kernel", [(3, 3, 3), (3, 1, 1), (1, 3, 3), 1])
def test_a_convolution_over_two_instants_is_torchs_and_its_bfloat16_gradient_is_of_numbers(
    kernel: int | tuple[int, int, int],
) -> None:
    torch.manual_seed(0)
    padding = tuple(side // 2 for side in kernel) if isinstance(kernel, tuple) else 0
    theirs = nn.Conv3d(32, 32, kernel, padding=padding)
    ours = ClipConvolution.like(theirs)
    clips = torch.randn(4, 32, 2, 4, 4)
    torch.testing.assert_close(ours(clips), theirs(clips))
    with torch.autocast("cpu", torch.bfloat16):
        for _ in range(5):
            fill_free_memory()
            ours(clips).float().square().mean().backward()
            assert ours.weight.grad is not None and ours.weight.grad.isfinite().all()


def test_torchvisions_networks_of_clips_lay_empty_instants_by_hand_as_well() -> None:
    network = build_encoder(EncoderConfig(name="torchvision:r2plus1d_18"), 16)
    convolutions = [part for part in network.modules() if isinstance(part, nn.Conv3d)]
    assert convolutions and all(isinstance(part, ClipConvolution) for part in convolutions)
