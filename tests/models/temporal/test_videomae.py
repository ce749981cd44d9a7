"""What VideoMAE hides of a clip, and what it judges."""

from functools import partial

import pytest
import torch

from models.encoders.factory import EncoderConfig
from models.method import Batch
from models.registry import build_method
from models.temporal.videomae import VideoMAE, VideoMAEConfig
from tests.small_methods import NUM_FRAMES, make_batch, shallow_transformers

TUBELETS = EncoderConfig(name="vit_tiny_small", width=8, time="tubelets")
small = partial(VideoMAEConfig, decoder_dim=32, decoder_depth=1, decoder_heads=2)


def build(config: VideoMAEConfig) -> VideoMAE:
    with shallow_transformers():
        method = build_method(config, TUBELETS, VideoMAE.default_views(16), 0)
    assert isinstance(method, VideoMAE)
    return method


def hidden(method: VideoMAE, batch: Batch) -> torch.Tensor:
    """(B, times, places) bool, which tubelets are judged."""
    clips = batch["views"]["global_crops"][0]
    return method._predict(clips, batch)[0].unflatten(1, (NUM_FRAMES // 2, 64))


def test_tubes_hide_the_same_places_at_every_instant_and_random_masks_others() -> None:
    batch = make_batch("videomae")
    tubes = hidden(build(small()), batch)
    assert (tubes == tubes[:, :1]).all() and (tubes[:, 0].sum(1) == round(0.9 * 64)).all()
    assert not torch.equal(tubes[0], tubes[1])
    anywhere = hidden(build(small(masks="random")), batch)
    assert not (anywhere == anywhere[:, :1]).all()
    assert (anywhere.flatten(1).sum(1) == round(0.9 * 192)).all()


def test_a_share_of_the_hidden_tubelets_is_painted_and_judged() -> None:
    batch = make_batch("videomae")
    whole, half = build(small()), build(small(decoder_share=0.5))
    judged = hidden(half, batch)
    assert (judged <= hidden(whole, batch)).all()
    assert (judged.flatten(1).sum(1) == round(0.5 * 3 * 58)).all()
    assert half(batch)["loss"].item() == pytest.approx(whole(batch)["loss"].item(), rel=0.2)


def test_the_decoder_sees_when_a_tubelet_is() -> None:
    method = build(small())
    tokens = torch.zeros(1, 1, 24)
    keep = torch.zeros(1, 1, dtype=torch.long)
    told = method.decoder(tokens, keep, times=3).unflatten(1, (3, 64))
    assert not torch.allclose(told[:, 1, 5], told[:, 2, 5], atol=1e-4)
    wanted = torch.tensor([[64 + 5, 128 + 5]])
    some = method.decoder(tokens, keep, times=3, wanted=wanted)
    assert some.shape == (1, 2, 2 * 3 * 2 * 2)
    assert not torch.allclose(some[0, 0], some[0, 1], atol=1e-4)


def test_clips_of_any_length_fit_and_odd_ones_are_refused() -> None:
    method, batch = build(small()), make_batch("videomae")
    batch["views"]["global_crops"] = batch["views"]["global_crops"][:, :, :4]
    assert torch.isfinite(method(batch)["loss"])
    batch["views"]["global_crops"] = batch["views"]["global_crops"][:, :, :3]
    with pytest.raises(ValueError, match=r"multiple of encoder\.tubelet"):
        method(batch)


@pytest.mark.parametrize("time", ["divided", "frames", "inflated", None])
def test_an_encoder_without_tokens_of_tubelets_is_refused(time: str | None) -> None:
    name = "resnet18_small" if time == "inflated" else "vit_tiny_small"
    encoder = EncoderConfig.model_validate({"name": name, "width": 8, "time": time})
    with pytest.raises(ValueError, match=r"encoder\.(time|name)="):
        build_method(small(), encoder, VideoMAE.default_views(16), 0)
