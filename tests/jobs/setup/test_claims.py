"""An output folder holds one thing, and can be written before anything starts."""

import fcntl
import json
import math
import os
import platform
from pathlib import Path
from typing import Any

import pytest

import jobs.export
import jobs.pack
import jobs.pretrain
from jobs.setup.claims import check_writable, claim, held
from jobs.setup.command_line import main, parse
from jobs.setup.failures import InputError
from jobs.training.run_config import PretrainConfig, complete_pretrain
from jobs.training.run_dir import RunDir
from pipelines.storage import uris


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


def test_of_two_claims_at_once_one_is_told_of_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = str(tmp_path / "pack")
    look = uris.exists

    def late(uri: str) -> bool:
        there = look(uri)
        if not there:  # somebody else comes between the look and the claim
            uris.write_bytes(uri, b'{"size": 1}')
        return there

    monkeypatch.setattr(uris, "exists", late)
    with pytest.raises(InputError, match=r"is no pack and not empty|holds another pack"):
        claim("pack", out, "pack.json", {"size": 2})
    assert uris.read_bytes(f"{out}/pack.json") == b'{"size": 1}'


@pytest.mark.parametrize(
    ("build", "run", "words"),
    [
        (complete_pretrain, jobs.pretrain.pretrain, ["simclr_small", "num_steps=9"]),
        (lambda values: (jobs.pack.PackConfig, values), jobs.pack.pack, []),
        (
            lambda values: (jobs.export.ExportConfig, values),
            jobs.export.export,
            ["artifact={artifact}"],
        ),
    ],
)
def test_a_second_driver_is_told_whose_the_folder_is_before_ray_starts(
    build: Any,
    run: Any,
    words: list[str],
    small_artifact: str,
    image_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    given = [word.format(artifact=small_artifact) for word in words]
    with held("pretrain", str(out)):
        code = main("job", "", build, run, [*given, f"source.uri={image_folder}", f"out={out}"])
    assert code == 2
    said = capsys.readouterr().err.splitlines()
    assert said[-1].startswith(f"error: out {out} is in use by pretrain on {platform.node()}, pid")
    assert not any("Ray" in line for line in said)


def test_what_dead_writers_left_is_cleared_and_nothing_else(tmp_path: Path) -> None:
    out = tmp_path / "out"
    names = (
        *("metrics/.0-3.jsonl.0123abcd.tmp", ".config.yaml.0123abcd.tmp"),
        *("metrics/0-3.jsonl", "metrics/.notes.tmp", "mine/.config.yaml.0123abcd.tmp"),
        "metrics/.written.jsonl.0123abcd.tmp",
    )
    for name in names:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(b"x")
        os.utime(out / name, (1, 1))
    with open(out / names[-1], "ab") as written:
        fcntl.flock(written, fcntl.LOCK_EX)
        with held("pretrain", str(out), "metrics"):
            new = out / "metrics" / ".1-0.jsonl.0123abcd.tmp"
            new.write_bytes(b"x")
        assert {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()} == {
            *names[2:],
            "metrics/.1-0.jsonl.0123abcd.tmp",
        }


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
    place.write_text(json.dumps({"provenance": {"num_steps": 10}}))
    assert run.has_artifact_of(10) and not run.has_artifact_of(12)
    place.write_text(json.dumps({"provenance": {}}))  # written before steps were recorded
    assert run.has_artifact_of(12)
