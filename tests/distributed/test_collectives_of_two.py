import torch

from models.collectives import all_reduce_sum, broadcast, gather, rank, world_size
from tests.distributed.two_processes import TwoProcesses


def rows_of(worker: int) -> torch.Tensor:
    return torch.arange(6, dtype=torch.float64).reshape(2, 3) + 10 * (worker + 1)


def gather_and_differentiate() -> dict[str, torch.Tensor]:
    x = rows_of(rank()).requires_grad_()
    joined = gather(x)
    # Each worker weighs the joined rows its own way, so that a gradient kept local, or averaged, is
    # another number.
    (joined * (1 + rank()) * torch.arange(4.0, dtype=torch.float64)[:, None]).sum().backward()
    return {"joined": joined.detach(), "grad": x.grad, "flags": gather(torch.tensor([rank() == 0]))}


def all_reduce_and_differentiate() -> dict[str, torch.Tensor]:
    x = rows_of(rank()).requires_grad_()
    total = all_reduce_sum(x)
    (total * (1 + rank())).sum().backward()
    return {"total": total.detach(), "grad": x.grad, "x": x.detach()}


def gather_a_transposed_tensor() -> torch.Tensor:
    return gather(rows_of(rank()).T)


def broadcast_a_transposed_tensor() -> dict[str, torch.Tensor]:
    x = rows_of(rank())
    return {"received": broadcast(x.T), "x": x}


def place() -> list[int]:
    return [rank(), world_size()]


def test_each_process_knows_its_place(two_processes: TwoProcesses) -> None:
    assert two_processes(place) == [[0, 2], [1, 2]]


def test_gather_joins_rows_in_rank_order_on_both(two_processes: TwoProcesses) -> None:
    for result in two_processes(gather_and_differentiate):
        assert torch.equal(result["joined"], torch.cat([rows_of(0), rows_of(1)]))
        assert result["flags"].tolist() == [True, False]


def test_gradient_of_gather_is_that_of_the_sum_of_both_losses(two_processes: TwoProcesses) -> None:
    first, second = two_processes(gather_and_differentiate)
    assert torch.equal(first["grad"], torch.tensor([[0.0] * 3, [3.0] * 3], dtype=torch.float64))
    assert torch.equal(second["grad"], torch.tensor([[6.0] * 3, [9.0] * 3], dtype=torch.float64))


def test_gather_takes_a_tensor_that_is_not_contiguous(two_processes: TwoProcesses) -> None:
    for result in two_processes(gather_a_transposed_tensor):
        assert torch.equal(result, torch.cat([rows_of(0).T, rows_of(1).T]))


def test_all_reduce_sums_and_its_gradient_reaches_both(two_processes: TwoProcesses) -> None:
    for worker, result in enumerate(two_processes(all_reduce_and_differentiate)):
        assert torch.equal(result["total"], rows_of(0) + rows_of(1))
        assert torch.equal(result["grad"], torch.full((2, 3), 3.0, dtype=torch.float64))
        assert torch.equal(result["x"], rows_of(worker))


def test_broadcast_gives_both_the_first_worker_s_values_and_leaves_theirs(
    two_processes: TwoProcesses,
) -> None:
    for worker, result in enumerate(two_processes(broadcast_a_transposed_tensor)):
        assert torch.equal(result["received"], rows_of(0).T)
        assert torch.equal(result["x"], rows_of(worker))
