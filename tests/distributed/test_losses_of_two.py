from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from models.clustering.swav import sinkhorn
from models.collectives import rank, world_size
from models.joint_embedding.barlow_twins import barlow_twins_loss
from models.joint_embedding.dinov2 import koleo_loss
from models.joint_embedding.sigreg import random_directions, sigreg
from models.joint_embedding.vicreg import vicreg_terms
from models.losses import (
    contrastive,
    info_nce,
    lifted_structured,
    n_pairs,
    nce,
    nt_xent,
    soft_nearest_neighbour,
    triplet,
)
from tests.distributed.two_processes import TwoProcesses

_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "nt_xent": lambda z, valid: nt_xent(z, temperature=0.2, valid=valid),
    "info_nce": lambda z, valid: info_nce(z[0], z[1], temperature=0.2, valid=valid),
    "info_nce_with_decoys": lambda z, valid: info_nce(
        z[0], z[1], temperature=0.2, valid=valid, decoys=(z[1].flip(-1), z[0, :, 0] > -0.5)
    ),
    "nce": lambda z, valid: nce(z, temperature=0.2, valid=valid),
    "contrastive": lambda z, valid: contrastive(z, margin=1.5, valid=valid),
    "triplet_hard": lambda z, valid: triplet(z, margin=0.5, mining="hard", valid=valid),
    "triplet_semi_hard": lambda z, valid: triplet(z, margin=0.5, valid=valid),
    "lifted_structured": lambda z, valid: lifted_structured(z, margin=1.0, valid=valid),
    "n_pairs": lambda z, valid: n_pairs(z, valid=valid),
    "barlow_twins": lambda z, valid: barlow_twins_loss(*z, redundancy_weight=0.1, valid=valid),
    "vicreg": lambda z, valid: torch.stack(vicreg_terms(*z, valid)).sum(),
    "koleo": lambda z, valid: sum(koleo_loss(view, valid) for view in z),  # type: ignore[return-value]
    "sigreg": lambda z, valid: sigreg(
        z, valid, random_directions(8, 4, seed=0, step=torch.tensor(2))
    ),
    "soft_nearest_neighbour": lambda z, valid: soft_nearest_neighbour(
        z, temperature=2.0, valid=valid
    ),
}

_VALID = {
    "all": [True] * 6,
    "unevenly_many": [False, True, False, True, True, True],
    "none_on_one_worker": [False, False, False, True, True, True],
}


def project_and_contrast(name: str, valid: list[bool]) -> dict[str, Tensor]:
    """A linear projection trained by the loss: what reaches its weight is what DDP would give a
    method."""
    samples = torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mask = torch.tensor(valid)
    projection = torch.nn.Linear(5, 4, bias=False)
    torch.nn.init.normal_(projection.weight, generator=torch.Generator().manual_seed(1))
    network = projection
    if world_size() > 1:
        network = DistributedDataParallel(projection)
        mine = slice(3 * rank(), 3 * rank() + 3)
        samples, mask = samples[:, mine], mask[mine]
    z = network(samples.float())
    z.retain_grad()
    loss = _LOSSES[name](z, mask)
    loss.backward()
    return {
        "loss": loss.detach(),
        "grad_weight": projection.weight.grad,
        "grad_z": z.grad / world_size(),
    }


@pytest.mark.parametrize("valid", _VALID.values(), ids=_VALID.keys())
@pytest.mark.parametrize("name", _LOSSES)
def test_loss_of_two_processes_equals_one_with_the_joined_batch(
    two_processes: TwoProcesses, name: str, valid: list[bool]
) -> None:
    joined = project_and_contrast(name, valid)
    first, second = two_processes(project_and_contrast, name, valid)
    torch.testing.assert_close(
        (first["loss"] + second["loss"]) / 2, joined["loss"], rtol=1e-5, atol=1e-6
    )
    torch.testing.assert_close(
        torch.cat([first["grad_z"], second["grad_z"]], 1), joined["grad_z"], rtol=1e-4, atol=1e-6
    )
    for result in (first, second):
        torch.testing.assert_close(
            result["grad_weight"], joined["grad_weight"], rtol=1e-4, atol=1e-6
        )
    assert joined["grad_weight"].abs().max() > 1e-2


def contrast_without_mask() -> Tensor:
    z = torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(0))
    return nt_xent(z[:, 3 * rank() : 3 * rank() + 3] if world_size() > 1 else z, temperature=0.5)


def test_nt_xent_without_a_mask_is_each_workers_mean(two_processes: TwoProcesses) -> None:
    first, second = two_processes(contrast_without_mask)
    torch.testing.assert_close((first + second) / 2, contrast_without_mask(), rtol=1e-5, atol=1e-6)


def contrast_one_sample() -> Tensor:
    return nt_xent(torch.eye(4)[2 * rank() : 2 * rank() + 2, None], temperature=1.0)


def test_one_sample_a_worker_has_the_other_workers_as_negatives(
    two_processes: TwoProcesses,
) -> None:
    for loss in two_processes(contrast_one_sample):
        torch.testing.assert_close(loss, torch.tensor(3.0).log())


def balance() -> Tensor:
    scores = torch.rand(8, 4, generator=torch.Generator().manual_seed(0))
    weight = torch.tensor([1.0, 0, 1, 1, 0.5, 1, 1, 0])
    mine = slice(4 * rank(), 4 * rank() + 4) if world_size() > 1 else slice(None)
    return sinkhorn(scores[mine], weight[mine], epsilon=0.05, iterations=3)


def test_sinkhorn_balances_over_both_processes(two_processes: TwoProcesses) -> None:
    torch.testing.assert_close(torch.cat(two_processes(balance)), balance(), rtol=1e-4, atol=1e-6)
