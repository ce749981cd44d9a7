"""Compare the ratios that benchmarks measured on two commits: what fell, what rose.

python -m benchmarks.compare A B [rows=FOLDER]

A and B are commits, the beginning of each is enough; `rows` is the folder (default: this one) under
which benchmarks wrote their JSON lines. Each line may carry `ratios`: how many times as fast as the
alternative the project was in that run, by name. Machines differ from day to day, ratios of one run
hardly: a ratio fell where all runs of B lie below all runs of A and their medians differ by more
than 5 %. The exit status is 1 where one fell, and 2 where A and B have no ratio in common.
"""

import json
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from benchmarks.job_runs import Row, read_rows

USAGE = " ".join((__doc__ or "").split("\n\n")[1].split())
SMALLEST_CHANGE = 0.05
Ratios = dict[str, list[float]]


def ratios_of(rows: Iterable[Row], commit: str) -> Ratios:
    """All that was measured on one commit, by the ratio's name; changed files count as another
    commit."""
    found = defaultdict[str, list[float]](list)
    for row in rows:
        measured_on = row.get("commit") or ""
        if measured_on.startswith(commit) and not measured_on.endswith("+changes"):
            for name, ratio in row.get("ratios", {}).items():
                found[name].append(ratio)
    return dict(found)


def verdict(before: list[float], after: list[float]) -> str:
    """Return "fell", "rose" or "same", by the rule above."""
    change = _change(before, after)
    if change < -SMALLEST_CHANGE and max(after) < min(before):
        return "fell"
    if change > SMALLEST_CHANGE and min(after) > max(before):
        return "rose"
    return "same"


def _change(before: list[float], after: list[float]) -> float:
    return statistics.median(after) / statistics.median(before) - 1


def table(before: Ratios, after: Ratios) -> str:
    """Medians and ranges in Markdown, for the ratios that both commits have."""
    lines = ["| ratio | before | after | change | |", "|---|---|---|---|---|"]
    for name in sorted(before.keys() & after.keys()):
        both = before[name], after[name]
        lines.append(
            f"| {name} | {_told(both[0])} | {_told(both[1])} | {100 * _change(*both):+.0f} % |"
            f" {verdict(*both)} |"
        )
    return "\n".join(lines)


def _told(values: list[float]) -> str:
    several = f" ({min(values):.2f}-{max(values):.2f})" if len(values) > 1 else ""
    return f"{statistics.median(values):.2f}{several}"


def main(words: list[str]) -> int:
    """Compare; the table goes to stdout, the exit status tells whether something fell."""
    commits = [word for word in words if "=" not in word]
    folders = [word.removeprefix("rows=") for word in words if word.startswith("rows=")] or ["."]
    if len(commits) != 2 or len(commits) + len(folders) < len(words):
        print(f"error: two commits are wanted: {USAGE}", file=sys.stderr)
        return 2
    rows = list[Row]()
    for file in sorted(Path(folders[-1]).rglob("*.jsonl")):
        try:
            rows += [row for row in read_rows(file) if isinstance(row, dict)]
        except (OSError, ValueError) as error:
            print(f"{file}: left out, {error}", file=sys.stderr)
    before, after = (ratios_of(rows, commit) for commit in commits)
    common = before.keys() & after.keys()
    if not common:
        counts = f"{len(before)} of {commits[0]} and {len(after)} of {commits[1]}"
        print(
            f"error: no ratio in common under {folders[-1]} ({counts}): run the same benchmark with"
            " the same settings on both commits",
            file=sys.stderr,
        )
        return 2
    print(table(before, after))
    fell = [name for name in common if verdict(before[name], after[name]) == "fell"]
    print(json.dumps({"common": len(common), "fell": sorted(fell)}))
    return 1 if fell else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
