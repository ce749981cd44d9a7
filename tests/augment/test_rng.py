"""augment.rng: the numbers are uniform, independent along every part of the key, and bound to the
key alone."""

import hashlib

import pytest
import torch
from torch import Tensor

from augment import rng
from augment.rng import uniform

NUM = 20_000


def draw(
    num: int = 1,
    *,
    seed: int = 0,
    epoch: Tensor | int = 0,
    sample_id: Tensor | int = 0,
    **key: object,
) -> Tensor:
    columns = torch.broadcast_tensors(torch.as_tensor(epoch), torch.as_tensor(sample_id))
    epochs, samples = (column.reshape(-1) for column in columns)
    return uniform(
        num,
        seed=seed,
        epoch=epochs,
        sample_id=samples,
        view=key.get("view", 0),
        op=key.get("op", "crop"),
    )


def along_each_part_of_the_key() -> dict[str, Tensor]:
    """NUM numbers for keys that differ in one part only, by one from each to the next."""
    steps = torch.arange(NUM)
    return {
        "sample_id": draw(sample_id=steps)[:, 0],
        "epoch": draw(epoch=steps)[:, 0],
        "view": draw(sample_id=torch.zeros(NUM, dtype=torch.int64), view=steps)[:, 0],
        "number": draw(NUM)[0],
        "op": torch.cat([draw(op=f"op{i}")[0] for i in range(NUM // 10)]),
        "seed": torch.cat([draw(seed=i)[0] for i in range(NUM // 10)]),
    }


SEQUENCES = along_each_part_of_the_key()


def chi_square_deviation(counts: Tensor) -> float:
    """Distance of the chi-square statistic of equally likely cells from its mean, in standard
    deviations."""
    expected = counts.sum() / counts.numel()
    statistic = ((counts - expected) ** 2 / expected).sum()
    freedom = counts.numel() - 1
    return float((statistic - freedom).abs() / (2 * freedom) ** 0.5)


def test_the_compiled_numbers_are_those_of_the_tensors_to_the_bit() -> None:
    keys = [
        torch.randint(-(2**63), 2**63 - 1, (500,), generator=torch.Generator().manual_seed(i))
        for i in range(3)
    ]
    keys[0][:3] = torch.tensor([0, -1, 2**63 - 1])
    for seed, op in ((0, "crop"), (7, "blur")):
        state = rng.state(seed=seed, epoch=keys[0], sample_id=keys[1], view=keys[2], op=op)
        assert torch.equal(state, rng._state_of_tensors(f"{seed}/{op}", *keys))
        numbers = rng.uniform_of(state, 25)
        assert numbers.dtype == torch.float32 and torch.equal(
            numbers, rng._uniform_of_tensor(state, 25)
        )


@pytest.mark.parametrize("part", SEQUENCES)
def test_numbers_are_uniform_along_each_part_of_the_key(part: str) -> None:
    u = SEQUENCES[part].double()
    assert u.min() >= 0 and u.max() < 1
    assert abs(u.mean() - 0.5) < 4 * (1 / 12 / len(u)) ** 0.5
    assert chi_square_deviation(torch.histc(u, bins=100, min=0, max=1)) < 4


@pytest.mark.parametrize("part", SEQUENCES)
def test_consecutive_keys_give_independent_pairs(part: str) -> None:
    u = SEQUENCES[part].double()
    for lag in (1, 2, 8):
        left, right = u[:-lag], u[lag:]
        assert abs(torch.corrcoef(torch.stack([left, right]))[0, 1]) < 4 / len(left) ** 0.5
    cells = (u[:-1:2] * 8).long() * 8 + (u[1::2] * 8).long()
    assert chi_square_deviation(torch.bincount(cells, minlength=64).double()) < 4


def test_views_ops_epochs_and_seeds_are_uncorrelated_over_the_same_samples() -> None:
    samples = torch.arange(NUM)
    columns = [
        draw(2, sample_id=samples, seed=seed, epoch=epoch, view=view, op=op)
        for seed in (0, 1)
        for epoch in (0, 1)
        for view in (0, 1)
        for op in ("crop", "blur")
    ]
    correlation = torch.corrcoef(torch.cat(columns, dim=1).T.double())  # (32, 32)
    off_diagonal = correlation - torch.eye(len(correlation))
    assert off_diagonal.abs().max() < 5 / NUM**0.5  # 496 pairs: 5 deviations


def test_parts_of_the_key_cannot_be_exchanged() -> None:
    assert draw(epoch=1, sample_id=2, view=3) != draw(epoch=2, sample_id=1, view=3)
    assert draw(epoch=1, sample_id=2, view=3) != draw(epoch=1, sample_id=3, view=2)


def test_every_bit_of_the_sample_id_flips_half_of_the_result() -> None:
    samples = torch.arange(2000) * 7919
    flipped = torch.stack([samples ^ (1 << bit if bit < 63 else -(2**63)) for bit in range(64)])
    before = (draw(sample_id=samples)[:, 0] * 2**24).long()
    after = (draw(sample_id=flipped)[:, 0] * 2**24).long().view(64, -1)
    # (24, 64)
    changed = torch.stack([((before ^ after) >> bit) & 1 for bit in range(24)]).double().mean(dim=2)
    assert (changed - 0.5).abs().max() < 0.06  # 5.4 deviations of 2000 coin tosses, 1536 of them


def test_a_row_does_not_depend_on_the_rest_of_the_batch() -> None:
    samples, epochs = torch.randint(-(2**62), 2**62, (64,)), torch.arange(64) % 3
    whole = draw(5, sample_id=samples, epoch=epochs)
    order = torch.randperm(64)
    assert torch.equal(draw(5, sample_id=samples[order], epoch=epochs[order]), whole[order])
    assert torch.equal(draw(5, sample_id=samples[7:8], epoch=epochs[7:8]), whole[7:8])


def test_a_longer_draw_begins_with_the_shorter_one() -> None:
    assert torch.equal(
        draw(9, sample_id=torch.arange(5))[:, :4], draw(4, sample_id=torch.arange(5))
    )


def test_one_view_for_all_rows_equals_a_view_per_row() -> None:
    samples = torch.arange(4)
    rows = draw(3, sample_id=samples, view=torch.tensor([0, 1, 0, 1]))
    assert torch.equal(rows[::2], draw(3, sample_id=samples, view=0)[::2])
    assert torch.equal(rows[1::2], draw(3, sample_id=samples, view=1)[1::2])


def test_tensor_arithmetic_equals_the_hash_in_unbounded_integers() -> None:
    mask = 2**64 - 1

    def mix(x: int) -> int:
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
        return x ^ (x >> 31)

    def naive(counter: int, seed: int, epoch: int, sample_id: int, view: int, op: str) -> float:
        state = int.from_bytes(
            hashlib.blake2b(f"{seed}/{op}".encode(), digest_size=8).digest(), "little"
        )
        for word in (epoch, sample_id, view, counter):
            state = mix((state + (word & mask) * 0x9E3779B97F4A7C15) & mask)
        return (state >> 40) / 2**24

    samples = [0, 1, -1, 2**63 - 1, -(2**63), 123456789012345]
    ours = draw(3, seed=5, epoch=2, sample_id=torch.tensor(samples), view=1, op="blur")
    assert ours.tolist() == [
        [naive(i, 5, 2, sample, 1, "blur") for i in (1, 2, 3)] for sample in samples
    ]


@pytest.mark.gpu
def test_cpu_and_cuda_agree_to_the_bit() -> None:
    samples = torch.randint(-(2**62), 2**62, (4096,))
    assert torch.equal(
        draw(16, sample_id=samples),
        draw(16, sample_id=samples.cuda(), epoch=torch.tensor(0).cuda()).cpu(),
    )


def test_draws_are_compiled_whole_and_stay_the_same() -> None:
    epoch, sample_id = torch.tensor([0, 3]), torch.tensor([-5, 1 << 40])

    def masks(epoch: Tensor, sample_id: Tensor) -> Tensor:
        return uniform(7, seed=1, epoch=epoch, sample_id=sample_id, view=2, op="mask").argsort(1)

    rng.let_compile()
    compiled = torch.compile(masks, fullgraph=True, backend="eager")
    assert compiled(epoch, sample_id).equal(masks(epoch, sample_id))
