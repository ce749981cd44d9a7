"""Measure what the stream adds to a step as nodes are added: decoding and the step are sleeps, and
the plan is of 10^9 samples.

python -m benchmarks.weak_scaling data=DIR [nodes=1,2,4,8] [ranks=64] [rows=1000000000] [steps=40]
[batch=16] [decode_ms=4] [step_ms=200] [out=weak_scaling.jsonl] [figure=weak_scaling.png]

Every logical node is a raylet of its own on this machine, with one CPU for data tasks and a process
in the place of a training worker. Plan, stream, blocks, their order and the split among ranks are
those of a run. An image of DIR is fetched and decoded for each sample, and then slept for
`decode_ms`; a rank sleeps for `step_ms` a batch of `batch`. The manifest's rows are made as they
are asked for. For `ranks`, which need not fit here, the plan alone is timed.
"""

import pickle
import statistics
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from ray.cluster_utils import Cluster
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from augment.picture import Picture
from benchmarks.grown_manifest import loose_rows
from benchmarks.job_runs import Row, add_row, settings
from jobs.cluster import ray_cluster
from jobs.cluster.launch import WORKER_ENV
from jobs.reporting.figures import open_figure, png
from pipelines import schema
from pipelines.corpus.manifest import Manifest, Part
from pipelines.media.contract import Limits
from pipelines.stream import ingest
from pipelines.stream.plan import Plan
from pipelines.stream.shapes import Columns

USAGE = (
    "python -m benchmarks.weak_scaling data=DIR [nodes=1,2,4,8] [ranks=64] [rows=1000000000]"
    " [steps=40] [batch=16] [decode_ms=4] [step_ms=200] [out=FILE] [figure=FILE.png]"
)
ROW_GROUP = 8192
GROUPS_A_PART = 128
WARM = 10  # steps before those that are timed
STORE_BYTES = 200 << 20


@dataclass(frozen=True, eq=False)
class MadeManifest(Manifest):
    """A manifest whose rows are made as they are read: they name a few real files in turn."""

    few: pa.Table | None = None

    def read_row_group(
        self, part: int, row_group: int, columns: list[str] | None = None
    ) -> pa.Table:
        """Make the rows of a row group."""
        assert self.few is not None
        first = (part * GROUPS_A_PART + row_group) * ROW_GROUP
        rows = np.arange(first, first + self.parts[part].row_groups[row_group])
        table = self.few.take(pa.array(rows % self.few.num_rows))
        at = table.schema.get_field_index(schema.SAMPLE_ID)
        table = table.set_column(at, schema.MANIFEST.field(schema.SAMPLE_ID), [pa.array(rows)])
        return table.append_column(schema.ROW, pa.array(rows))


def made(few: pa.Table, rows: int) -> MadeManifest:
    """Return a manifest of so many rows."""
    sizes = [min(ROW_GROUP, rows - first) for first in range(0, rows, ROW_GROUP)]
    groups = [sizes[first : first + GROUPS_A_PART] for first in range(0, len(sizes), GROUPS_A_PART)]
    parts = tuple(Part(f"parts/{index}", tuple(each)) for index, each in enumerate(groups))
    return MadeManifest("made", 1, "/", parts, few=few)


@dataclass(frozen=True)
class Sleeping:
    """A shape that sleeps for each image in place of cutting views, and keeps a few of its pixels.

    Attributes:
        seconds: How long.
    """

    seconds: float

    def empty(self, num_rows: int) -> Columns:
        """Allocate the column of a block."""
        return {"pixels": np.zeros((num_rows, 2, 3, 16, 16), np.uint8)}

    def filler(self, columns: Columns, epoch: np.ndarray, sample_id: np.ndarray) -> "Sleeping":
        """Return what fills the rows."""
        return self

    def reduction(self, row: int, height: int, width: int) -> int:
        """Decode as it is."""
        return 1

    def fill(self, row: int, picture: Picture) -> None:
        """Sleep."""
        time.sleep(self.seconds)


class Rank:
    """Takes batches in the place of a training worker, and sleeps for each."""

    def take(
        self, shard: Any, rank: int, ranks: int, batch: int, steps: int, step_s: float
    ) -> tuple[list[float], int]:
        """Return when each step was over, and how many samples were those of other steps."""
        ended: list[float] = []
        misplaced = 0
        batches = shard.iter_batches(batch_size=batch, prefetch_batches=2, batch_format="numpy")
        for step, columns in enumerate(batches):
            first = (step * ranks + rank) * batch
            misplaced += int((columns[schema.POSITION] != first + np.arange(batch)).sum())
            time.sleep(step_s)
            ended.append(time.monotonic())
            if len(ended) == WARM + steps:
                break
        return ended, misplaced


def work_of(plan: Plan, batch: int, decode_s: float) -> ingest.Ingest:
    """Return what a data task does."""
    return ingest.Ingest(plan, Sleeping(decode_s), batch, Limits(), quarantine=None, run="weak")


