"""Retraining whose processes are killed ends as one that nobody disturbed."""

from pathlib import Path

import pytest

from tests.faults.killed_cycles import outcomes


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_killed_cycles_end_as_undisturbed_ones(image_folder: Path, tmp_path: Path) -> None:
    photographs = sorted(image_folder.rglob("*.jpg"))
    calm, rough = outcomes(photographs, tmp_path, seed=1, kills=4, slots=2, on_nodes=False)
    assert rough == calm
