"""deploy/schedules: what a night runs is what the jobs take, and every schedule runs that."""

import configparser
import os
import runpy
import shlex
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import dagster
import pytest

from tests.deploy.shown_jobs import printed

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "schedules"
NIGHTLY = FOLDER / "nightly.sh"


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put an `afield` first on the PATH that notes its words in the file returned; a night is
    set."""
    noted = tmp_path / "commands"
    program = tmp_path / "afield"
    program.write_text(f'#!/bin/sh\necho "afield $*" >> {noted}\necho the last line\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    night = {
        "AFIELD_SOURCE": str(tmp_path),
        "AFIELD_REGISTRY": "s3://bucket/registry",
        "AFIELD_NAME": "encoder",
        "AFIELD_RECIPE": "simclr_resnet50_imagenet",
        "AFIELD_WORDS": "global_batch_size=840 cluster.num_workers=4..8",
    }
    for name, value in night.items():
        monkeypatch.setenv(name, value)
    return noted


def test_a_night_is_a_slot_of_words_that_the_job_takes(
    commands: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    today = datetime.now(UTC)
    subprocess.run(["sh", NIGHTLY], check=True)
    monkeypatch.setenv("AFIELD_SLOT", "2026-11-29")
    subprocess.run(["sh", NIGHTLY], check=True)
    dated, given = commands.read_text().splitlines()
    after = datetime.now(UTC)
    assert dated.split()[6] in (f"slot={today:%Y-%m-%d}", f"slot={after:%Y-%m-%d}")
    assert "slot=2026-11-29" in given.split() and "global_batch_size=840" in given.split()
    assert dated.split()[:2] == given.split()[:2] == ["afield", "nightly"]
    printed(given, monkeypatch)


def test_a_night_without_its_settings_runs_nothing(
    commands: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AFIELD_NAME")
    assert subprocess.run(["sh", NIGHTLY], capture_output=True).returncode
    assert not commands.exists()


def test_dagster_ends_a_night_that_it_gives_up(
    commands: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "afield").write_text(
        f"#!/bin/sh\ntrap 'sleep 0.2; echo checkpoint > {commands}; exit 1' TERM\n"
        "echo begun\nwhile :; do sleep 0.05; done\n"
    )
    file = runpy.run_path(str(FOLDER / "dagster_asset.py"))

    class GivesUp:
        def info(self, line: str) -> None:
            raise KeyboardInterrupt(line)

    context = dagster.build_asset_context()
    monkeypatch.setattr(type(context), "log", GivesUp())
    with pytest.raises(KeyboardInterrupt, match="begun"):
        file["nightly_encoder"](context)
    assert commands.read_text() == "checkpoint\n"


@pytest.mark.long
def test_dagster_materialises_a_night_in_process(
    commands: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = runpy.run_path(str(FOLDER / "dagster_asset.py"))
    done = dagster.materialize([file["nightly_encoder"]])
    [made] = done.asset_materializations_for_node("nightly_encoder")
    assert made.metadata["registry"].value == "s3://bucket/registry"
    assert made.metadata["page"].value == "the last line"
    assert len(commands.read_text().splitlines()) == 1
    definitions = file["definitions"]
    assert definitions.resolve_schedule_def("nightly").cron_schedule == "0 1 * * *"

    monkeypatch.delenv("AFIELD_NAME")  # not tried again: somebody must mend it
    failed = dagster.materialize([file["nightly_encoder"]], raise_on_error=False)
    assert not failed.success


def test_cron_systemd_and_airflow_run_the_same_script() -> None:
    [line] = [row for row in (FOLDER / "crontab").read_text().splitlines() if row[:1] in ("0", "*")]
    *when, user, command = line.split(maxsplit=6)
    assert (when, user) == (["0", "1", "*", "*", "*"], "afield")
    assert shlex.split(command)[-2:] == ["sh", "/opt/afield/nightly.sh"]

    assert "CRON_TZ=UTC" in (FOLDER / "crontab").read_text().splitlines()

    units = configparser.ConfigParser(strict=False, interpolation=None)
    units.optionxform = str  # type: ignore[method-assign, assignment]
    units.read([FOLDER / "afield.service", FOLDER / "afield.timer"])
    assert units["Service"]["ExecStart"].split() == ["/bin/sh", "/opt/afield/nightly.sh"]
    assert units["Service"]["RestartPreventExitStatus"] == "2"  # a wrong setting
    assert units["Service"]["Type"] == "oneshot" and units["Timer"]["OnCalendar"].endswith("UTC")

    dag = (FOLDER / "airflow_dag.py").read_text()
    compile(dag, "airflow_dag.py", "exec")
    assert 'entrypoint="sh /opt/nightly.sh"' in dag and 'schedule="0 1 * * *"' in dag
