"""data2vec: its targets, what the loss counts, that masks share a teacher's pass, and its guard."""

import pytest
import torch

from models import health
from models.encoders.factory import EncoderConfig
from models.masked.data2vec import Data2Vec, Data2VecConfig
from models.registry import build_method
from tests.models.masked.photograph import make_batch, tiles

VIT = EncoderConfig(name="vit_tiny_small", width=8)


def build(**settings: object) -> Data2Vec:
    sizes = {"num_masks": 2, "decoder_dim": 16, "decoder_depth": 1, "decoder_groups": 2}
    config = Data2VecConfig(**{**sizes, **settings})  # type: ignore[arg-type]
    method = build_method(config, VIT, Data2Vec.default_views(32), 0)
    assert isinstance(method, Data2Vec)
    return method


def test_targets_are_the_mean_of_the_last_layers_each_normalised_over_places() -> None:
    method = build(top_layers=2)
    images = make_batch(tiles(3))["views"]["global_crops"][0]
    layers = [each.patches for each in method.teacher_encoder.layers(images, (11, 12))]  # type: ignore[union-attr]
    normed = [
        (each - each.mean(1, keepdim=True))
        / (each.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
        for each in layers
    ]
    mean = (normed[0] + normed[1]) / 2
    deviation = (mean.var(2, correction=0, keepdim=True) + 1e-5).sqrt()
    expected = (mean - mean.mean(2, keepdim=True)) / deviation
    torch.testing.assert_close(
        method._targets(method.teacher_encoder, images), expected, rtol=1e-3, atol=1e-4
    )
    with pytest.raises(ValueError, match=r"method\.top_layers must be at most the 12 layers"):
        build(top_layers=13)


def test_loss_counts_hidden_patches_of_every_mask_and_equals_a_naive_loop() -> None:
    method = build()
    batch = make_batch(tiles(3))
    images = batch["views"]["global_crops"][0]
    target = method._targets(method.teacher_encoder, images)
    masks = method._draw(batch)
    assert masks.shape == (2, 3, 64) and (masks.sum(2) == 51).all()
    assert (masks[0] != masks[1]).any(1).all()
    errors = []
    for mask in masks:
        for sample in range(3):
            keep = (~mask[sample]).nonzero().flatten()[None]
            tokens = method.encoder.tokens(images[sample, None], keep).patches
            told = method.decoder(tokens, keep)[0]
            gaps = (told - target[sample]).square().mean(-1)
            errors.append(gaps[mask[sample]].mean())
    out = method(batch)
    torch.testing.assert_close(out["loss"], torch.stack(errors).mean(), rtol=1e-4, atol=1e-5)
    # the first mask alone is what a run with one mask has
    torch.testing.assert_close(out["embedding"], build(num_masks=1)(batch)["embedding"])


def test_masks_share_one_pass_of_the_teacher() -> None:
    method = build(num_masks=4)
    seen: list[int] = []
    method.teacher_encoder.vit.blocks[0].register_forward_hook(  # type: ignore[union-attr, operator, index]
        lambda module, inputs, output: seen.append(len(inputs[0]))
    )
    method(make_batch(tiles(3)))
    assert seen == [3]


def test_predicting_zero_costs_one() -> None:
    method = build()
    torch.nn.init.zeros_(method.decoder.predict.weight)
    torch.nn.init.zeros_(method.decoder.predict.bias)
    assert method(make_batch(tiles(4)))["loss"].item() == pytest.approx(1, abs=0.01)


def test_the_teachers_momentum_rises_along_a_line() -> None:
    method = build(momentum=0.5, final_momentum=0.9, momentum_fraction=0.5)
    weight = method.encoder.vit.norm.weight  # type: ignore[union-attr]
    followed = method.teacher_encoder.vit.norm.weight  # type: ignore[union-attr]
    for step, momentum in ((1, 0.7), (2, 0.9), (4, 0.9)):
        with torch.no_grad():
            weight.fill_(2.0)
            followed.fill_(1.0)
        method.after_step(step, 4)
        assert followed.mean().item() == pytest.approx(2 - momentum)


def train(method: Data2Vec, num_steps: int) -> tuple[float, float]:
    """Train on pieces of a photograph; the last loss, and how much patch tokens tell of them."""
    images = tiles(16)
    optimizer = torch.optim.AdamW(method.parameters(), lr=1e-2)
    for step in range(num_steps):
        loss = method(make_batch(images, epoch=step))["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        method.after_step(step + 1, num_steps)
    with torch.no_grad():
        return loss.item(), float(health.patch_variation(method.encoder.tokens(images).patches))


@pytest.mark.slow
@pytest.mark.usefixtures("shallow")
def test_without_its_guard_the_loss_falls_and_the_tokens_tell_their_place_alone() -> None:
    kept_loss, kept = train(build(top_layers=2, momentum=0.98), 32)
    loss, spread = train(build(top_layers=2, stop_gradient=False), 32)
    assert loss < kept_loss / 4  # what it minimises calls the collapsed one the better
    assert spread < kept / 10
