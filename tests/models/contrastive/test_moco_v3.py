"""MoCo v3: both directions against the teacher's keys, and the patch embedding that waits."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from augment.presets import byol_views
from models.contrastive.moco_v3 import MoCoV3, MoCoV3Config
from models.registry import build_method
from tests.small_methods import ENCODERS, NUM_SAMPLES, SIZE, make_batch

RESNET, VIT = ENCODERS[:2]


def build(encoder=RESNET, **settings: float | bool) -> MoCoV3:  # type: ignore[no-untyped-def]
    config = MoCoV3Config(**{"hidden_dim": 32, "projection_dim": 16} | settings)  # type: ignore[arg-type]
    method = build_method(config, encoder, byol_views(SIZE), 0)
    assert isinstance(method, MoCoV3)
    return method


def test_loss_is_scaled_cross_entropy_of_both_directions_against_the_teachers_keys() -> None:
    method, batch = build(temperature=0.5), make_batch("moco_v3")
    views = [batch["views"][group][0] for group in ("global_crops_1", "global_crops_2")]

    def queries(view: Tensor) -> Tensor:
        return functional.normalize(
            method.prediction_head(method.projection_head(method.encoder(view))), dim=1
        )

    keys = [functional.normalize(method.teacher(view), dim=1) for view in views]
    target = torch.arange(NUM_SAMPLES)
    losses = [
        functional.cross_entropy(queries(views[i]) @ keys[1 - i].T / 0.5, target) for i in range(2)
    ]
    torch.testing.assert_close(
        method(batch)["loss"], 2 * 0.5 * (losses[0] + losses[1]), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("freeze", [True, False])
def test_a_transformers_patch_embedding_stays_random_unless_asked_otherwise(freeze: bool) -> None:
    method = build(VIT, freeze_patch_embed=freeze)
    method(make_batch("moco_v3"))["loss"].backward()
    found = {parameter.requires_grad for parameter in method.encoder.vit.patch_embed.parameters()}
    assert found == {not freeze}
    assert (method.encoder.vit.patch_embed.proj.weight.grad is None) == freeze


def test_heads_are_the_authors_for_either_kind_of_encoder() -> None:
    def norms(head: nn.Sequential) -> int:
        return sum(isinstance(layer, nn.BatchNorm1d) for layer in head)

    for_resnet, for_vit = build(projection_layers=2), build(VIT)
    assert (norms(for_resnet.projection_head), norms(for_resnet.prediction_head)) == (2, 1)
    assert (norms(for_vit.projection_head), norms(for_vit.prediction_head)) == (3, 2)
