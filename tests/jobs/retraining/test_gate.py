"""jobs.retraining: what the gate and the decision before it make of figures."""

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from jobs.retraining import deciding, gate
from jobs.retraining.gate import decay_figure, judge_candidate
from jobs.retraining.looks import Sampled
from jobs.retraining.retrain_sections import RetrainingConfig, complete
from jobs.setup.command_line import parse
from pipelines.retraining.twice_seen import Seen

WORDS = (
    *("simclr_small", "registry=/r", "name=encoder", "source.uri=/c", "slot=1", "num_steps=5"),
    "retrain.min_recognised=0",
)


def seen(embeddings: torch.Tensor) -> Seen:
    """What a look gave where a slight change changes little."""
    plain = embeddings.numpy()
    read = np.ones(len(plain), bool)
    return Seen(read, np.zeros(len(plain), np.uint8), plain, plain + np.float32(1e-3))


def test_an_encoder_that_tells_samples_apart_worse_is_kept_out_with_every_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = [f"/corpus/{'ab'[number % 2]}/{number}.jpg" for number in range(80)]
    rows = pa.table({"uri": names, "member": pa.nulls(80, pa.string())})
    own = torch.randn(80, 16, generator=torch.Generator().manual_seed(0))
    looks = {"champion": seen(own), "alike": seen(2 * own), "worse": seen(own[:1].expand(80, 16))}
    monkeypatch.setattr(gate, "look", lambda config, manifest, held, place, session: looks[place])
    found = {
        place: judge_candidate(
            parse(complete, list(WORDS)),
            SimpleNamespace(num_new=40, manifest=None),  # type: ignore[arg-type]
            Sampled(rows, 40),
            candidate=place,
            champion="champion",
            last_line={"health_spread": 0.01 if place == "worse" else 0.9},
            session=None,  # type: ignore[arg-type]
        )
        for place in ("alike", "worse")
    }
    assert found["alike"].passed and found["alike"].probe is None
    slices = {f"slice {one} (40)" for one in ("old samples", "new samples", "a", "b")}
    assert {figure.name for figure in found["worse"].figures if not figure.passed} == slices | {
        "spread while training",
        "held-out samples recognised",
        "effective rank (RankMe)",
    }
    assert len(found["worse"].why) == 7 and not found["worse"].passed


@pytest.mark.parametrize(
    ("looked", "name", "figure", "passed"),
    [
        ({"health_spread": 0.9, "health_variation": 0.5}, "spread", 0.9, True),
        ({"health_spread": 0.01, "health_variation": 0.5}, "spread", 0.01, False),
        ({"health_variation": 0.5}, "variation", 0.5, True),
        ({"health_variation": 0.0}, "variation", 0.0, False),
        ({"health_step": 5.0}, "variation", None, False),
        ({"health_variation": 0.5, "health_unmeasured": 1.0}, "variation", 0.5, False),
        ({"health_spread": 0.9, "health_spread_captions": 0.01}, "spread", 0.9, False),
    ],
)
def test_the_gate_judges_by_what_the_last_look_measured(
    looked: dict[str, float], name: str, figure: float | None, passed: bool
) -> None:
    values = {"method": {"name": "simclr"}, "num_steps": 1, "source": {"uri": "/a"}, "out": "/b"}
    values |= {"registry": "/r", "name": "n", "slot": "1"}
    kind, completed = complete(values)
    judged = gate._healthy(kind.model_validate(completed), looked)
    assert (judged.name, judged.passed) == (f"{name} while training", passed)
    assert judged.value == figure or (figure is None and math.isnan(judged.value))


def test_new_samples_far_from_the_old_ones_or_in_a_cluster_of_their_own_want_a_person() -> None:
    wanted = RetrainingConfig(max_distance=0.1, max_shift=0.2)
    near = {"distance": 0.05, "p_value": 0.01, "shift": 0.1, "grown": [0.1, 0.2]}
    assert deciding._judged(wanted, near, 40, 0.5).goes
    assert deciding._judged(wanted, near | {"distance": 0.3, "p_value": 0.2}, 40, 0.5).goes
    far = deciding._judged(wanted, near | {"distance": 0.3}, 40, 0.5)
    assert not far.goes and "unlike the old ones: distance 0.30 (p 0.010)" in far.why
    crowd = deciding._judged(wanted, near | {"shift": 0.3}, 40, 0.5)
    assert not crowd.goes and "goes from 10% to 20%" in crowd.why


@pytest.mark.parametrize(
    ("ci95", "told"), [((-0.07, 0.04), True), ((-0.07, -0.01), False), (None, False)]
)
def test_a_refusal_says_where_too_few_samples_were_judged(
    ci95: tuple[float, float] | None, told: bool
) -> None:
    assert ("holds zero" in gate.Figure("knn top-1", 0.46, 0.47, ci95=ci95).doubt) is told


def test_an_exponent_that_few_samples_do_not_give_is_left_out() -> None:
    torch.manual_seed(0)
    many, few = torch.randn(32, 16), torch.randn(4, 16)
    (figure,) = decay_figure(many, 2 * many)
    assert figure.champion == pytest.approx(figure.value)
    assert decay_figure(few) == decay_figure(many, few) == []


def test_a_decision_says_that_drift_was_not_looked_at_and_why(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sampled = Sampled(pa.table({"uri": ["a"] * 20}), 0)
    monkeypatch.setattr(deciding, "sample", lambda ages, count: sampled)
    monkeypatch.setattr(deciding, "look", lambda *args: seen(torch.randn(20, 4)))
    ages: Any = SimpleNamespace(num_new=20, manifest=SimpleNamespace(num_rows=20))
    session: Any = None
    told = deciding.decide(
        parse(complete, list(WORDS)), ages, "/a", session, unknown="its manifest is gone"
    )
    assert told.goes and told.why == (
        "all 20 samples count as new, and drift was not looked at: its manifest is gone"
    )
