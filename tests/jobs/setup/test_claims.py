"""An output folder holds one thing, and can be written before anything starts."""

import json
import math
from pathlib import Path

import pytest

from jobs.setup.claims import check_writable, claim
from jobs.setup.command_line import parse
from jobs.setup.failures import InputError
from jobs.training.run_config import PretrainConfig, complete_pretrain
from jobs.training.run_dir import RunDir


def test_a_folder_is_taken_once(tmp_path: Path) -> None:
    out = str(tmp_path / "pack")
    claim("pack", out, "pack.json", {"source": "a/", "size": 1})
    claim("pack", out, "pack.json", {"source": "a", "size": 1})  # the slash is no difference
    with pytest.raises(InputError, match=r"holds another pack: it differs in size \(1 there, 2"):
        claim("pack", out, "pack.json", {"source": "a", "size": 2})
    with pytest.raises(InputError, match=r"is no export and not empty \(pack.json"):
        claim("export", out, "export.json", {})


def test_a_place_that_cannot_be_written_is_refused_and_nothing_is_left_behind(
    tmp_path: Path,
) -> None:
    check_writable("out", str(tmp_path / "new" / "run"))
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match=r"^out .* cannot be a folder: .*file is a file"):
        check_writable("out", str(tmp_path / "file" / "run"))
    with pytest.raises(InputError, match="cannot be written"):
        check_writable("out", "/proc/run")


def config(out: Path, source: str, *words: str) -> PretrainConfig:
    made = parse(
        complete_pretrain,
        ["simclr_small", f"source.uri={source}", f"out={out}", "num_steps=9", *words],
    )
    assert isinstance(made, PretrainConfig)
    return made


def test_a_run_that_made_no_step_leaves_its_folder_to_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunDir(str(tmp_path / "run"))
    first = config(tmp_path / "run", "a")
    assert not run.check(first)
    run.write_config(first)
    run.claim_attempt()
    (tmp_path / "run" / "manifest").mkdir()
    assert run.check(first)
    assert not run.check(config(tmp_path / "run", "a", "seed=1"))
    assert "made no step: replaced" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["manifest"]
    run.write_config(first)
    assert not run.check(config(tmp_path / "run", "b"))
    assert list((tmp_path / "run").iterdir()) == []  # nor is another source's listing kept
    run.write_config(first)
    run.write_metrics(run.claim_attempt(), 1, [{"step": 1}])
    with pytest.raises(InputError, match=r"holds another experiment: it differs in seed"):
        run.check(config(tmp_path / "run", "a", "seed=1"))


def test_a_figure_that_is_no_number_is_null_in_the_log_and_nan_when_read(tmp_path: Path) -> None:
    run = RunDir(str(tmp_path))
    run.write_metrics(run.claim_attempt(), 1, [{"step": 1, "health_alpha_req": math.nan}])
    (line,) = run.join_metrics()
    assert line["step"] == 1 and math.isnan(line["health_alpha_req"])
    text = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(text, parse_constant=pytest.fail) == {"step": 1, "health_alpha_req": None}


def test_an_artifact_of_fewer_steps_does_not_count_as_the_runs(tmp_path: Path) -> None:
    run = RunDir(str(tmp_path))
    assert not run.has_artifact_of(10)
    (tmp_path / "artifact").mkdir()
    place = tmp_path / "artifact" / "artifact.json"
    place.write_text(json.dumps({"provenance": {"trained_steps": 10}}))
    assert run.has_artifact_of(10) and not run.has_artifact_of(12)
    place.write_text(json.dumps({"provenance": {}}))  # written before steps were recorded
    assert run.has_artifact_of(12)
