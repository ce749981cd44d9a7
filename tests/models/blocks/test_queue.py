import pytest
import torch
from torch import Tensor

from models.blocks.queue import Queue


def numbered(*values: float) -> tuple[Tensor, Tensor]:
    rows = torch.tensor(values).unsqueeze(1).expand(-1, 2)
    return rows, torch.ones(len(rows), dtype=torch.bool)


def test_rows_are_kept_in_order_and_the_oldest_is_overwritten() -> None:
    queue = Queue(5, 2)
    queue.push(*numbered(1, 2, 3))
    assert queue.filled.tolist() == [True] * 3 + [False] * 2
    queue.push(*numbered(4, 5, 6))
    assert queue.rows[:, 0].tolist() == [6, 2, 3, 4, 5]
    assert queue.filled.all()


def test_an_empty_queue_holds_unit_vectors() -> None:
    assert torch.allclose(Queue(7, 3).rows.norm(dim=1), torch.ones(7))


def test_invalid_rows_take_no_place() -> None:
    queue = Queue(4, 2)
    rows, _ = numbered(1, 2, 3, 4)
    queue.push(rows, torch.tensor([False, True, False, True]))
    queue.push(rows, torch.zeros(4, dtype=torch.bool))
    queue.push(*numbered(5))
    assert queue.rows[:3, 0].tolist() == [2, 4, 5]
    assert queue.filled.tolist() == [True, True, True, False]


def test_more_rows_than_it_holds_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"method\.queue_size must be at least the global batch of 3 rows, got 2"
    ):
        Queue(2, 2).push(*numbered(1, 2, 3))
