"""iBOT: what it compares, its masks and centres, and the guards against collapse of images and of
patches."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from models.encoders.factory import EncoderConfig
from models.joint_embedding.ibot import IBOT, IBOTConfig
from models.registry import build_method
from tests.small_methods import ENCODERS, NUM_SAMPLES, SIZE, make_batch

K = 12
LARGE = ("global_crops_1", "global_crops_2")


def build(encoder: EncoderConfig = ENCODERS[1], **settings: object) -> IBOT:
    sizes = {"hidden_dim": 32, "bottleneck_dim": 16, "num_prototypes": K}
    config = IBOTConfig.model_validate({**sizes, **settings})
    method = build_method(config, encoder, IBOT.default_views(SIZE), 0)
    assert isinstance(method, IBOT)
    return method


def test_views_are_the_papers() -> None:
    views = IBOT.default_views(224).groups
    assert [(views[name].count, views[name].size, views[name].scale) for name in views] == [
        (1, None, (0.25, 1.0)),
        (1, None, (0.25, 1.0)),
        (10, 96, (0.05, 0.25)),
    ]


def test_masks_are_blocks_keyed_to_the_sample_of_half_the_large_crops() -> None:
    method = build()
    batch = make_batch("ibot")
    batch["sample_id"] = torch.arange(400)
    batch["epoch"] = torch.full((400,), 3)
    masks = method.masks(batch)
    assert masks.shape == (2, 400, 64)
    assert torch.equal(masks, method.masks(batch))
    few = {**batch, "sample_id": batch["sample_id"][7:9], "epoch": batch["epoch"][7:9]}
    assert torch.equal(method.masks(few), masks[:, 7:9])  # type: ignore[arg-type]
    other = {**batch, "epoch": batch["epoch"] + 1}
    assert not torch.equal(method.masks(other), masks)  # type: ignore[arg-type]
    assert not torch.equal(masks[0], masks[1])
    counts = masks.sum(-1)
    assert abs((counts > 0).float().mean().item() - 0.5) < 0.06
    hidden = counts[counts > 0]
    assert hidden.min() >= 6 and hidden.max() <= 32  # 0.1 and 0.5 of 64
    assert abs(hidden.float().mean().item() - 0.3 * 64) < 1.5


def test_the_student_does_not_see_what_is_hidden_and_the_teacher_does() -> None:
    method, batch = build(mask_probability=1.0), make_batch("ibot")
    method.eval()
    before = method.look(batch)
    cell = SIZE // 8
    for index, name in enumerate(LARGE):
        hidden = before.mask[index].view(-1, 1, 8, 8)
        pixels = hidden.repeat_interleave(cell, 2).repeat_interleave(cell, 3)
        batch["views"][name][0] = batch["views"][name][0].where(~pixels, 3.0)
    after = method.look(batch)
    torch.testing.assert_close(after.student[:2], before.student[:2])
    torch.testing.assert_close(after.student_patches, before.student_patches)
    assert (after.teacher - before.teacher).abs().max() > 1e-3


def distributions(method: IBOT, outputs: Tensor, *, teacher: bool, centre: str) -> Tensor:
    if not teacher:
        return (outputs / 0.1).log_softmax(-1)
    return ((outputs - method.get_buffer(centre)) / 0.04).softmax(-1)


@pytest.mark.parametrize("share_heads", [True, False])
def test_loss_is_that_of_images_and_of_hidden_patches_by_a_loop(share_heads: bool) -> None:
    method, batch = build(share_heads=share_heads, patch_weight=0.5), make_batch("ibot")
    method.eval()
    batch["valid"][[2, 5]] = False
    with torch.no_grad():
        method.center.normal_(std=0.1)
        method.get_buffer("patch_center").normal_(std=0.1)
    looked = method.look(batch)
    samples = [index for index in range(NUM_SAMPLES) if index not in (2, 5)]
    students = distributions(
        method, method.student_head(looked.student), teacher=False, centre="center"
    )
    teachers = distributions(
        method, method.teacher_head(looked.teacher), teacher=True, centre="center"
    )
    pairs = [(i, j) for i in range(2) for j in range(12) if i != j]
    of_images = [
        -(teachers[i, each] * students[j, each]).sum() for i, j in pairs for each in samples
    ]
    of_patches: list[Tensor] = []
    student_head, teacher_head = method.heads()[-1]
    for crop in range(2):
        for each in samples:
            losses = []
            for place in looked.mask[crop, each].nonzero().flatten().tolist():
                told = student_head(looked.student_patches[crop, each, place][None])
                wanted = teacher_head(looked.teacher_patches[crop, each, place][None])
                log_p = distributions(method, told, teacher=False, centre="")
                target = distributions(method, wanted, teacher=True, centre="patch_center")
                losses.append(-(target * log_p).sum())
            of_patches.append(torch.stack(losses).mean() if losses else torch.zeros(()))
    out = method(batch)
    torch.testing.assert_close(out["image_loss"], torch.stack(of_images).mean().detach())
    torch.testing.assert_close(out["patch_loss"], torch.stack(of_patches).mean().detach())
    torch.testing.assert_close(out["loss"].detach(), out["image_loss"] + 0.5 * out["patch_loss"])


def test_images_and_hidden_patches_have_a_centre_each_of_valid_samples() -> None:
    method, batch = build(center_momentum=0.75), make_batch("ibot")
    batch["valid"][[0, 3]] = False
    looked = method.look(batch)
    images = method.teacher_head(looked.teacher[:, batch["valid"]]).flatten(0, 1)
    counted = looked.mask & batch["valid"].view(1, -1, 1)
    patches = method.teacher_head(looked.teacher_patches[counted])
    method(batch)
    method.after_step(1, 10)
    torch.testing.assert_close(method.center, 0.25 * images.mean(0), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(
        method.get_buffer("patch_center"), 0.25 * patches.mean(0), rtol=1e-4, atol=1e-6
    )


def test_heads_are_one_or_two() -> None:
    names = {name.split(".")[0] for name, _ in build().named_parameters()}
    more = {name.split(".")[0] for name, _ in build(share_heads=False).named_parameters()}
    assert more - names == {"student_patch_head", "teacher_patch_head"}


def entropies_after_training(**settings: object) -> tuple[float, float]:
    """Mean entropy of the targets of images and of patches after some steps, as shares of a uniform
    one's."""
    method = build(momentum=0.95, center_momentum=0.8, freeze_fraction=0.0, **settings)
    optimizer = torch.optim.AdamW(method.parameters(), lr=1e-3)
    batch = make_batch("ibot")
    for step in range(15):  # of 30: the teacher still moves
        optimizer.zero_grad()
        out = method(batch)
        out["loss"].backward()
        optimizer.step()
        method.after_step(step + 1, 30)
    of_images = out["target_entropy"].item() / math.log(K)
    return of_images, out["patch_target_entropy"].item() / math.log(K)


@pytest.mark.slow
def test_without_centring_images_and_patches_have_one_prototype_and_unsharpened_all() -> None:
    for entropy in entropies_after_training():
        assert 0.2 < entropy < 0.95
    for entropy in entropies_after_training(centring="none"):
        assert entropy < 0.05
    flat = {"teacher_temperature": 5.0, "first_teacher_temperature": 5.0}
    for entropy in entropies_after_training(**flat):
        assert entropy > 0.999


def test_encoders_without_patch_tokens_and_ratios_in_disorder_are_refused() -> None:
    with pytest.raises(ValueError, match=r"resnet18_small gives no patch tokens.*name=ibot"):
        build(ENCODERS[0])
    with pytest.raises(ValueError, match=r"method\.mask_ratio must be two shares in \(0, 1\)"):
        build(mask_ratio=(0.5, 0.1))


def test_what_is_shown_is_the_crop_with_its_hidden_patches_grey() -> None:
    method, batch = build(mask_probability=1.0), make_batch("ibot")
    shown = method.show(batch)["student sees"]
    mask = method.masks(batch)[0]
    grey = functional.avg_pool2d((shown == 0.5).all(1).float()[:, None], SIZE // 8) == 1
    assert (grey.flatten(1) >= mask).all()
