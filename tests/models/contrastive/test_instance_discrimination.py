"""Instance discrimination: what is drawn from the bank, what the loss makes of it, and what the
bank holds after."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from augment import rng
from jobs.setup.command_line import parse
from jobs.training.run_config import complete_pretrain
from models.contrastive.instance_discrimination import (
    InstanceDiscrimination,
    InstanceDiscriminationConfig,
    nce_against_noise,
)
from models.method import Batch
from models.registry import build_method
from tests.small_methods import ENCODERS, NUM_ROWS, NUM_SAMPLES, SIZE, make_batch

NAME = "instance_discrimination"


def test_the_views_are_those_of_moco_v1s_recipe_but_for_their_number() -> None:
    words = ["moco_v1_resnet50_imagenet", "source.uri=/a", "out=/b"]
    (of_moco,) = parse(complete_pretrain, words).views.groups.values()
    (group,) = InstanceDiscrimination.default_views(224).groups.values()
    assert group.blur is None and group.color_jitter is not None and group.color_jitter.p == 1.0
    assert of_moco == group.model_copy(update={"count": 2})


def build(num_rows: int = NUM_ROWS, seed: int = 0, **settings: float) -> InstanceDiscrimination:
    config = InstanceDiscriminationConfig(**{"num_noise": 16, "projection_dim": 8} | settings)  # type: ignore[arg-type]
    method = build_method(config, ENCODERS[0], InstanceDiscrimination.default_views(SIZE), seed)
    assert isinstance(method, InstanceDiscrimination)
    method.expect_rows(num_rows)
    return method


def embed(method: InstanceDiscrimination, batch: Batch) -> Tensor:
    with torch.no_grad():
        z = method.projection_head(method.encoder(batch["views"]["global_crops"][0]))
    return functional.normalize(z, dim=1)


def noise_of(method: InstanceDiscrimination, batch: Batch, index: int, num_noise: int) -> list[int]:
    """Rows of the bank that a sample is told from, from the definition of the draw."""
    keys = {
        "epoch": batch["epoch"][index : index + 1],
        "sample_id": batch["sample_id"][index : index + 1],
    }
    u = rng.uniform(num_noise, seed=method.seed, view=0, op="noise", **keys)
    return [math.floor(value * len(method.bank.rows)) for value in u[0].tolist()]


def naive(
    method: InstanceDiscrimination, batch: Batch, log_mean: float | None
) -> tuple[float, float]:
    """The loss by a loop over samples and draws, and the log of the mean exponential that stands
    for Z / n."""
    config, z, bank = method.settings, embed(method, batch), method.bank
    samples = [index for index in range(len(z)) if batch["valid"][index]]
    scores = {}
    for index in samples:
        rows = [int(batch["row"][index]), *noise_of(method, batch, index, config.num_noise)]
        scores[index] = [float(z[index] @ bank.rows[row]) / config.temperature for row in rows]
    if log_mean is None:
        everything = [math.exp(score) for row in scores.values() for score in row]
        log_mean = math.log(sum(everything) / len(everything))
    losses = []
    for index in samples:
        # P(i | v) = exp(score) / Z with Z = n * mean, against noise of probability 1 / n.
        model = [math.exp(score - log_mean) for score in scores[index]]
        found = [p / (p + config.num_noise) for p in model]
        row = int(batch["row"][index])
        moved = float((z[index] - bank.rows[row]).square().sum()) if bank.filled[row] else 0.0
        nce = -math.log(found[0]) - sum(math.log(1 - p) for p in found[1:])
        losses.append(nce + config.proximal_weight * moved)
    return sum(losses) / len(losses), log_mean


def step(method: InstanceDiscrimination, batch: Batch, number: int = 1) -> dict[str, Tensor]:
    out = method(batch)
    method.after_step(number, 10)
    return out


# all similarities, or only those of the chosen rows
@pytest.mark.parametrize("num_rows", [NUM_ROWS, 500])
def test_loss_is_that_of_a_loop_at_first_visits_and_later(num_rows: int) -> None:
    method, batch, later = build(num_rows), make_batch(NAME), make_batch(NAME, epoch=1)
    for kind in (batch, later):
        kind["valid"][3] = False
    expected, log_mean = naive(method, batch, None)
    assert step(method, batch)["loss"].item() == pytest.approx(expected, rel=1e-4)
    expected, _ = naive(method, later, log_mean)  # Z stays, the proximal term begins
    out = method(later)
    assert out["loss"].item() == pytest.approx(expected, rel=1e-4)
    assert (
        out["loss"].item()
        > out["nce"].item() + method.settings.proximal_weight * 0.9 * out["proximal"].item()
        > 0
    )


def test_at_chance_the_loss_is_that_of_equal_scores() -> None:
    expected = math.log(4097) + 4096 * math.log(1 + 1 / 4096)
    assert nce_against_noise(torch.zeros(2, 4097)).tolist() == pytest.approx(
        [expected] * 2, rel=1e-5
    )


def test_the_order_of_the_noise_does_not_matter() -> None:
    scores = torch.randn(3, 9, generator=torch.Generator().manual_seed(0))
    shuffled = torch.cat([scores[:, :1], scores[:, 1:].flip(1)], dim=1)
    torch.testing.assert_close(nce_against_noise(shuffled), nce_against_noise(scores))


def test_z_is_estimated_over_the_first_steps_and_then_stays() -> None:
    method, found = build(z_steps=2), []
    for number in range(4):
        batch = make_batch(NAME, epoch=number)
        found.append(naive(method, batch, None)[1])
        step(method, batch, number + 1)
        assert int(method.num_z) == min(number + 1, 2)
    assert method.log_z.item() == pytest.approx(
        math.log((math.exp(found[0]) + math.exp(found[1])) / 2), rel=1e-4
    )


def test_entries_are_the_embedding_at_first_and_then_move_half_of_the_way() -> None:
    method, batch, later = build(), make_batch(NAME), make_batch(NAME, epoch=1)
    batch["valid"][3] = False
    start, z = method.bank.rows.clone(), embed(method, batch)
    method(batch)
    assert torch.equal(method.bank.rows, start)  # not before the step is made
    method.after_step(1, 10)
    row, valid = batch["row"], batch["valid"]
    torch.testing.assert_close(method.bank.rows[row[valid]], z[valid])
    others = torch.ones(NUM_ROWS, dtype=torch.bool)
    others[row[valid]] = False
    assert torch.equal(method.bank.rows[others], start[others]) and torch.equal(
        method.bank.filled, ~others
    )
    second = embed(method, later)
    step(method, later, 2)
    torch.testing.assert_close(
        method.bank.rows[row[valid]], functional.normalize((z + second)[valid], dim=1)
    )
    torch.testing.assert_close(method.bank.rows[row[3]], second[3])  # its first visit
    torch.testing.assert_close(method.bank.rows.norm(dim=1), torch.ones(NUM_ROWS))


def test_noise_is_uniform_over_the_bank_and_keyed_by_sample_and_epoch() -> None:
    method, batch = build(num_noise=4000), make_batch(NAME)
    noise = method._noise(batch)
    assert noise.shape == (NUM_SAMPLES, 4000)
    share = torch.bincount(noise.flatten(), minlength=NUM_ROWS) / noise.numel()
    assert len(share) == NUM_ROWS and share.sub(1 / NUM_ROWS).abs().max() < 0.005
    alone = Batch(**{key: value[4:5] for key, value in batch.items() if key != "views"}, views={})  # type: ignore[typeddict-item]
    assert torch.equal(method._noise(alone)[0], noise[4])
    assert not torch.equal(method._noise(make_batch(NAME, epoch=1)), noise)


def test_a_grown_bank_equals_one_that_was_as_large_from_the_start() -> None:
    method, large = build(5), build(40)
    first = method.bank.rows.clone()
    method.expect_rows(40)
    assert torch.equal(method.bank.rows[:5], first) and torch.equal(
        method.bank.rows, large.bank.rows
    )
    method.expect_rows(40)
    assert len(method.bank.rows) == 40
    assert not torch.equal(build(40, seed=1).bank.rows, large.bank.rows)


def test_a_run_goes_on_exactly_when_the_manifest_has_grown() -> None:
    method, resumed = build(), build(0, seed=1)
    step(method, make_batch(NAME))
    resumed.load_state_dict(method.state_dict())
    resumed.seed = method.seed
    for run in (method, resumed):
        run.expect_rows(NUM_ROWS + 10)
        assert len(run.bank.rows) == NUM_ROWS + 10 and int(run.bank.filled.sum()) == NUM_SAMPLES
    batch = make_batch(NAME, epoch=1)
    batch["row"][0] = NUM_ROWS + 9
    assert step(method, batch)["loss"].item() == step(resumed, batch)["loss"].item()
    assert all(
        torch.equal(a, b)
        for a, b in zip(method.state_dict().values(), resumed.state_dict().values(), strict=True)
    )


def test_a_corpus_larger_than_max_rows_is_refused() -> None:
    InstanceDiscriminationConfig(max_rows=50).check_rows(50)
    with pytest.raises(ValueError, match=r"51 rows .*method\.max_rows=50"):
        InstanceDiscriminationConfig(max_rows=50).check_rows(51)
