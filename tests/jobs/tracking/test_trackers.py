"""A run in the files of Weights & Biases and in MLflow, by their own packages; and without them."""

import importlib.util
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs.setup.failures import InputError
from jobs.tracking import tracker
from jobs.tracking.log_config import LogConfig
from jobs.tracking.mlflow_tracker import MlflowTracker
from jobs.tracking.tracker import Trackers, check_trackers, identity, wanted
from jobs.training.run_config import PretrainConfig, load_pretrain

KEY = "0123456789abcdef" * 2 + "01234567"  # as long as one of Weights & Biases
BLOCK = 32_768
HEADER = 7


def config(out: Path, **log: Any) -> PretrainConfig:
    values = {"source": {"uri": "photos"}, "out": str(out), "num_steps": 20, "log": log}
    return load_pretrain(values)


def line(step: int) -> dict[str, Any]:
    return {"step": step, "loss": 1 / step, "health_rankme": 7.5, "time_s": 1.7e9 + step}


def show(config: PretrainConfig, *steps: int, finished: bool = True) -> None:
    """Show lines of a run to its trackers, as `fit` does."""
    with Trackers(config, wanted(config.log)) as trackers:
        trackers.log({"waiting": "reading the first batch"})
        for step in steps:
            trackers.log(line(step))
        trackers.ended(finished=finished)


def records(path: Path) -> Iterator[Any]:
    """Yield what a `.wandb` file holds: LevelDB's log format, of protocol buffers."""
    from wandb.proto.wandb_internal_pb2 import Record

    data = path.read_bytes()
    place = HEADER
    whole = b""
    while place + HEADER <= len(data):
        if BLOCK - place % BLOCK < HEADER:
            place += BLOCK - place % BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + HEADER])
        whole += data[place + HEADER : place + HEADER + length]
        place += HEADER + length
        if kind in (1, 4):  # whole, or its last part
            yield Record.FromString(whole)
            whole = b""


@pytest.mark.long
def test_a_resumed_run_is_one_run_of_wandb_with_config_metrics_and_no_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setattr(tracker, "ENDS_S", 250.0)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    run = config(tmp_path, wandb=True)
    show(run, 10, finished=False)
    show(run, 20)
    files = sorted((tmp_path / "wandb").rglob("*.wandb"))
    assert [file.name for file in files] == [f"run-{identity(run)}.wandb"] * 2
    found = [record for file in files for record in records(file)]
    logged = [
        {item.key or item.nested_key[0]: item.value_json for item in record.history.item}
        for record in found
        if record.HasField("history")
    ]
    assert [(one["step"], one["health_rankme"]) for one in logged] == [("10", "7.5"), ("20", "7.5")]
    settings = {item.key for record in found for item in record.run.config.update}
    assert {"method", "global_batch_size", "health"} <= settings
    written = [path for path in (tmp_path / "wandb").rglob("*") if path.is_file()]
    assert not [path for path in written if KEY.encode() in path.read_bytes()]


def test_a_resumed_run_is_one_run_of_mlflow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    server = (tmp_path / "mlruns").as_uri()
    run = config(tmp_path / "run", mlflow=server)
    show(run, 10, finished=False)
    show(run, 20)
    client = MlflowTracker(run)._client
    (experiment,) = client.search_experiments(filter_string="name = 'afield'")
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.data.params["method.name"] == run.method.name
    history = client.get_metric_history(found.info.run_id, "loss")
    assert [(one.step, one.value, one.timestamp) for one in history] == [
        (10, 0.1, 1_700_000_010_000),
        (20, 0.05, 1_700_000_020_000),
    ]


def test_a_tracker_that_fails_is_said_once_without_its_key_and_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)

    def opens(_: PretrainConfig) -> Any:
        raise ConnectionError(f"https://ada:secret@host refuses {KEY}")

    with Trackers(config(tmp_path), {"log.wandb": opens}) as trackers:
        for step in (10, 20, 30):
            trackers.log(line(step))
    said = capsys.readouterr().err
    assert said.count("warning: log.wandb fails, and the run goes on without") == 1
    assert "https://***@host refuses ***" in said


def test_a_missing_package_or_a_password_in_a_uri_is_one_line_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(InputError, match=r"log\.mlflow carries credentials: give them as MLFLOW_"):
        check_trackers(LogConfig(mlflow="http://ada:secret@host"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"log.wandb needs .*pip install 'afield\[wandb\]'"):
        check_trackers(LogConfig(wandb=True))
    with pytest.raises(InputError, match=r"log.mlflow needs .*pip install 'afield\[mlflow\]'"):
        check_trackers(LogConfig(mlflow="http://host"))
