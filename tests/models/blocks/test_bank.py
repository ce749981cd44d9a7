import pytest
import torch

from models.blocks.bank import Bank, check_room


def bank_of(num_rows: int) -> Bank:
    bank = Bank(2)
    bank.grow(torch.arange(2.0 * num_rows).reshape(num_rows, 2))
    return bank


def test_valid_rows_are_written_and_no_others() -> None:
    bank = bank_of(6)
    before = bank.rows.clone()
    bank.put(torch.tensor([4, 0, 2]), torch.full((3, 2), -1.0), torch.tensor([True, False, True]))
    assert bank.filled.tolist() == [False, False, True, False, True, False]
    assert (bank.rows[bank.filled] == -1).all() and torch.equal(
        bank.rows[~bank.filled], before[~bank.filled]
    )


def test_of_a_row_that_is_there_twice_the_last_valid_one_is_kept() -> None:
    bank = bank_of(4)
    row = torch.tensor([3, 1, 3, 3, 1])
    values = torch.arange(5.0).unsqueeze(1).expand(5, 2) - 10
    bank.put(row, values, torch.tensor([True, True, True, False, True]))
    assert bank.rows[3].tolist() == [-8.0, -8.0] and bank.rows[1].tolist() == [-6.0, -6.0]
    assert bank.filled.tolist() == [False, True, False, True]


def test_growing_keeps_what_is_there() -> None:
    bank = bank_of(3)
    bank.put(torch.tensor([1]), torch.ones(1, 2), torch.tensor([True]))
    bank.grow(torch.zeros(2, 2))
    assert bank.rows.tolist() == [[0, 1], [1, 1], [4, 5], [0, 0], [0, 0]]
    assert bank.filled.tolist() == [False, True, False, False, False]


@pytest.mark.parametrize("known", [0, 3, 7])
def test_a_bank_is_restored_at_the_size_it_was_saved_with(known: int) -> None:
    saved, other = bank_of(5), bank_of(known)
    saved.put(torch.tensor([4]), torch.ones(1, 2), torch.tensor([True]))
    other.load_state_dict(saved.state_dict())
    assert torch.equal(other.rows, saved.rows) and torch.equal(other.filled, saved.filled)


def test_more_rows_than_there_is_room_for_are_refused_with_what_to_do() -> None:
    check_room(10, 10)
    with pytest.raises(
        ValueError, match=r"its 11 rows are more than method\.max_rows=10 .*raise it"
    ):
        check_room(11, 10)
