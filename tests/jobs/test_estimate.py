"""jobs.estimate: the words of jobs.pretrain in, the first steps measured, and nothing left."""

import json
from pathlib import Path

import pytest

from jobs.cluster import launch
from jobs.estimate import estimate
from jobs.estimating.estimate_config import complete
from jobs.setup.command_line import main

PRICES = Path(__file__).parents[2] / "deploy" / "prices.yaml"
SMALL = ["simclr_small", "encoder.width=8", "views.size=16", "global_batch_size=16"]


def told(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Run the job; returns its exit code, stdout and stderr."""
    code = main("estimate", "", complete, estimate, [*SMALL, *words])
    said = capsys.readouterr()
    return code, said.out, said.err


@pytest.mark.slow
def test_an_estimate_measures_the_run_itself_and_leaves_nothing(
    ray_session: None,
    image_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "run"
    rates = tmp_path / "rates.json"
    words = [f"source.uri={image_folder}", f"out={out}", "num_epochs=3", f"prices={PRICES}"]
    measured = [f"estimate.work={tmp_path / 'work'}", f"estimate.save={rates}"]
    code, stdout, stderr = told(capsys, *words, *measured, "estimate.steps=10", "--json")
    assert code == 0, stderr
    found = json.loads(stdout)
    assert (found["samples"], found["steps"]) == (200, 37)
    assert "training on 1 worker" in stderr  # the job that will do it
    assert "stopped at step 10 of 37" in stderr
    assert not out.exists()
    assert not list((tmp_path / "work").iterdir())
    assert json.loads(rates.read_text()) == found["rates"]
    assert found["rates"]["device"] == "cpu"
    assert found["rates"]["checkpoint_bytes"] > 10_000
    assert found["rates"]["list_samples_per_s"] > 0
    parts = found["parts_s"]
    assert parts["steps"] == pytest.approx(37 * found["step_s"])
    assert found["hours"] * 3600 == pytest.approx(sum(parts.values()))
    assert found["limit"] in ("training", "decoding")
    dollars = [shape["dollars"] for shape in found["shapes"]]
    assert dollars == sorted(dollars)
    assert len(dollars) > 3

    # with rates nothing is trained: no session of Ray is entered for workers
    monkeypatch.setattr("jobs.estimate.pretrain", None)
    longer = [*words[:2], "num_steps=1000", f"estimate.rates={rates}", f"prices={PRICES}"]
    code, stdout, stderr = told(capsys, *longer)
    assert code == 0, stderr
    assert "warning: the rates differ in" not in stderr
    lines = stdout.splitlines()
    assert lines[0] == f"samples        200 of {image_folder}"
    assert lines[1] == "run            1,000 steps of 16 samples, 80 passes"
    assert [line for line in lines if line.startswith("best ")]
    assert [line for line in lines if line.startswith("next best ") and "limits" in line]
    assert lines[-1].startswith("prices         made up")


def test_what_cannot_be_estimated_is_one_line_before_ray_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "session", None)
    (tmp_path / "prices.yaml").write_text("source: x\ndate: y\nnodes: {a: {cpus: 0}}\n")
    (tmp_path / "rates.yaml").write_text("device: tpu\n")
    words = [f"source.uri={tmp_path}", "num_steps=10"]
    for more, said in (
        ([f"prices={tmp_path}/prices.yaml"], "nodes.a.cpus: input should be greater than 0, got 0"),
        ([f"estimate.rates={tmp_path}/rates.yaml"], "device: input should be 'cpu' or 'gpu'"),
        ([f"prices={tmp_path}/none.yaml"], "cannot be read"),
        ([f"estimate.rates={tmp_path}/rates.yaml", "estimate.steps=5"], "estimate.steps has no"),
        (["estimate.save=/proc/none/rates.json"], "estimate.save /proc/none cannot be written"),
    ):
        code, stdout, stderr = told(capsys, *words, *more)
        assert (code, stdout) == (2, "")
        (error,) = stderr.splitlines()
        assert error.startswith("error: ") and said in error
