"""Which clusters of a price table hold a run, in which order, and why one is not the best."""

from pathlib import Path

import pytest
import yaml

from jobs.estimating.cluster_shapes import Priced, Sizes, priced, ranked, reasons
from jobs.estimating.price_table import PriceTable, read_prices
from jobs.setup.failures import InputError
from tests.jobs.estimating.test_time_model import GPU, WORK

SIZES = Sizes(row_bytes=1_000, item_rows=1_000, accumulate=1, fewest=2)
EXAMPLE = Path(__file__).parents[3] / "deploy" / "prices.yaml"


def table(**nodes: dict[str, float]) -> PriceTable:
    return PriceTable.model_validate({"source": "made up", "date": "today", "nodes": nodes})


def names(found: list[Priced]) -> list[str]:
    return [one.shape.name for one in found]


def test_nodes_that_decode_are_added_until_training_limits() -> None:
    prices = table(
        gpu={"cpus": 3, "gpus": 1, "memory_gib": 16, "dollars_per_hour": 1, "most": 2},
        cpu={"cpus": 2, "memory_gib": 16, "dollars_per_hour": 0.1, "most": 4},
    )
    found = priced(WORK, GPU, SIZES, prices)
    # 5 cores for a GPU are wanted, and 2 of its node are left
    assert names(found) == ["1 x gpu", "1 x gpu + 2 x cpu", "2 x gpu", "2 x gpu + 3 x cpu"]
    assert [one.time.step.limit for one in found] == ["decoding", "training"] * 2
    best, other, *_ = ranked(found, max_hours=None, spot=False)
    assert best.shape.name == "2 x gpu + 3 x cpu"
    assert best.dollars == pytest.approx(best.time.seconds / 3600 * 2.3)
    assert other.dollars > best.dollars
    assert "dearer" in reasons(best, other, spot=False)


def test_a_deadline_comes_before_the_price_and_spot_may_decide() -> None:
    prices = table(
        slow={"cpus": 8, "gpus": 1, "memory_gib": 16, "dollars_per_hour": 1, "most": 1},
        fast={
            "cpus": 32,
            "gpus": 1,
            "memory_gib": 16,
            "dollars_per_hour": 9,
            "spot_dollars_per_hour": 0.5,
            "speed": 4,
            "most": 1,
        },
    )
    found = priced(WORK, GPU, SIZES, prices)
    assert names(ranked(found, max_hours=None, spot=False)) == ["1 x slow", "1 x fast"]
    assert names(ranked(found, max_hours=0.3, spot=False)) == ["1 x fast", "1 x slow"]
    assert names(ranked(found, max_hours=None, spot=True)) == ["1 x fast", "1 x slow"]


def test_a_shape_that_cannot_hold_the_run_is_left_out() -> None:
    node = {"gpus": 1, "memory_gib": 16.0, "dollars_per_hour": 1.0, "most": 8.0}
    assert names(priced(WORK, GPU, SIZES, table(gpu={"cpus": 1} | node))) == []
    third = {"cpus": 32, "gpus": 3} | {k: v for k, v in node.items() if k != "gpus"}
    assert names(priced(WORK, GPU, SIZES, table(three=third))) == []  # 1000 does not divide
    small = {"cpus": 8} | node | {"memory_gib": 0.001}
    assert names(priced(WORK, GPU, SIZES, table(small=small))) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"nodes": {"a": {"cpus": 8, "gpus": 1}}}, "nodes.a.memory_gib is missing: add it"),
        (
            {"nodes": {"a": {"cpus": 8, "memory_gib": 1, "dollar_per_hour": 1}}},
            "unknown key nodes.a.dollar_per_hour: the nearest known one is dollars_per_hour",
        ),
        ({"storage": {"dollars_per_1000_reads": -1}}, r"dollars_per_1000_reads: .*0, got -1"),
        ({"nodes": {}}, "nodes: .*at least 1"),
    ],
)
def test_a_mistake_in_a_price_file_is_one_line(
    change: dict[str, object], said: str, tmp_path: Path
) -> None:
    values = yaml.safe_load(EXAMPLE.read_text()) | change
    file = tmp_path / "prices.yaml"
    file.write_text(yaml.safe_dump(values))
    with pytest.raises(InputError, match=said) as raised:
        read_prices(str(file))
    assert str(raised.value).startswith(f"prices {file}: ")
    assert "\n" not in str(raised.value)


def test_the_example_says_that_its_prices_are_made_up() -> None:
    assert "made up" in read_prices(str(EXAMPLE)).source
