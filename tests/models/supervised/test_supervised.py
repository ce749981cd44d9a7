"""What learns under labels is what was asked for, and what ships tells the same."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from models import artifact
from models.encoders.factory import EncoderConfig
from models.method import Batch
from models.registry import build_method
from models.supervised.finetune import Finetune, FinetuneConfig
from models.supervised.head import HeadConfig
from models.supervised.segment import Segment, SegmentConfig

SIZE = 32
LINEAR = HeadConfig(name="linear", classes=("dark", "bright"))
VIT = EncoderConfig(name="vit_tiny_small", width=8)
RESNET = EncoderConfig(name="resnet18_small", width=8)


def finetune(encoder: EncoderConfig = RESNET, **settings: Any) -> Finetune:
    config = FinetuneConfig(**{"head": LINEAR, **settings})
    made = build_method(config, encoder, Finetune.default_views(SIZE), 0)
    assert isinstance(made, Finetune)
    return made


def batch_of(images: Tensor, **targets: Tensor) -> Batch:
    count = len(images)
    return {
        "views": {"images": images[None]},
        "sample_id": torch.arange(count),
        "row": torch.arange(count),
        "epoch": torch.zeros(count, dtype=torch.int64),
        "valid": torch.ones(count, dtype=torch.bool),
        "targets": targets,
    }


def brightness(count: int = 16) -> tuple[Tensor, Tensor]:
    """Noise, half of it brighter."""
    label = torch.arange(count) % 2
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(count, 3, SIZE, SIZE, generator=generator)
    return noise + (2.0 * label - 1)[:, None, None, None], label


def step(method: Finetune | Segment, batch: Batch, lr: float = 0.05) -> dict[str, Tensor]:
    outputs = method(batch)
    outputs["loss"].backward()
    with torch.no_grad():
        for parameter in method.parameters():
            if parameter.grad is not None:
                parameter -= lr * parameter.grad
                parameter.grad = None
    return outputs


@pytest.mark.parametrize("head", ["linear", "attentive"])
@pytest.mark.parametrize("trained", ["all", "blocks", "head"])
def test_brightness_is_learnt_by_what_is_asked_for(head: str, trained: str) -> None:
    form = HeadConfig(name=head, classes=("dark", "bright"))
    method = finetune(VIT, head=form, trained=trained, label_smoothing=0.0)
    before = copy.deepcopy(method.encoder.state_dict())
    images, label = brightness()
    losses = [step(method, batch_of(images, label=label))["loss"].item() for _ in range(12)]
    assert losses[-1] < 0.5 * losses[0]
    moved = {
        name for name, value in method.encoder.state_dict().items() if (value != before[name]).any()
    }
    if trained == "head":
        assert not moved
    elif trained == "blocks":
        assert moved and all(
            name.startswith(("vit.blocks.10", "vit.blocks.11", "vit.norm")) for name in moved
        )
    else:
        assert any(name.startswith("vit.blocks.0.") for name in moved)


def test_low_rank_updates_learn_and_merge_into_the_weights() -> None:
    method = finetune(VIT, trained="lora", lora_rank=2, label_smoothing=0.0)
    names = [name for name, parameter in method.named_parameters() if parameter.requires_grad]
    assert all(".up" in name or ".down" in name or name.startswith("head.") for name in names)
    images, label = brightness()
    for _ in range(10):
        step(method, batch_of(images, label=label))
    encoder, _, _ = method.ships()
    # names as of an encoder never adapted
    plain = build_method(method.config, VIT, method.views, 0)
    assert isinstance(plain, Finetune)
    untouched = finetune(VIT).encoder.state_dict()
    assert encoder.state_dict().keys() == untouched.keys()
    changed = [
        name for name, value in encoder.state_dict().items() if (value != untouched[name]).any()
    ]
    assert changed and all(name.endswith("weight") for name in changed)
    torch.testing.assert_close(encoder.eval()(images), method.eval().encoder(images))


def test_low_rank_updates_need_a_linear_layer() -> None:
    with pytest.raises(ValueError, match=r"probe\.trained=lora: .* take probe\.trained=blocks"):
        finetune(RESNET, trained="lora")


def test_a_frozen_encoder_is_trained_on_as_it_will_be_used() -> None:
    method = finetune(RESNET, trained="head")
    images, label = brightness()
    seen = method(batch_of(images, label=label))["embedding"]
    torch.testing.assert_close(seen, method.eval().encoder(images).detach())


def test_frozen_batch_norm_keeps_its_statistics() -> None:
    method = finetune(RESNET, trained="blocks", blocks=1)
    before = copy.deepcopy(method.encoder.state_dict())
    images, label = brightness()
    step(method, batch_of(images, label=label))
    after = method.encoder.state_dict()
    moved = {name.split(".")[1] for name in after if (after[name] != before[name]).any()}
    assert moved == {"3"}


def test_the_running_average_ships_and_lags_behind() -> None:
    method = finetune(ema_decay=0.9)
    images, label = brightness()
    for number in range(1, 6):
        step(method, batch_of(images, label=label))
        method.after_step(number, 5)
    encoder, head, _ = method.ships()
    weight = head.state_dict()["linear.weight"]
    assert (weight != method.head.state_dict()["linear.weight"]).any()
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


def test_several_labels_an_image_are_told_each_by_itself() -> None:
    head = HeadConfig(name="linear", task="classes", classes=("bright", "any", "never"))
    method = finetune(head=head)
    images, label = brightness()
    hot = torch.stack([label, torch.ones_like(label), torch.zeros_like(label)], 1).to(torch.uint8)
    losses = [step(method, batch_of(images, label_hot=hot), 0.2)["loss"].item() for _ in range(15)]
    assert losses[-1] < 0.3 * losses[0]


def test_invalid_samples_teach_nothing() -> None:
    method = finetune()
    images, label = brightness(8)
    batch = batch_of(images, label=label)
    batch["valid"] = torch.arange(8) < 4
    wrong = batch_of(images.clone(), label=torch.where(batch["valid"], label, 1 - label))
    wrong["valid"] = batch["valid"]
    method.eval()
    assert method(batch)["loss"].item() == method(wrong)["loss"].item()


@pytest.mark.parametrize("width", [None, 16])
def test_a_dense_head_learns_the_class_of_each_pixel(width: int | None) -> None:
    head = HeadConfig(name="dense", task="mask", classes=("dark", "bright"), width=width)
    config = SegmentConfig(head=head, trained="head")
    method = build_method(config, VIT, Segment.default_views(SIZE), 0)
    assert isinstance(method, Segment)
    images = torch.randn(8, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0)) * 0.1 - 1
    images[:, :, :, SIZE // 2 :] += 2
    mask = torch.zeros(8, SIZE, SIZE, dtype=torch.uint8)
    mask[:, :, SIZE // 2 :] = 1
    mask[0] = 255
    for _ in range(25):
        outputs = step(method, batch_of(images, mask=mask), 0.5)
    assert outputs["pixel_top1"] > 0.9
    batch = batch_of(images, mask=mask)
    unlabelled = batch_of(images, mask=mask)
    unlabelled["views"]["images"] = images.clone()[None]
    unlabelled["views"]["images"][0, 0] = 5.0
    method.eval()
    assert method(batch)["loss"].item() == method(unlabelled)["loss"].item()


@pytest.mark.parametrize("task", ["class", "classes", "mask"])
def test_an_artifact_with_a_head_predicts_after_loading(task: str, tmp_path: Path) -> None:
    name = "dense" if task == "mask" else "linear"
    head = HeadConfig(name=name, task=task, classes=("a", "b", "c"))
    config = SegmentConfig(head=head) if task == "mask" else FinetuneConfig(head=head)
    method = build_method(config, VIT, Segment.default_views(SIZE), 0).eval()
    encoder, shipped, _ = method.ships()
    described = {"encoder": VIT.model_dump(mode="json"), "seed": 0}
    preprocess = {"image_size": SIZE, "mean": (0.5,) * 3, "std": (0.25,) * 3}
    parts: dict[str, Any] = {"config": described, "preprocess": preprocess, "provenance": {}}
    digest = artifact.save(str(tmp_path), encoder, head=shipped, **parts)
    loaded = artifact.load(str(tmp_path))
    assert loaded.digest == digest != artifact.save(str(tmp_path / "plain"), encoder, **parts)
    assert loaded.head is not None and loaded.head.config == head
    images = torch.randn(2, 3, SIZE, SIZE)
    with torch.inference_mode():
        told = loaded.predict(images)
    assert told.shape == ((2, 3, SIZE, SIZE) if task == "mask" else (2, 3))
    assert (told >= 0).all() and (told <= 1).all()
    if task != "classes":
        torch.testing.assert_close(told.sum(1), torch.ones_like(told[:, 0]))
    (tmp_path / "head.safetensors").write_bytes((tmp_path / "encoder.safetensors").read_bytes())
    with pytest.raises(ValueError, match="do not match"):
        artifact.load(str(tmp_path))


def test_an_artifact_without_a_head_says_what_to_do(tmp_path: Path) -> None:
    method = finetune(VIT)
    described = {"encoder": VIT.model_dump(mode="json"), "seed": 0}
    preprocess = {"image_size": SIZE, "mean": (0.5,) * 3, "std": (0.25,) * 3}
    artifact.save(
        str(tmp_path), method.encoder, config=described, preprocess=preprocess, provenance={}
    )
    with pytest.raises(ValueError, match=r"no head: adapt it first, with jobs\.adapt"):
        artifact.load(str(tmp_path)).predict(torch.zeros(1, 3, SIZE, SIZE))
