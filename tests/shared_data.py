"""Finds collections of real files that are too large to ship; tests that want them are skipped
where they are not."""

import os
from pathlib import Path


def shared_data(name: str) -> Path | None:
    """Path of a tar file in `AFIELD_TEST_DATA`, by default `shared/data` beside the repository;
    None without it."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    path = Path(os.environ.get("AFIELD_TEST_DATA", beside)) / name
    return path if path.is_file() else None
