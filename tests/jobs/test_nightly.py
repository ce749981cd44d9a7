"""jobs.nightly: a schedule goes on with a slot that was stopped, before it begins a new one, and
stops in time."""

import json
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from jobs import nightly
from jobs.nightly import NightlyConfig, complete
from jobs.retrain import FOLDER
from jobs.retraining.cycle import RECORD, SLOTS, open_cycle
from jobs.retraining.retrain_sections import RetrainConfig
from jobs.setup.command_line import parse
from jobs.training.fit import stop_signals
from pipelines.registry.registered_model import RegisteredModel


class Nights:
    """A registry in a folder, and what its nights asked for."""

    def __init__(self, folder: Path) -> None:
        self.corpus = folder / "corpus"
        self.corpus.mkdir()
        self.registry = folder / "registry"
        self.out = Path(RegisteredModel(str(self.registry), "encoder").uri) / FOLDER

    def config(self, night: str, *words: str) -> NightlyConfig:
        given = ("simclr_small", f"registry={self.registry}", "name=encoder", "num_epochs=1")
        return parse(complete, [*given, f"source.uri={self.corpus}", f"slot={night}", *words])

    def ran(self, night: str, decision: str | None, *words: str) -> None:
        source = self.config(night).source.model_copy(update={"uri": str(self.corpus)})
        placed = {"source": source, "out": str(self.out)}
        asked = self.config(night, *words).model_copy(update=placed).asked()
        found = open_cycle(str(self.out), night, asked)
        record = vars(found) | {"decision": decision}
        place = self.out / SLOTS / night
        place.mkdir(parents=True, exist_ok=True)
        (place / RECORD).write_text(json.dumps(record))

    def run(self, night: str, *words: str) -> dict[str, Any]:
        return nightly.nightly(self.config(night, *words))


def as_told(config: RetrainConfig) -> dict[str, Any]:
    """Say which slot jobs.retrain would run; it takes no other class of configuration."""
    assert type(config).__name__ == "RetrainConfig" and config.asked()
    return {"slot": config.slot, "decision": "kept"}


@pytest.fixture
def nights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Nights:
    monkeypatch.setattr(nightly, "retrain", as_told)
    return Nights(tmp_path)


def test_the_first_night_has_a_slot_of_its_own(nights: Nights) -> None:
    assert nights.run("2026-11-09")["slot"] == "2026-11-09"
    assert not nights.registry.exists()


def test_a_slot_that_was_stopped_goes_on_until_it_is_finished(nights: Nights) -> None:
    nights.ran("2026-11-08", "promoted")
    nights.ran("2026-11-09", None)
    assert nights.run("2026-11-10")["slot"] == "2026-11-09"
    assert nights.run("2026-11-10", "night.go_on=false")["slot"] == "2026-11-10"
    nights.ran("2026-11-09", "kept")
    assert nights.run("2026-11-10")["slot"] == "2026-11-10"


def test_a_slot_goes_on_whose_labelled_sets_are_given_from_the_working_folder(
    nights: Nights, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(nights.corpus)
    from_here = ("labelled.train.uri=train", "labelled.test.uri=test")
    whole = (f"labelled.train.uri={Path.cwd()}/train", f"labelled.test.uri={Path.cwd()}/test")
    nights.ran("2026-11-09", None, *whole)  # as jobs.retrain records them
    assert nights.run("2026-11-10", *from_here)["slot"] == "2026-11-09"


def test_a_slot_that_a_newer_one_has_overtaken_is_left(nights: Nights) -> None:
    nights.ran("2026-11-08", None)
    nights.ran("2026-11-09", "stopped")
    assert nights.run("2026-11-10")["slot"] == "2026-11-10"


def test_a_slot_of_other_settings_is_left_and_named(
    nights: Nights, capsys: pytest.CaptureFixture[str]
) -> None:
    nights.ran("2026-11-09", None, "optim.lr=0.01")
    assert nights.run("2026-11-10")["slot"] == "2026-11-10"
    assert "slot 2026-11-09 was begun with other settings" in capsys.readouterr().err
    assert nights.run("2026-11-10", "optim.lr=0.01")["slot"] == "2026-11-09"


@pytest.mark.parametrize("step", ["train", "index"])
def test_a_night_whose_time_is_up_stops_and_is_no_failure(
    nights: Nights, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def until_told(config: RetrainConfig) -> dict[str, Any]:
        with stop_signals() as wanted:
            assert wanted.wait(30)
        return {"exit_code": 1, "slot": config.slot}

    def until_ended(config: RetrainConfig) -> dict[str, Any]:
        before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(15))  # as Ray has it
        try:
            time.sleep(30)
        finally:
            signal.signal(signal.SIGTERM, before)
        raise AssertionError("nothing came")

    monkeypatch.setattr(nightly, "retrain", until_told if step == "train" else until_ended)
    told = nights.run("2026-11-09", "night.hours=0.00002")
    assert "exit_code" not in told and told["decision"] == "unfinished"
    assert told["result"].endswith("the next night goes on with slot 2026-11-09")


def test_a_night_that_is_stopped_from_outside_or_fails_is_one_that_failed(
    nights: Nights, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nightly, "retrain", lambda _: {"exit_code": 1})
    assert nights.run("2026-11-09")["exit_code"] == 1

    def interrupted(_: RetrainConfig) -> dict[str, Any]:
        raise KeyboardInterrupt

    monkeypatch.setattr(nightly, "retrain", interrupted)
    with pytest.raises(KeyboardInterrupt):
        nights.run("2026-11-09")
