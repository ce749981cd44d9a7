"""encoder.keep_tokens: training encodes some patches of each view, drawn by its key."""

from typing import Any

import pytest
import torch
from torch import Tensor

from augment.recipe import Views
from models.encoders.encoder import Encoder
from models.encoders.factory import EncoderConfig, build_encoder
from models.registry import METHODS, build_method
from tests.small_methods import make_batch

CONFIG = EncoderConfig(name="vit_tiny_small", width=8, keep_tokens=0.25)
SAMPLES = 3


def build(**settings: Any) -> Encoder:
    torch.manual_seed(0)
    return build_encoder(CONFIG.model_copy(update=settings), 16)


def views(num_views: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(num_views * SAMPLES, 3, 16, 16, generator=generator)


def key(epoch: int, samples: slice = slice(None)) -> tuple[int, Tensor, Tensor]:
    sample_id = torch.tensor([5, -7, 1 << 40])[samples]
    return 0, torch.full_like(sample_id, epoch), sample_id


def embed(encoder: Encoder, images: Tensor, epoch: int = 0, samples: slice = slice(None)) -> Tensor:
    encoder.token_key = key(epoch, samples)
    embedding: Tensor = encoder(images).detach()
    return embedding


def test_a_view_is_embedded_by_the_patches_that_its_key_draws() -> None:
    encoder, images = build(), views(2)
    lengths = list[int]()
    encoder.vit.blocks.register_forward_hook(lambda _, args, out: lengths.append(args[0].shape[1]))
    first = embed(encoder, images)
    assert lengths == [encoder.num_patches // 4 + encoder.vit.num_prefix_tokens]
    assert first.equal(embed(encoder, images))
    assert not first.allclose(embed(encoder, images, epoch=1), atol=1e-3)
    # by sample and view, whoever else is in the batch
    mine = images.unflatten(0, (2, SAMPLES))[:, 1:].flatten(0, 1)
    split = embed(encoder, mine, samples=slice(1, None))
    assert split.allclose(first.unflatten(0, (2, SAMPLES))[:, 1:].flatten(0, 1), atol=1e-5)
    twice = images[:SAMPLES].repeat(2, 1, 1, 1)
    one, other = embed(encoder, twice).split(SAMPLES)
    assert not one.allclose(other, atol=1e-3)


def test_all_patches_are_seen_after_training_and_without_a_key() -> None:
    encoder, whole, images = build(), build(keep_tokens=1.0), views(1)
    assert encoder(images).equal(whole(images))
    encoder.token_key = key(0)
    assert encoder.eval()(images).equal(whole.eval()(images))


def test_a_teacher_sees_all_patches() -> None:
    views = METHODS["byol"].default_views(16)
    seen = dict[str, list[int]](student=[], teacher=[])
    method = build_method(METHODS["byol"].small, CONFIG, views, seed=0)
    for name, encoder in (("student", method.trained_encoder), ("teacher", teacher_of(method))):
        encoder.vit.blocks.register_forward_hook(
            lambda _, args, out, name=name: seen[name].append(args[0].shape[1])
        )
    method(make_batch("byol"))
    assert max(seen["student"]) < min(seen["teacher"])


def teacher_of(method: torch.nn.Module) -> Any:
    return next(
        part
        for part in method.modules()
        if isinstance(part, Encoder) and not any(p.requires_grad for p in part.parameters())
    )


@pytest.mark.parametrize(
    ("method", "encoder"),
    [
        ("mae", CONFIG),
        ("simclr", EncoderConfig(name="resnet18_small", width=8, keep_tokens=0.5)),
        ("autoregressive", CONFIG.model_copy(update={"causal": "raster"})),
    ],
)
def test_who_needs_all_patches_says_so(method: str, encoder: EncoderConfig) -> None:
    views: Views = METHODS[method].default_views(16)
    with pytest.raises(ValueError, match=r"encoder\.keep_tokens=0\.(25|5) .*leave it out"):
        build_method(METHODS[method].small, encoder, views, seed=0)
