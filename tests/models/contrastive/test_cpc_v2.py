"""CPC v2: four directions, each of which sees only its own side, and colours dropped patch by
patch."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from models.contrastive.cpc import encode_changed
from models.contrastive.cpc_v2 import CPCv2, CPCv2Config
from models.encoders.factory import EncoderConfig
from models.registry import build_method
from tests.small_methods import NUM_SAMPLES, SIZE, make_batch

GRID = 5


def build(**settings: object) -> CPCv2:
    encoder = EncoderConfig(
        name="resnet18_small", width=8, norm="layer", patch_size=8, patch_stride=2
    )
    config = CPCv2Config(**{"context_dim": 16, "context_layers": 2, "target_dim": 8} | settings)  # type: ignore[arg-type]
    method = build_method(config, encoder, CPCv2.default_views(SIZE), 0)
    assert isinstance(method, CPCv2)
    return method


def features_of(method: CPCv2) -> Tensor:
    batch = make_batch("cpc_v2")
    images = batch["views"]["global_crops"][0]
    return encode_changed(method.encoder, images, method.patches, batch, method.seed).detach()


def test_loss_is_the_mean_over_four_directions_by_a_loop() -> None:
    method, batch = build(num_rows=1), make_batch("cpc_v2")
    batch["valid"][5] = False
    features = features_of(method)
    candidates = method.target(features)[batch["valid"]].flatten(0, 2)
    # Where the context stands beside its target two places away: above, right, below, left of it.
    steps = [(-2, 0), (0, 2), (2, 0), (0, -2)]
    losses = []
    for turn, (row_step, column_step) in enumerate(steps):
        context = method.contexts[turn](features.rot90(turn, dims=(1, 2))).rot90(-turn, dims=(1, 2))
        weight = method.predictions[turn].weights[0]
        for row in range(GRID):
            for column in range(GRID):
                above, beside = row + row_step, column + column_step
                if 0 <= above < GRID and 0 <= beside < GRID:
                    scores = weight(context[:, above, beside]) @ candidates.T  # (B, N)
                    found = (
                        weight(context[:, above, beside]) * method.target(features[:, row, column])
                    ).sum(-1)
                    losses += (scores.logsumexp(-1) - found)[batch["valid"]].tolist()
    assert len(losses) == (NUM_SAMPLES - 1) * 4 * 3 * 5
    assert method(batch)["loss"].item() == pytest.approx(sum(losses) / len(losses), rel=1e-4)


def test_knowing_nothing_costs_log_n() -> None:
    method = build()
    nn.init.zeros_(method.target.weight)
    out = method(make_batch("cpc_v2"))
    assert out["loss"].item() == pytest.approx(math.log(NUM_SAMPLES * GRID**2), rel=1e-5)
    assert out["info_nce_bound"].item() == pytest.approx(0.0, abs=1e-4)


def test_each_direction_sees_its_own_side_and_the_target_line_never() -> None:
    method = build()
    features = features_of(method)
    for turn, hidden in enumerate(
        ("row 3 and below", "column 1 and left", "row 1 and above", "column 3 and right")
    ):
        changed = features.clone()
        part = {0: changed[:, 3:], 1: changed[:, :, :2], 2: changed[:, :2], 3: changed[:, :, 3:]}[
            turn
        ]
        part.copy_(torch.randn_like(part))
        before, after = (
            method.contexts[turn](x.rot90(turn, dims=(1, 2))) for x in (features, changed)
        )
        assert torch.equal(before[:, :3], after[:, :3]), hidden
        assert not torch.equal(before[:, 3:], after[:, 3:]), hidden


@pytest.mark.parametrize(("num_directions", "turns"), [(1, (0,)), (2, (0, 2)), (4, (0, 1, 2, 3))])
def test_directions_have_networks_of_their_own(num_directions: int, turns: tuple[int, ...]) -> None:
    method = build(num_directions=num_directions)
    assert (
        method.turns == turns and len(method.contexts) == len(method.predictions) == num_directions
    )


def test_a_patch_left_with_one_channel_is_blank_in_the_others() -> None:
    method, seen = build(), []
    method.encoder.patch_encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    method(make_batch("cpc_v2"))
    channels = seen[0].abs().amax(dim=(2, 3)).gt(0).sum(dim=1)  # (B * G * G,)
    assert 0.7 < (channels == 1).float().mean() < 0.9


def test_no_batch_norm_is_anywhere() -> None:
    assert not any(isinstance(part, _BatchNorm) for part in build().modules())
