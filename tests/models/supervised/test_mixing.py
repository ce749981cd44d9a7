"""Labelled samples are mixed by their keys, readable ones only, and their labels in proportion."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from models.encoders.factory import EncoderConfig
from models.method import Batch
from models.registry import build_method
from models.supervised.finetune import Finetune, FinetuneConfig
from models.supervised.head import HeadConfig
from models.supervised.mixing import Mixing, MixingConfig

SIZE = 32
COUNT = 8
HEAD = HeadConfig(name="linear", classes=("a", "b"))
RESNET = EncoderConfig(name="resnet18_small", width=8)
CLIPS = EncoderConfig(name="resnet18_small", width=8, time="frames")
WAYS: list[dict[str, float]] = [{"mixup": 0.8}, {"cutmix": 1.0}, {"mixup": 0.8, "cutmix": 1.0}]


def batch_of(images: Tensor) -> Batch:
    count = len(images)
    return {
        "views": {"images": images[None]},
        "sample_id": torch.arange(count) + 5,
        "row": torch.arange(count),
        "epoch": torch.ones(count, dtype=torch.int64),
        "valid": torch.ones(count, dtype=torch.bool),
        "targets": {"label": torch.arange(count) % 2},
    }


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def each_its_own(count: int, *inner: int) -> tuple[Tensor, Tensor]:
    """Images of one value each, and a class each."""
    values = 10.0 ** torch.arange(count)
    return values.view(-1, *[1] * len(inner)).expand(count, *inner), torch.eye(count)


def finetune(encoder: EncoderConfig = RESNET, **settings: Any) -> Finetune:
    config = FinetuneConfig(head=HEAD, **settings)
    made = build_method(config, encoder, Finetune.default_views(SIZE), 0)
    assert isinstance(made, Finetune)
    return made


@pytest.mark.parametrize("ways", WAYS)
def test_targets_are_mixed_as_the_pixels_are(ways: dict[str, float]) -> None:
    images, target = each_its_own(COUNT, 3, SIZE, SIZE)
    mixed, told = Mixing(MixingConfig(**ways), 0)(images, target, batch_of(images))
    values = 10.0 ** torch.arange(COUNT)
    torch.testing.assert_close(mixed.mean((1, 2, 3)), told @ values, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(told.sum(1), torch.ones(COUNT))
    assert ((told > 0).sum(1) <= 2).all() and (told.diagonal() < 1).any()
    if "mixup" not in ways:
        assert torch.isin(mixed, values).all()


def test_mixing_is_keyed_by_the_sample_and_not_by_torch_or_its_place() -> None:
    images, target = each_its_own(COUNT, 3, SIZE, SIZE)
    batch = batch_of(images)
    mixing = Mixing(MixingConfig(mixup=0.8, cutmix=1.0), 0)
    first, _ = mixing(images, target, batch)
    torch.manual_seed(1)
    assert (mixing(images, target, batch)[0] == first).all()
    assert (Mixing(MixingConfig(mixup=0.8, cutmix=1.0), 1)(images, target, batch)[0] != first).any()
    turned = batch_of(images)
    turned["sample_id"] = turned["sample_id"].roll(3)
    again, _ = mixing(images.roll(3, 0), target.roll(3, 0), turned)
    torch.testing.assert_close(again.roll(-3, 0), first)


def test_shares_follow_their_distribution() -> None:
    count, alpha = 20_000, 0.8
    images, target = torch.zeros(count, 1, 1, 1), torch.zeros(count, 2)
    target[::2, 0], target[1::2, 1] = 1, 1
    _, told = Mixing(MixingConfig(mixup=alpha), 0)(images, target, batch_of(images))
    share = torch.where(target > 0, told, 0).sum(1)
    assert share.mean().item() == pytest.approx(0.5, abs=0.01)
    assert share.var().item() == pytest.approx(1 / (4 * (2 * alpha + 1)), abs=0.003)


@pytest.mark.parametrize("ways", WAYS)
def test_a_sample_that_cannot_be_read_is_in_no_mixture(ways: dict[str, float]) -> None:
    method = finetune(**ways)
    for part in method.modules():
        if isinstance(part, _BatchNorm):
            part.eval()
    found = []
    for other in (False, True):
        images = noise(COUNT, 3, SIZE, SIZE)
        batch = batch_of(images)
        invalid = torch.tensor([0, 3, 4, 7])
        batch["valid"][invalid] = False
        if other:
            images[invalid] = noise(4, 3, SIZE, SIZE, seed=1) * 3
            batch["targets"]["label"][invalid] = 1 - batch["targets"]["label"][invalid]
            batch["sample_id"][invalid] += 100
        loss = method(batch)["loss"]
        (gradient,) = torch.autograd.grad(loss, method.head.linear.weight)
        found.append((loss.detach(), gradient))
    torch.testing.assert_close(found[0], found[1])
    alone = batch_of(images)
    alone["valid"] = torch.arange(COUNT) == 2
    target = torch.eye(COUNT)
    assert method.mixing is not None
    kept, told = method.mixing(images, target, alone)
    torch.testing.assert_close(kept, images)
    torch.testing.assert_close(told, target)


@pytest.mark.parametrize("ways", WAYS)
def test_all_frames_of_a_clip_are_mixed_alike(ways: dict[str, float]) -> None:
    images = noise(COUNT, 3, SIZE, SIZE)
    clips = images[:, None].expand(-1, 4, -1, -1, -1)
    mixing = Mixing(MixingConfig(**ways), 0)
    one, target = mixing(images, torch.eye(COUNT), batch_of(images))
    every, same = mixing(clips, torch.eye(COUNT), batch_of(clips))
    assert (every == one[:, None]).all() and (same == target).all()
    loss = finetune(CLIPS, **ways)(batch_of(clips))["loss"]
    assert loss.isfinite()


def test_nothing_is_mixed_but_in_training() -> None:
    method = finetune(mixup=0.8, cutmix=1.0)
    batch = batch_of(noise(COUNT, 3, SIZE, SIZE))
    loss = finetune().eval()(batch)["loss"]
    assert method.eval()(batch)["loss"] == loss
    assert method.train()(batch)["loss"] != finetune()(batch)["loss"]
