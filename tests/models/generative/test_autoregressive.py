"""Autoregression: each patch from those before it alone, and the loss by a loop."""

from typing import Any

import pytest
import torch

from models.encoders.factory import EncoderConfig
from models.generative.autoregressive import Autoregressive, AutoregressiveConfig
from models.registry import build_method
from tests.small_methods import SIZE, make_batch

SIDE = SIZE // 8  # of a patch, px


def build(order: str = "raster", **settings: Any) -> Autoregressive:
    encoder = EncoderConfig.model_validate({"name": "vit_tiny_small", "width": 8, "causal": order})
    config = AutoregressiveConfig(decoder_depth=1, **settings)
    method = build_method(config, encoder, Autoregressive.default_views(SIZE), 0)
    assert isinstance(method, Autoregressive)
    return method


@pytest.mark.parametrize(("order", "ahead"), [("raster", 1), ("outwards", 3)])
def test_loss_is_the_error_of_the_patch_to_come_by_a_loop(order: str, ahead: int) -> None:
    method, batch = build(order, ahead=ahead), make_batch("mae")
    images = batch["views"]["global_crops"][0]
    predicted, _ = method._predict(images)
    sequence = method.encoder.sequence.tolist()
    errors = []
    for sample in range(len(images)):
        for place in range(64 - ahead):
            row, column = divmod(sequence[place + ahead], 8)
            patch = images[sample, :, SIDE * row : SIDE * (row + 1)]
            pixels = patch[..., SIDE * column : SIDE * (column + 1)].flatten()
            target = (pixels - pixels.mean()) / (pixels.var() + 1e-6).sqrt()
            errors.append((predicted[sample, place] - target).square().mean())
    torch.testing.assert_close(method(batch)["loss"], torch.stack(errors).mean())


def test_a_prediction_has_not_seen_what_it_predicts() -> None:
    method = build("columns")
    images = make_batch("mae")["views"]["global_crops"][0]
    sequence = method.encoder.sequence.tolist()
    rank = 30
    row, column = divmod(sequence[rank], 8)
    other = images.clone()
    other[..., SIDE * row : SIDE * (row + 1), SIDE * column : SIDE * (column + 1)] += 1
    same = (method._predict(images)[0] == method._predict(other)[0]).flatten(2).all(2).all(0)
    assert same[:rank].all()  # among them the one at rank - 1, which predicts it
    assert not same[rank:].any()


def test_predicting_the_mean_costs_about_one_and_copying_the_last_patch_less() -> None:
    method = build()
    torch.nn.init.zeros_(method.decoder.predict.weight)
    out = method(make_batch("mae"))
    assert out["loss"].item() == pytest.approx(11 / 12, abs=0.03)  # 12 values a patch
    assert out["copy_error"] < 0.7  # colours go on: what there is to cheat with
    with pytest.raises(ValueError, match=r"method\.ahead must be below the 64 patches"):
        build(ahead=64)


def test_the_decoder_is_as_deep_as_the_encoder_and_the_embedding_is_between_them() -> None:
    encoder = EncoderConfig(name="vit_tiny_small", width=8, causal="raster")
    views = Autoregressive.default_views(SIZE)
    method = build_method(AutoregressiveConfig(), encoder, views, 0)
    assert isinstance(method, Autoregressive) and len(method.decoder.blocks) == 12
    batch = make_batch("mae")
    expected = method.encoder(batch["views"]["global_crops"][0])
    torch.testing.assert_close(method(batch)["embedding"], expected.detach())


def test_predictions_are_drawn_in_their_place_and_the_first_patch_is_grey() -> None:
    method, batch = build("upwards"), make_batch("mae")
    assert method.show(batch) == {}
    method.after_step(1, 2)
    (drawn,) = method.show(batch).values()
    assert (drawn[:, :, -SIDE:, :SIDE] == 0.5).all()
    assert not (drawn[:, :, :SIDE, :SIDE] == 0.5).all()
