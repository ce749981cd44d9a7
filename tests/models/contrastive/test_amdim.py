"""AMDIM: which places are told apart, what clipping and cost do, and how far a place sees."""

import math

import pytest
import torch
from torch import Tensor, nn

from models.contrastive.amdim import AMDIM, AMDIMConfig, local_nce
from models.encoders.factory import EncoderConfig, build_encoder
from models.encoders.local_global import LocalGlobalEncoder
from models.registry import build_method
from tests.small_methods import NUM_SAMPLES, SIZE, make_batch


def build(**settings: float) -> AMDIM:
    config = AMDIMConfig(**{"score_dim": 16} | settings)  # type: ignore[arg-type]
    method = build_method(
        config, EncoderConfig(name="amdim", width=8), AMDIM.default_views(SIZE), 0
    )
    assert isinstance(method, AMDIM)
    return method


def scores_of(source: Tensor, targets: Tensor, sample: int, other: int, place: int) -> float:
    return float(source[sample] @ targets[other, place]) / math.sqrt(source.shape[1])


def test_nce_finds_each_place_among_the_places_of_other_valid_samples_by_a_loop() -> None:
    source, targets = torch.randn(5, 6), torch.randn(5, 4, 6)
    valid = torch.tensor([True, True, False, True, True])
    loss, cost = local_nce(source, targets, valid, clip=2.0)
    for sample in valid.nonzero().flatten().tolist():
        losses, squares = [], []
        for place in range(4):
            clipped = [2 * math.tanh(scores_of(source, targets, sample, sample, place) / 2)]
            for other in (0, 1, 3, 4):
                squares.append(scores_of(source, targets, sample, other, place) ** 2)
                if other != sample:
                    clipped += [
                        2 * math.tanh(scores_of(source, targets, sample, other, p) / 2)
                        for p in range(4)
                    ]
            losses.append(math.log(sum(math.exp(s) for s in clipped)) - clipped[0])
        assert loss[sample].item() == pytest.approx(sum(losses) / 4, rel=1e-5)
        assert cost[sample].item() == pytest.approx(sum(squares) / 16, rel=1e-5)


def test_knowing_nothing_costs_the_log_of_the_candidates_of_three_tasks() -> None:
    method, batch = build(), make_batch("amdim")
    batch["valid"][:2] = False
    for parameter in method.heads.parameters():
        nn.init.zeros_(parameter)
    others = NUM_SAMPLES - 3
    expected = math.log(1 + 49 * others) + 2 * math.log(1 + 25 * others)
    out = method(batch)
    assert out["loss"].item() == pytest.approx(expected, rel=1e-5)
    assert out["score_cost"].item() == 0.0


def test_exchanging_the_views_changes_nothing_but_the_drawn_places() -> None:
    method, batch = build(), make_batch("amdim")
    method.eval()
    of_7, _, of_1 = method.encoder.scales(batch["views"]["global_crops"].flatten(0, 1))
    local, whole = (
        method.heads[0](of_7).unflatten(0, (2, -1)),
        method.heads[2](of_1).unflatten(0, (2, -1))[:, :, 0],
    )
    forth, back = (local_nce(whole[i], local[1 - i], batch["valid"], clip=20.0)[0] for i in (0, 1))
    flipped = local_nce(whole.flip(0)[1], local.flip(0)[0], batch["valid"], clip=20.0)[0]
    assert torch.equal(flipped, forth) and not torch.equal(forth, back)


def test_scores_are_cut_at_the_clip_and_large_ones_cost() -> None:
    source, targets = (
        torch.full((2, 4), 100.0),
        torch.stack([torch.full((1, 4), 100.0), torch.full((1, 4), -100.0)]),
    )
    loss, cost = local_nce(source, targets, torch.ones(2, dtype=torch.bool), clip=3.0)
    # its positive is at -3, the negative at 3
    assert loss[1].item() == pytest.approx(6.0, abs=0.01)
    assert cost.min() > 1e6
    plain, dear = build(cost=0.0)(make_batch("amdim")), build(cost=0.5)(make_batch("amdim"))
    assert dear["loss"].item() - plain["loss"].item() == pytest.approx(
        dear["score_cost"].item(), rel=1e-3
    )


@pytest.mark.parametrize(("size", "of_7", "of_5"), [(16, 4, 8), (32, 8, 16), (64, 16, 32)])
def test_a_place_sees_a_known_square_of_the_image_and_the_last_one_everything(
    size: int, of_7: int, of_5: int
) -> None:
    encoder = build_encoder(EncoderConfig(name="amdim", width=8), size).eval()
    assert isinstance(encoder, LocalGlobalEncoder)
    images = torch.randn(4, 3, size, size, requires_grad=True)
    maps = encoder.scales(images)
    assert [features.shape[1:] for features in maps] == [(32, 7, 7), (32, 5, 5), (64, 1, 1)]
    for features, place, side in ((maps[0], 3, of_7), (maps[1], 2, of_5), (maps[2], 0, size)):
        (gradient,) = torch.autograd.grad(
            features[:, :, place, place].sum(), images, retain_graph=True
        )
        seen = gradient.abs().sum((0, 1)) > 0
        assert seen.any(0).sum() == side and seen.any(1).sum() == side


def test_sizes_and_encoders_without_such_grids_are_refused() -> None:
    with pytest.raises(
        ValueError,
        match=r"views\.size must be 16, 32, 64, 128 or 256 for encoder\.name=amdim, got 48",
    ):
        build_encoder(EncoderConfig(name="amdim"), 48)
    with pytest.raises(ValueError, match=r"encoder\.name=resnet18_small has no feature grids"):
        build_method(AMDIMConfig(), EncoderConfig(width=8), AMDIM.default_views(SIZE), 0)