def scaled(plan: Plan, nodes: int, given: dict[str, str]) -> Row:
    """Stream to so many ranks, one a logical node."""
    batch = int(given["batch"])
    steps = int(given["steps"])
    step_s = float(given["step_ms"]) / 1000
    work = work_of(plan, batch, float(given["decode_ms"]) / 1000)
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "object_store_memory": STORE_BYTES},
    )
    try:
        added = [
            cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES) for _ in range(nodes)
        ]
        ray.init(
            address=cluster.address,
            runtime_env={"env_vars": dict(WORKER_ENV)},
            log_to_driver=False,
            logging_level="ERROR",
        )
        ray_cluster.start_autoscaling_coordinator()
        begun = time.monotonic()
        stream = ingest.dataset(work, [(0, plan.manifest.num_rows)])
        shards = stream.streaming_split(nodes, equal=True)
        answers = []
        for index, shard in enumerate(shards):
            here = NodeAffinitySchedulingStrategy(added[index].node_id, soft=False)
            rank: Any = ray.remote(num_cpus=0)(Rank).options(scheduling_strategy=here).remote()
            answers.append(rank.take.remote(shard, index, nodes, batch, steps, step_s))
        found = ray.get(answers)
    finally:
        ray.shutdown()
        cluster.shutdown()
    gaps = np.diff(np.array([ended[WARM - 1 :] for ended, _ in found]))  # (ranks, steps)
    return {
        "nodes": nodes,
        "overhead_ms": [1000 * float(gap) for gap in gaps.mean(0) - step_s],
        "first_step_s": min(ended[0] for ended, _ in found) - begun,
        "misplaced": sum(misplaced for _, misplaced in found),
        "load": Path("/proc/loadavg").read_text().split()[:2],
    }


def planned(plan: Plan, ranks: int, batch: int) -> Row:
    """Time the plan alone, as each data task of so many ranks makes it."""
    work = work_of(plan, batch, 0.0)
    size = len(pickle.dumps(work))
    begun = time.perf_counter()
    next(plan.rows(0, 1))
    first_s = time.perf_counter() - begun
    rows = work.item_rows()
    begun = time.perf_counter()
    items = 32
    for index in range(items):
        start = (index * 7919 * rows) % (plan.manifest.num_rows - rows)
        list(ingest.item_blocks(work, start, start + rows))
    a_sample_s = (time.perf_counter() - begun) / (items * rows)
    return {
        "ranks": ranks,
        "pickled_bytes": size,
        "first_ms": 1000 * first_s,
        "plan_us_a_sample": 1e6 * a_sample_s,
        "plan_ms_a_step": 1e3 * a_sample_s * batch * ranks,
    }


def table(rows: list[Row], plan: Row, num_rows: int) -> str:
    """Write the results in Markdown."""
    lines = ["| nodes | overhead a step, ms | 10th to 90th percentile | first step after, s |"]
    lines.append("|---|---|---|---|")
    for row in rows:
        low, median, high = np.percentile(row["overhead_ms"], (10, 50, 90))
        first = row["first_step_s"]
        lines.append(f"| {row['nodes']} | {median:.1f} | {low:.1f}-{high:.1f} | {first:.1f} |")
    misplaced = sum(row["misplaced"] for row in rows)
    return "\n".join(
        [
            *lines,
            "",
            f"{misplaced} samples reached another step than theirs.",
            f"A plan of {num_rows:,} samples for {plan['ranks']} ranks: its order is drawn in"
            f" {plan['first_ms']:.0f} ms a process, then {plan['plan_us_a_sample']:.1f} us of one"
            f" core a sample, {plan['plan_ms_a_step']:.1f} ms a step of all ranks; a task is told"
            f" it in {plan['pickled_bytes'] / 1000:,.0f} kB.",
        ]
    )


def draw(rows: list[Row], given: dict[str, str]) -> bytes:
    """Draw the overhead of a step against the nodes."""
    nodes = [row["nodes"] for row in rows]
    parts = [np.percentile(row["overhead_ms"], (10, 50, 90)) for row in rows]
    low, median, high = np.array(parts).T
    step_ms = float(given["step_ms"])
    finding = (
        f"On {nodes[-1]} logical nodes a step of {step_ms:.0f} ms takes {median[-1]:.0f} ms more"
    )
    with open_figure(finding, size=(7.0, 3.6)) as (figure, axes):
        axes.fill_between(nodes, low, high, alpha=0.2, linewidth=0)
        axes.plot(nodes, median, marker="o")
        axes.set_xscale("log", base=2)
        axes.set_xticks(nodes, [str(count) for count in nodes])
        axes.set_ylim(bottom=min(0.0, float(low.min())))
        axes.set_xlabel("logical nodes, all on this machine")
        axes.set_ylabel("overhead a step, ms")
        return png(figure)


def main(words: list[str]) -> int:
    """Measure; the table goes to stdout, JSON lines to `out`, the drawing to `figure`."""
    defaults = {
        "nodes": "1,2,4,8",
        "ranks": "64",
        "rows": "1000000000",
        "steps": "40",
        "batch": "16",
        "decode_ms": "4",
        "step_ms": "200",
        "out": "weak_scaling.jsonl",
        "figure": "weak_scaling.png",
    }
    given = settings(words, USAGE, data="", **defaults)
    few = loose_rows(given["data"], 100)
    if not few.num_rows:
        print(f"error: data={given['data']}: no JPEG file there", file=sys.stderr)
        return 2
    plan = Plan.fresh(made(few, int(given["rows"])), seed=0)
    alone = planned(plan, int(given["ranks"]), int(given["batch"]))
    add_row(Path(given["out"]), alone | {"settings": given})
    rows = []
    for count in map(int, given["nodes"].split(",")):
        rows.append(scaled(replace(plan), count, given))
        add_row(Path(given["out"]), rows[-1] | {"settings": given})
        median = statistics.median(rows[-1]["overhead_ms"])
        print(f"{count} nodes: {median:.1f} ms a step", file=sys.stderr, flush=True)
    Path(given["figure"]).write_bytes(draw(rows, given))
    print(table(rows, alone, plan.manifest.num_rows))
    print(given["figure"])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
