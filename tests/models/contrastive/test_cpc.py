"""CPC: what the context sees, what the loss counts, and that patches know of each other in no other
way."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from augment.execution.patches import PatchChanges
from models.contrastive.cpc import CPC, CPCConfig, RowContext, encode_changed
from models.encoders.factory import EncoderConfig
from models.registry import build_method
from tests.small_methods import NUM_SAMPLES, SIZE, make_batch

PATCHES = EncoderConfig(name="resnet18_small", width=8, norm="none", patch_size=8, patch_stride=2)
HALF_OVERLAPPING = EncoderConfig(name="resnet18_small", width=8, norm="none", patch_size=8)
GRID = 5


def build(encoder: EncoderConfig = PATCHES, size: int = SIZE, **settings: object) -> CPC:
    config = CPCConfig(**{"context_dim": 16} | settings)  # type: ignore[arg-type]
    method = build_method(config, encoder, CPC.default_views(size), 0)
    assert isinstance(method, CPC)
    return method


def features_of(method: CPC) -> tuple[Tensor, Tensor]:
    batch = make_batch("cpc")
    images = batch["views"]["global_crops"][0]
    features = encode_changed(method.encoder, images, method.patches, batch, method.seed)
    return features, method.context(features)


def test_loss_finds_each_patch_below_among_all_patches_of_all_images_by_a_loop() -> None:
    method, batch = build(num_rows=2), make_batch("cpc")
    batch["valid"][3] = False
    features, context = (x.detach().double() for x in features_of(method))
    candidates = features[batch["valid"]].flatten(0, 2)
    losses = []
    for sample in batch["valid"].nonzero().flatten().tolist():
        for offset, weight in zip((2, 3), method.prediction.weights, strict=True):
            for row in range(GRID - offset):
                for column in range(GRID):
                    query = weight.weight.detach().double() @ context[sample, row, column]
                    found = query @ features[sample, row + offset, column]
                    losses.append(float((candidates @ query).logsumexp(0) - found))
    assert len(losses) == (NUM_SAMPLES - 1) * GRID * (3 + 2)
    assert method(batch)["loss"].item() == pytest.approx(sum(losses) / len(losses), rel=1e-4)


def test_knowing_nothing_costs_log_n_and_bounds_the_information_by_zero() -> None:
    method, batch = build(), make_batch("cpc")
    batch["valid"][:2] = False
    for weight in method.prediction.weights:
        nn.init.zeros_(weight.weight)
    out = method(batch)
    assert out["loss"].item() == pytest.approx(math.log((NUM_SAMPLES - 2) * GRID**2), rel=1e-5)
    assert out["info_nce_bound"].item() == pytest.approx(0.0, abs=1e-4)


@pytest.mark.parametrize("norm", [False, True])
def test_context_of_a_row_sees_the_rows_down_to_its_own_and_none_below(norm: bool) -> None:
    context = RowContext(8, 16, 5, norm=norm)
    features = torch.randn(2, GRID, GRID, 8)
    changed = features.clone()
    changed[:, 3, 2] = torch.randn(8)
    moved = (context(changed) - context(features)).abs().amax(dim=(0, 3)) > 0  # (rows, columns)
    assert not moved[:3].any()
    assert moved[3:].all()


def test_changing_a_patch_below_changes_no_context_above_it_in_the_whole_network() -> None:
    method = build(patches=PatchChanges())
    images = make_batch("cpc")["views"]["global_crops"][0]
    changed = images.clone()
    changed[:, :, 14:] = 0.0  # in row 4 of patches of 8 px every 2 px; row 3 ends there
    before, after = (
        method.context(method.encoder.encode(method.encoder.cut(x))) for x in (images, changed)
    )
    assert torch.equal(before[:, :4], after[:, :4])
    assert not torch.equal(before[:, 4], after[:, 4])


def test_an_image_is_a_grid_of_seven_by_seven_half_overlapping_patches() -> None:
    encoder = build(HALF_OVERLAPPING, 32).encoder
    images = torch.randn(2, 3, 32, 32)
    patches = encoder.cut(images)
    assert patches.shape == (2, 7, 7, 3, 8, 8)
    assert torch.equal(patches[1, 2, 5], images[1, :, 8:16, 20:28])
    one = encoder.patch_encoder(patches[:, 2, 5])
    torch.testing.assert_close(encoder.encode(patches)[:, 2, 5], one, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(encoder(images), encoder.encode(patches).mean(dim=(1, 2)))


def test_rows_are_predicted_up_to_five_ahead_and_not_the_overlapping_one() -> None:
    assert list(build(HALF_OVERLAPPING, 32).prediction.offsets) == [2, 3, 4, 5, 6]
    with pytest.raises(ValueError, match=r"method\.skip_rows=6"):
        build(HALF_OVERLAPPING, 32, skip_rows=6)


@pytest.mark.parametrize("norm", ["none", "layer"])
def test_no_batch_norm_is_anywhere(norm: str) -> None:
    method = build(PATCHES.model_copy(update={"norm": norm}))
    assert not any(isinstance(part, _BatchNorm) for part in method.modules())


@pytest.mark.parametrize(
    ("encoder", "match"),
    [
        (
            EncoderConfig(name="resnet18_small", width=8),
            r"does not encode patches.*method\.name=cpc needs that: set encoder\.patch_size",
        ),
        (
            EncoderConfig(name="resnet18_small", width=8, patch_size=8),
            r"batch norm.*encoder\.norm=layer",
        ),
    ],
)
def test_an_encoder_by_which_patches_would_know_of_each_other_is_refused(
    encoder: EncoderConfig, match: str
) -> None:
    with pytest.raises(ValueError, match=match):
        build(encoder)
