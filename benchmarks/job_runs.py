"""Runs the project's jobs as a user would, for benchmarks that keep a JSON row for each of many
runs."""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jobs.training.run_dir import environment

Row = dict[str, Any]
PROBES = ("knn", "linear")


def job(verb: str, *words: str) -> Row:
    """Run a job to its end; what `--json` prints, and `wall_s`, the seconds of the whole command.

    Raises:
        RuntimeError: it failed; with the end of what it said.
    """
    begun = time.monotonic()
    command = [sys.executable, "-m", f"jobs.{verb}", *words, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(
            f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-2000:]}"
        )
    row: Row = json.loads(done.stdout.splitlines()[-1])
    return row | {"wall_s": time.monotonic() - begun}


def probes(artifact: str, train: str, test: str, names: Iterable[str] = PROBES) -> Row:
    """Probe an encoder and the same one untrained: accuracies and their 95 % intervals, by the
    probe's name."""
    row: Row = {}
    for name in names:
        found = job(
            "adapt",
            f"artifact={artifact}",
            f"train.uri={train}",
            f"test.uri={test}",
            f"probe.name={name}",
            # as when the first figures of docs/methods.md were taken
            *(["probe.temperature=0.1"] if name == "knn" else []),
        )
        row |= {
            f"{name}_{key}": found[key]
            for key in ("top1", "ci95", "untrained_top1", "untrained_ci95")
        }
    return row


def lines(run: str) -> list[Row]:
    """The log of a run."""
    return [json.loads(line) for line in Path(run, "metrics.jsonl").read_text().splitlines()]


def images_per_s(run: str) -> float:
    """Median over a run's log lines, without the first, in which the pipeline fills."""
    rates = [line["images_per_s"] for line in lines(run)]
    return statistics.median(rates[1:] or rates)


def read_rows(out: Path) -> list[Row]:
    """The rows written before; none where there is no file."""
    return [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []


def add_row(out: Path, row: Row) -> None:
    """Append one row, with the command, commit, versions and device it was made with.

    `ratios` in a row is what `benchmarks.compare` reads: by name, how many times as fast as an
    alternative of the same run the project was.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    made = environment()
    with out.open("a") as file:
        made_with = {"commit": made["commit"], "device": cpu_model(), "environment": made}
        file.write(json.dumps(row | made_with) + "\n")


def cpu_model() -> str:
    """Name of this machine's CPU."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    return next(
        (line.split(": ", 1)[1] for line in lines if line.startswith("model name")), "unknown"
    )


def settings(words: Iterable[str], usage: str, **defaults: str) -> dict[str, str]:
    """Read key=value words over defaults, of which empty ones must be given; wrong ones end with
    status 2."""
    given = defaults | dict(word.split("=", 1) for word in words if "=" in word)
    wrong = [word for word in words if "=" not in word] + sorted(given.keys() - defaults.keys())
    missing = [key for key, value in given.items() if not value]
    if wrong or missing:
        print(
            f"error: {', '.join(wrong or missing)} {'unknown' if wrong else 'missing'}: {usage}",
            file=sys.stderr,
        )
        raise SystemExit(2)
    return given
