"""The joint loss of context encoders: its parts, and what it is for: fillings that are not
blurred."""

import pytest
import torch
from torch.nn import functional

from models.encoders.factory import EncoderConfig
from models.generative.context_encoder import ContextEncoder, ContextEncoderConfig
from models.generative.context_encoder_adversarial import (
    ContextEncoderAdversarial,
    ContextEncoderAdversarialConfig,
)
from models.generative.pixel_masks import widen
from models.method import Batch, Method, MethodConfig, total_loss
from models.registry import build_method
from tests.small_methods import SIZE, make_batch

NUM = 16
RESNET = EncoderConfig(name="resnet18_small", width=4)
VIT = EncoderConfig(name="vit_tiny_small", width=8)


def build(config: MethodConfig, encoder: EncoderConfig, seed: int = 0) -> Method:
    return build_method(config, encoder, ContextEncoder.default_views(SIZE), seed)


def adversarial(weight: float) -> ContextEncoderAdversarialConfig:
    return ContextEncoderAdversarialConfig(
        decoder_width=4, discriminator_width=8, adversarial_weight=weight
    )


def test_loss_is_the_squared_error_and_being_taken_for_real_of_the_region_alone() -> None:
    method, batch = build(adversarial(0.25), VIT).eval(), make_batch("context_encoder_adversarial")
    assert isinstance(method, ContextEncoderAdversarial)
    images, hidden, painted, _ = method._paint(batch)
    region = widen(hidden, method.overlap)
    fooled = functional.softplus(-method.discriminator(painted * region))
    expected = 0.75 * method._error(images, hidden, painted) + 0.25 * fooled
    out = method(batch)
    torch.testing.assert_close(out["loss"], expected.mean())
    told = functional.softplus(-method.discriminator(images * region))
    told = told + functional.softplus(method.discriminator(painted * region))
    torch.testing.assert_close(out["discriminator_loss"], told.mean())


def stripes(step: int) -> Batch:
    """Pictures whose middle is striped, shifted or not with nothing around that tells which."""
    generator = torch.Generator().manual_seed(step)
    shifted = torch.randint(0, 2, (NUM, 1, 1, 1), generator=generator) * 2 - 1
    column = torch.arange(SIZE)
    images = 0.05 * torch.randn(NUM, 3, SIZE, SIZE, generator=generator)
    middle = slice(SIZE // 4, -SIZE // 4)
    images[:, :, middle, middle] = ((column // 2 % 2 * 2 - 1) * shifted)[..., middle].float()
    number = torch.arange(NUM)
    return Batch(
        views={"global_crops": images.unsqueeze(0)},
        sample_id=number,
        row=number,
        epoch=torch.zeros_like(number),
        valid=torch.ones_like(number, dtype=torch.bool),
    )


def sharpness_after(config: MethodConfig, num_steps: int, seed: int = 0) -> float:
    """Train for a while; gives how sharp the fillings of the last ten steps are."""
    method = build(config, RESNET, seed)
    optimizers = [
        torch.optim.Adam(group["params"], lr=lr, betas=(0.5, 0.99))
        for group in method.param_groups()
        for lr in [1e-3 if group.get("optimizer", "main") == "discriminator" else 2e-3]
    ]
    found = []
    for step in range(num_steps):
        out = method(stripes(step))
        method.zero_grad()
        total_loss(out).backward()
        for optimizer in optimizers:
            optimizer.step()
        found.append(out["sharpness"].item())
    return sum(found[-10:]) / 10


@pytest.mark.slow
def test_squared_error_fills_in_grey_where_a_discriminator_has_one_of_two_fillings() -> None:
    grey = sharpness_after(ContextEncoderConfig(decoder_width=4, mask="central"), 40)
    sharp = sharpness_after(adversarial(0.95), 110)
    assert grey < 0.02 and sharp > 0.1
