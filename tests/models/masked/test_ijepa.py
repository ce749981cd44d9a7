"""I-JEPA: what the student sees, what the loss counts, and what its guard is for."""

import pytest
import torch

from augment.masking import MaskKey
from augment.multi_block import multi_block
from models import health
from models.encoders.factory import EncoderConfig
from models.masked.ijepa import IJEPA, IJEPAConfig
from models.registry import build_method
from tests.models.masked.photograph import make_batch, tiles

VIT = EncoderConfig(name="vit_tiny_small", width=8)
RESNET = EncoderConfig(name="resnet18_small", width=8)


def build(encoder: EncoderConfig = VIT, size: int = 32, **settings: object) -> IJEPA:
    sizes = {"predictor_dim": 16, "predictor_depth": 1, "predictor_heads": 2}
    config = IJEPAConfig(**{**sizes, **settings})  # type: ignore[arg-type]
    method = build_method(config, encoder, IJEPA.default_views(size), 0)
    assert isinstance(method, IJEPA) and method.encoder.grid == (8, 8)
    return method


@pytest.mark.parametrize(("encoder", "size"), [(VIT, 32), (RESNET, 64)])
def test_the_student_sees_the_context_alone(encoder: EncoderConfig, size: int) -> None:
    method = build(encoder, size)
    batch = make_batch(tiles(4, size))
    images = batch["views"]["global_crops"][0]
    blocks = method._draw(batch)
    side = size // 8
    pixels = blocks.in_context.view(4, 1, 8, 8).repeat_interleave(side, 2)
    pixels = pixels.repeat_interleave(side, 3)
    changed = torch.where(pixels, images, torch.randn_like(images))
    first, second = (
        method.student_encoder.places(given, blocks.context).patches for given in (images, changed)
    )
    assert torch.equal(first, second)
    assert first.shape[1] == method.num_context < 40


@pytest.mark.slow
def test_a_convolutional_student_learns() -> None:
    method = build(RESNET, 64)
    batch = make_batch(tiles(8, 64))
    before = method(batch)["loss"]
    train(method, 12, tiles(8, 64), lr=5e-3)
    after = method(batch)
    assert after["loss"] < 0.97 * before
    assert after["patch_variation"] > 0.1 and method.show(batch)["tokens"].shape[1] == 3


def test_loss_equals_a_naive_loop_over_targets() -> None:
    method = build()
    batch = make_batch(tiles(3))
    images = batch["views"]["global_crops"][0]
    key = MaskKey(0, batch["epoch"], batch["sample_id"])
    blocks = multi_block(method.blocks, method.num_context, key)
    context = method.student_encoder.tokens(images, blocks.context).patches
    teacher = method.encoder.tokens(images).patches
    per_sample = []
    for sample in range(3):
        errors = []
        for target in range(4):
            asked = blocks.targets[sample, target][None, None]
            told = method.predictor(context[sample, None], blocks.context[sample, None], asked)
            for place, token in enumerate(blocks.targets[sample, target].tolist()):
                if blocks.counted[sample, target, place]:
                    wanted = teacher[sample, token]
                    wanted = (wanted - wanted.mean()) / (wanted.var(correction=0) + 1e-5).sqrt()
                    gap = (told[0, 0, place] - wanted).abs()
                    errors.append(torch.where(gap < 1, gap**2 / 2, gap - 0.5).mean())
        per_sample.append(torch.stack(errors).mean())
    expected = torch.stack(per_sample).mean()
    torch.testing.assert_close(method(batch)["loss"], expected, rtol=1e-4, atol=1e-5)


def test_predicting_zero_costs_what_the_docstring_says() -> None:
    method = build()
    torch.nn.init.zeros_(method.predictor.predict.weight)
    assert method(make_batch(tiles(8)))["loss"].item() == pytest.approx(0.42, abs=0.04)


def test_targets_that_leave_no_context_are_refused() -> None:
    with pytest.raises(ValueError, match=r"method\.num_targets=20 .* leave next to no context"):
        build(num_targets=20)


def train(method: IJEPA, num_steps: int, images: torch.Tensor, lr: float) -> tuple[float, float]:
    """Train on pieces of a photograph; the last loss, and how much patch tokens tell of them."""
    optimizer = torch.optim.AdamW(method.parameters(), lr=lr)
    for step in range(num_steps):
        loss = method(make_batch(images, epoch=step))["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        method.after_step(step + 1, num_steps)
    with torch.no_grad():
        return loss.item(), float(
            health.patch_variation(method.student_encoder.places(images).patches)
        )


@pytest.mark.slow
@pytest.mark.usefixtures("shallow")
def test_without_its_guard_the_loss_falls_and_the_tokens_collapse() -> None:
    kept_loss, kept = train(build(momentum=0.98), 20, tiles(16), lr=5e-3)
    loss, spread = train(build(stop_gradient=False), 20, tiles(16), lr=5e-3)
    assert loss < kept_loss / 4  # what it minimises calls the collapsed one the better
    assert spread < kept / 4
