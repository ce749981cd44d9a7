"""Jigsaw: the loss by a loop, chance, and that a puzzle told rightly is drawn solved."""

import math
from typing import Any

import pytest
import torch
from torch.nn import functional

from augment.execution.tiles import TileChanges, join_tiles
from models.encoders.factory import EncoderConfig
from models.registry import build_method
from models.spatial.jigsaw import Jigsaw, JigsawConfig
from tests.small_methods import NUM_SAMPLES, make_batch

ENCODER = EncoderConfig(
    name="vit_tiny_small", width=8, patch_size=8, patch_stride=8, patch_norm=True
)
TILES = TileChanges(gap=0.25, jitter=0.125, channel_jitter=1, normalise=True)


def build(**settings: Any) -> Jigsaw:
    given = {"tiles": TILES, "num_permutations": 16, "tile_dim": 16, "hidden_dim": 32, **settings}
    method = build_method(JigsawConfig(**given), ENCODER, Jigsaw.default_views(32), 0)
    assert isinstance(method, Jigsaw)
    return method


def test_loss_is_the_cross_entropy_of_tiles_laid_out_in_order_by_a_loop() -> None:
    method = build(num_puzzles=2)
    batch = make_batch("jigsaw")
    batch["valid"][3] = False
    tiles = method._cut(batch, method.tiles)
    label = method._draw(batch)
    assert len(label.unique()) > 8
    losses = []
    for sample in set(range(NUM_SAMPLES)) - {3}:
        for order in label[sample]:
            laid_out = tiles[sample][method.permutations[order]]  # (9, 3, p, p)
            features = method.of_tile(method.encoder.encode(laid_out[None, None])[0, 0])
            logits = method.of_all(features.flatten())
            losses.append(functional.cross_entropy(logits, order).item())
    assert method(batch)["loss"].item() == pytest.approx(sum(losses) / len(losses), rel=1e-5)


def test_at_chance_the_loss_is_log_of_the_orders() -> None:
    method = build()
    torch.nn.init.zeros_(method.of_all[-1].weight)
    torch.nn.init.zeros_(method.of_all[-1].bias)
    assert method(make_batch("jigsaw"))["loss"].item() == pytest.approx(math.log(16))


def test_orders_are_drawn_anew_every_epoch_and_by_sample_alone() -> None:
    method = build()
    first = method._draw(make_batch("jigsaw"))
    batch = make_batch("jigsaw", epoch=1)
    assert not torch.equal(first, method._draw(batch))
    batch["sample_id"] = batch["sample_id"].flip(0)
    assert torch.equal(method._draw(batch).flip(0), method._draw(make_batch("jigsaw", epoch=1)))


def test_an_order_told_rightly_is_drawn_solved(monkeypatch: pytest.MonkeyPatch) -> None:
    method = build()
    batch = make_batch("jigsaw")
    (puzzle,) = method.show(batch).values()
    method.after_step(1, 2)
    monkeypatch.setattr(
        method, "_tell", lambda features, label: functional.one_hot(label, 16).float()
    )
    shown = method.show(batch)
    assert torch.equal(shown["puzzle"], puzzle)
    plain = method._cut(batch, TILES.model_copy(update={"normalise": False}))
    assert torch.equal(shown["solved"], join_tiles(method.to_rgb(plain), method.place, 0.5))
    assert not torch.equal(shown["solved"], puzzle)


def test_the_shipped_encoder_normalises_each_patch_as_training_did() -> None:
    method = build()
    images = make_batch("jigsaw")["views"]["global_crops"][0]
    brighter = 0.5 * images + 2.0
    torch.testing.assert_close(
        method.encoder(brighter), method.encoder(images), rtol=1e-2, atol=1e-2
    )
    other = EncoderConfig.model_validate({**ENCODER.model_dump(), "patch_norm": False})
    with pytest.raises(ValueError, match=r"encoder\.patch_norm"):
        build_method(JigsawConfig(tiles=TILES), other, Jigsaw.default_views(32), 0)
