"""Relative position: the loss by a loop, chance, and what is shown."""

import math
from typing import Any

import pytest
import torch
from torch.nn import functional

from augment.execution.tiles import TileChanges, layout
from models.encoders.factory import EncoderConfig
from models.registry import build_method
from models.spatial.relative_position import RelativePosition, RelativePositionConfig
from tests.small_methods import NUM_SAMPLES, make_batch

ENCODER = EncoderConfig(name="vit_tiny_small", width=8, patch_size=8, patch_stride=8)
TILES = TileChanges(gap=0.25, jitter=0.125)


def build(encoder: EncoderConfig = ENCODER, **settings: Any) -> RelativePosition:
    config = RelativePositionConfig(**{"tiles": TILES, "hidden_dim": 32, **settings})
    method = build_method(config, encoder, RelativePosition.default_views(32), 0)
    assert isinstance(method, RelativePosition)
    return method


def test_loss_is_the_cross_entropy_of_each_neighbour_by_a_loop() -> None:
    method = build()
    batch = make_batch("relative_position")
    batch["valid"][3] = False
    tiles = method._cut(batch)
    losses = []
    right = []
    for sample in set(range(NUM_SAMPLES)) - {3}:
        middle = method.encoder.encode(tiles[sample, 4][None, None, None])[0, 0]
        for place, index in enumerate([0, 1, 2, 3, 5, 6, 7, 8]):
            other = method.encoder.encode(tiles[sample, index][None, None, None])[0, 0]
            logits = method.comparison(torch.cat([middle, other], dim=1))[0]
            losses.append(functional.cross_entropy(logits, torch.tensor(place)).item())
            right.append(int(logits.argmax()) == place)
    out = method(batch)
    assert out["loss"].item() == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    assert out["position_top1"].item() == pytest.approx(sum(right) / len(right))


def test_at_chance_the_loss_is_log_8_and_an_eighth_is_right() -> None:
    method = build()
    torch.nn.init.zeros_(method.comparison[-1].weight)
    torch.nn.init.zeros_(method.comparison[-1].bias)
    out = method(make_batch("relative_position"))
    assert out["loss"].item() == pytest.approx(math.log(8))
    assert out["position_top1"].item() == pytest.approx(1 / 8)


def test_the_papers_tiles_fit_a_view_of_400_px() -> None:
    place = layout(400, 96, RelativePositionConfig().tiles)
    assert (place.pitch - place.side, place.jitter) == (48, 7)


def test_tiles_are_normalised_only_where_the_encoders_patches_are() -> None:
    tiles = TILES.model_copy(update={"normalise": True})
    with pytest.raises(ValueError, match=r"needs encoder\.patch_norm=true"):
        build(tiles=tiles)
    build(ENCODER.model_copy(update={"patch_norm": True}), tiles=tiles)


def test_frames_say_which_neighbours_are_told() -> None:
    method = build()
    with torch.no_grad():
        method.comparison[-1].weight.zero_()
        method.comparison[-1].bias.zero_()[7] = 1.0  # the last neighbour is told, no other
    batch = make_batch("relative_position")
    assert list(method.show(batch)) == ["tiles"]
    method.after_step(1, 2)
    drawn = method.show(batch)["told is green"]
    first = method.place.first
    last = first + 2 * method.place.pitch
    assert (drawn[:, 0, first, first] > 0.8).all() and (drawn[:, 1, last, last] > 0.6).all()
