"""jobs.reporting.sorted_grid: every image has a cell, and like lies beside like."""

import pytest
import torch
from torch.nn import functional

from jobs.reporting.sorted_grid import arrange


def four_kinds() -> tuple[torch.Tensor, torch.Tensor]:
    """Return 48 embeddings of four kinds in a random order, and each one's kind."""
    generator = torch.Generator().manual_seed(0)
    kind = torch.randperm(48, generator=generator) % 4
    noise = 0.1 * torch.randn(48, 16, generator=generator)
    return functional.normalize(torch.eye(16)[kind] + noise, dim=1), kind


def share_alike(kind: torch.Tensor) -> float:
    """Return the share of neighbours in a grid that are of one kind."""
    beside = (kind[:, 1:] == kind[:, :-1]).flatten()
    below = (kind[1:] == kind[:-1]).flatten()
    return float(torch.cat([beside, below]).float().mean())


def test_like_lies_beside_like() -> None:
    embeddings, kind = four_kinds()
    order = arrange(embeddings, num_columns=8)
    assert sorted(order.tolist()) == list(range(48))
    assert share_alike(kind.view(6, 8)) < 0.4
    assert share_alike(kind[order].view(6, 8)) > 0.65  # 0.83 in four full quarters


def test_the_same_embeddings_give_the_same_grid() -> None:
    embeddings, _ = four_kinds()
    assert arrange(embeddings, 8).equal(arrange(embeddings, 8))


@pytest.mark.parametrize("num_columns", [1, 2, 12], ids=["one column", "two columns", "one row"])
def test_collapsed_embeddings_keep_every_image_on_the_grid(num_columns: int) -> None:
    order = arrange(torch.ones(12, 4), num_columns)
    assert sorted(order.tolist()) == list(range(12))


def test_a_grid_that_is_not_full_is_refused() -> None:
    with pytest.raises(ValueError, match="10 images do not fill rows of 4"):
        arrange(torch.ones(10, 4), 4)
