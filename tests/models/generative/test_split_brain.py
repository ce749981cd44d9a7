"""Split-brain: the halves see disjoint channels, tell each other's, and ship as one encoder."""

import math
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from augment.lab import lab_to_rgb, rgb_to_lab
from models import artifact
from models.encoders.factory import EncoderConfig, build_encoder
from models.generative.split_brain import SplitBrain, SplitBrainConfig
from models.registry import build_method
from tests.models.masked import photograph
from tests.small_methods import SIZE, make_batch

ENCODER = EncoderConfig(name="resnet18_small", width=8, norm="layer", split="lab")


def build(**settings: Any) -> SplitBrain:
    config = SplitBrainConfig(**{"target_stride": 4, "decoder_width": 4, **settings})
    method = build_method(config, ENCODER, SplitBrain.default_views(SIZE), 0)
    assert isinstance(method, SplitBrain)
    return method


def test_each_half_sees_its_own_channels_alone() -> None:
    method = build()
    images = make_batch("split_brain")["views"]["global_crops"][0]
    lab = rgb_to_lab(method.to_rgb(images))
    lab[:, 0] = 30 + 0.4 * lab[:, 0]  # so that what is changed below can be shown
    lab[:, 1:] *= 0.2
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (method.views.mean, method.views.std))
    features = []
    for lightness, colour in ((1.0, 1.0), (1.0, -1.0), (0.9, 1.0)):
        changed = torch.cat([lab[:, :1] * lightness, lab[:, 1:] * colour], dim=1)
        features.append(method.encoder.halves((lab_to_rgb(changed) - mean) / std))
    plain, recoloured, darker = features
    torch.testing.assert_close(plain[0], recoloured[0], rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(plain[1], darker[1], rtol=1e-2, atol=1e-2)
    assert (plain[1] - recoloured[1]).abs().mean() > 0.05
    assert (plain[0] - darker[0]).abs().mean() > 0.005


def test_no_weight_of_a_half_is_moved_by_the_other_ones_loss() -> None:
    method = build()
    method(make_batch("split_brain"))["loss"].backward()
    method.zero_grad()
    images = make_batch("split_brain")["views"]["global_crops"][0]
    seen, _ = method.encoder.halves(images)
    method.to_colour(seen).square().sum().backward()
    moved = {
        name.split(".")[0] for name, p in method.encoder.named_parameters() if p.grad is not None
    }
    assert moved == {"lightness"}


def errors_of_others(split: Literal["lab", "whole"], num_steps: int) -> tuple[float, float]:
    """Train on pieces of a photograph; gives how badly colour and lightness of others are told."""
    encoder = ENCODER.model_copy(update={"split": split})
    config = SplitBrainConfig(output="l2", target_stride=4, decoder_width=8)
    method = build_method(config, encoder, SplitBrain.default_views(SIZE), 0)
    optimizer = torch.optim.AdamW(method.parameters(), lr=5e-3)
    pieces = photograph.tiles(1024, SIZE)
    pieces = pieces[torch.randperm(len(pieces), generator=torch.Generator().manual_seed(0))]
    for step in range(num_steps):
        optimizer.zero_grad()
        batch = pieces[64 * (step % 12) :][:64]
        method(photograph.make_batch(batch, epoch=step))["loss"].backward()
        optimizer.step()
    out = method.eval()(photograph.make_batch(pieces[64 * 12 :]))
    return out["colour_loss"].item(), out["lightness_loss"].item()


@pytest.mark.slow
def test_halves_that_see_the_whole_image_copy_what_they_should_tell() -> None:
    told = errors_of_others("lab", 24)
    copied = errors_of_others("whole", 24)
    assert all(mine < 0.5 * honest for mine, honest in zip(copied, told, strict=True))


def test_an_embedding_is_that_of_both_halves_in_any_way_of_making_it() -> None:
    encoder = build_encoder(ENCODER, SIZE)
    assert (
        encoder.embed_dim
        == build_encoder(ENCODER.model_copy(update={"split": None}), SIZE).embed_dim
    )
    images = make_batch("split_brain")["views"]["global_crops"][0]
    torch.testing.assert_close(encoder(images), encoder.pool(encoder.maps(images)))
    encoder.use_pooling("max")
    maps = encoder.maps(images)
    torch.testing.assert_close(encoder(images), maps.amax((2, 3)))


def test_at_chance_the_losses_are_log_of_the_bins() -> None:
    method = build()
    for decoder in (method.to_colour, method.to_lightness):
        torch.nn.init.zeros_(decoder.predict.weight)
    out = method(make_batch("split_brain"))
    assert out["colour_loss"].item() == pytest.approx(math.log(309), rel=1e-5)
    assert out["lightness_loss"].item() == pytest.approx(math.log(50), rel=1e-5)
    assert out["loss"].item() == pytest.approx(math.log(309 * 50) / 2, rel=1e-5)


def test_squared_error_is_that_of_channels_in_their_units() -> None:
    method = build(output="l2")
    for decoder in (method.to_colour, method.to_lightness):
        torch.nn.init.zeros_(decoder.predict.weight)
    batch = make_batch("split_brain")
    lab = rgb_to_lab(method.to_rgb(batch["views"]["global_crops"][0]))
    lab = torch.nn.functional.adaptive_avg_pool2d(lab, method.size)
    out = method(batch)
    assert out["colour_loss"].item() == pytest.approx(
        (lab[:, 1:] / 110).square().sum(1).mean().item(), rel=1e-4
    )
    assert out["lightness_loss"].item() == pytest.approx(
        (lab[:, 0] / 50 - 1).square().mean().item(), rel=1e-4
    )


def test_what_ships_is_one_encoder_that_loads_from_its_artifact(tmp_path: Path) -> None:
    method = build()
    encoder, head, _ = method.ships()
    assert head is None
    artifact.save(
        str(tmp_path),
        encoder,
        config={"encoder": ENCODER.model_dump(mode="json"), "seed": 0},
        preprocess={"image_size": SIZE, "mean": method.views.mean, "std": method.views.std},
        provenance={},
    )
    images = make_batch("split_brain")["views"]["global_crops"][0]
    loaded = artifact.load(str(tmp_path))
    torch.testing.assert_close(loaded(images), encoder.eval()(images))


def test_encoders_and_views_that_cannot_be_split_are_refused() -> None:
    views = SplitBrain.default_views(SIZE)
    with pytest.raises(ValueError, match=r"set encoder\.split=lab"):
        build_method(SplitBrainConfig(), ENCODER.model_copy(update={"split": None}), views, 0)
    with pytest.raises(ValueError, match=r"encoder\.width=12 .*multiple of 8"):
        EncoderConfig(name="resnet18_small", width=12, split="lab")
    with pytest.raises(ValueError, match=r"encoder\.split=lab .*encoder\.patch_size"):
        EncoderConfig(name="resnet18_small", split="lab", patch_size=8)
    other = views.model_copy(update={"mean": (0.5, 0.5, 0.5)})
    with pytest.raises(ValueError, match=r"encoder\.split=lab undoes .*views\.mean"):
        build_method(SplitBrainConfig(), ENCODER, other, 0)
