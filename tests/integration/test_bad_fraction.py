"""A corpus with more bad samples than `source.max_bad_fraction` allows stops its run, once and for
all."""

from pathlib import Path

import numpy as np
import pytest

from jobs.pretrain import pretrain
from jobs.setup.command_line import main
from jobs.training.run_config import complete_pretrain
from jobs.training.run_dir import RunDir
from pipelines.stream import quarantine
from tests import commands

pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.fixture
def rotten(image_folder: Path, tmp_path: Path) -> Path:
    """60 whole images, 24 that were cut off and 12 that are noise."""
    folder, noise = tmp_path / "corpus", np.random.default_rng(0)
    folder.mkdir()
    for number, path in enumerate(sorted(image_folder.rglob("*.jpg"))[:96]):
        data = path.read_bytes()
        cut = data if number < 60 else data[: len(data) // 2] if number < 84 else noise.bytes(2000)
        (folder / f"{number:02d}.jpg").write_bytes(cut)
    return folder


def run(folder: Path, out: Path, *more: str) -> int:
    words = [f"source.uri={folder}", f"out={out}", "num_steps=39", "log.every_steps=4", *more]
    return main("pretrain", "", complete_pretrain, pretrain, [*commands.TINY, *words])


@pytest.mark.slow  # the same of an export, a pack and a log are not
def test_too_many_bad_samples_stop_a_run_with_one_line_and_no_restart(
    rotten: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert run(rotten, out) == 1
    stderr = capfd.readouterr().err
    (line,) = (line for line in stderr.splitlines() if line.startswith("error: "))
    # four steps of 32 are enough to judge
    assert (
        "of 128 samples (" in line
        and "%) are bad (" in line
        and "more than source.max_bad_fraction=0.1" in line
    )
    assert " truncated" in line and " unknown_type" in line and str(out / "quarantine") in line
    assert "Traceback" not in stderr and "going on from" not in stderr
    assert len({row["uri"] for row in quarantine.read(str(out / "quarantine"))}) == 36
    assert RunDir(str(out)).committed_step() == 0


@pytest.mark.slow
def test_a_run_that_allows_them_goes_on_without_them(rotten: Path, tmp_path: Path) -> None:
    assert run(rotten, tmp_path / "run", "source.max_bad_fraction=0.4") == 0
    # 39 steps of 32 are 13 epochs of 96
    assert RunDir(str(tmp_path / "run")).join_metrics()[-1]["bad_samples"] == 36 * 13
