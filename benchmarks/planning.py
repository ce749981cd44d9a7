"""Measure how long a large corpus takes to plan: seconds from "Ray is up" to the first batch, and
peak memory.

python -m benchmarks.planning data=DIR [rows=10000000] [work=FOLDER] [out=planning.jsonl] [runs=3]
[watch_s=10]

The manifest is synthetic: its rows cycle over the first 1 000 JPEG files of DIR; it is kept in
`work` for the next call. The dataset is the one that `jobs.pretrain` trains on, made by an actor in
the place of Ray Train's controller and read by another in the place of a training worker. Memory is
watched for `watch_s` seconds after the first batch.
"""

import importlib
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import ray

from benchmarks.grown_manifest import grown, loose_rows
from benchmarks.job_runs import Row, add_row, settings
from benchmarks.process_tree import ProcessTree
from jobs.cluster import launch, ray_cluster
from jobs.training.planned_data import PlannedData, Samples
from jobs.training.run_config import PretrainConfig, load_pretrain
from jobs.training.run_dir import RunDir
from jobs.training.steering.controller import OrderedStreams
from pipelines import schema
from pipelines.corpus.manifest import open_manifest
from pipelines.stream.plan import Plan

USAGE = (
    "python -m benchmarks.planning data=DIR [rows=10000000] [work=FOLDER] [out=FILE] [runs=3]"
    " [watch_s=10]"
)
NUM_FILES = 1000
WANTED_S = 10.0
WANTED_MIB = 1024
ROLES = {"driver": "driver", "Controller": "controller", "SplitCoordinator": "split coordinator"}


class Controller:
    """Makes the dataset, as Ray Train's controller has it made; and like it first says what
    training takes."""

    def __init__(self, streams: OrderedStreams) -> None:
        self._streams = streams
        ray_cluster.start_autoscaling_coordinator()

    def shards(self) -> list[dict[str, Any]]:
        """The iterators of one training worker."""
        return self._streams.configure({}, 1)


class Worker:
    """Takes batches and does nothing with them; like a training worker it has imported torch
    before."""

    def __init__(self) -> None:
        importlib.import_module("torch")

    def take(
        self, shards: list[dict[str, Any]], batch_size: int, watch_s: float
    ) -> tuple[dict[str, float], int]:
        """When what had happened to the first batch, and how many rows came until `watch_s` seconds
        later."""
        rows, times = 0, {"dataset_made": time.time()}
        for batch in shards[0]["train"].iter_torch_batches(
            batch_size=batch_size, prefetch_batches=2
        ):
            if not rows:
                ready = float(batch[schema.READY_AT][0])
                spent = sum(
                    float(batch[name].sum())
                    for name in (schema.FETCH_S, schema.DECODE_S, schema.CROP_S)
                )
                times |= {
                    "decoding_begun": ready - spent,
                    "block_ready": ready,
                    "first_batch": time.time(),
                }
            rows += batch_size
            if time.time() - times["first_batch"] > watch_s:
                break
        return times, rows


def measure(manifest: str, watch_s: float) -> Row:
    """Start a local Ray and plan an epoch on it."""
    with tempfile.TemporaryDirectory(prefix="afield-planning-") as out:
        config = _config(manifest, out)
        with (
            ProcessTree(os.getpid(), private=True) as tree,
            launch.session(config.cluster, paths=(manifest,)),
        ):
            up = time.time()
            plan = Plan.fresh(open_manifest(manifest), config.seed)
            data = PlannedData(
                config,
                Samples.of_plan(plan, config),
                RunDir(out),
                config.steps(plan),
                placement="worker",
                view_actors=None,
            )
            controller: Any = ray.remote(num_cpus=0)(Controller).remote(data.streams())
            worker: Any = ray.remote(num_cpus=1)(Worker).remote()
            shards = controller.shards.remote()
            times, rows = ray.get(worker.take.remote(shards, config.global_batch_size, watch_s))
    peaks = tree.peaks()
    memory = {role: peaks[kind] for kind, role in ROLES.items()}
    seconds = {f"{name}_s": at - up for name, at in times.items()}
    return {
        "rows": plan.manifest.num_rows,
        **seconds,
        "taken": rows,
        "memory": memory,
        "all": peaks,
    }


def _config(manifest: str, out: str) -> PretrainConfig:
    return load_pretrain(
        {
            "source": {"uri": manifest},
            "out": out,
            "method": {"name": "simclr"},
            "views": {"size": 224},
            "num_epochs": 1,
            "cluster": {"address": "local"},
        }
    )


def table(rows: list[Row]) -> str:
    """The results in Markdown, beside what is wanted."""
    lines = [
        f"{rows[0]['rows']:,} rows, {len(rows)} runs:",
        "",
        "| | median | range | wanted |",
        "|---|---|---|---|",
    ]
    for name in ("dataset_made", "decoding_begun", "block_ready", "first_batch"):
        seconds = [row[f"{name}_s"] for row in rows]
        wanted = f"{WANTED_S:g} " if name == "first_batch" else ""
        lines.append(
            f"| seconds to {name.replace('_', ' ')} | {statistics.median(seconds):.1f} | "
            f"{min(seconds):.1f}-{max(seconds):.1f} | {wanted}|"
        )
    for role in ROLES.values():
        for name, kind in (("rss_mib", "resident"), ("uss_mib", "its own")):
            peaks = [row["memory"][role][name] for row in rows]
            wanted = f"{WANTED_MIB} " if name == "rss_mib" else ""
            lines.append(
                f"| {role}, {kind}, peak MiB | {statistics.median(peaks):,.0f} |"
                f" {min(peaks):,.0f}-{max(peaks):,.0f} | {wanted}|"
            )
    return "\n".join(lines)


def main(words: list[str]) -> int:
    """Measure; the table goes to stdout, JSON lines to `out`."""
    defaults = {
        "rows": "10000000",
        "work": "planning",
        "out": "planning.jsonl",
        "runs": "3",
        "watch_s": "10",
    }
    given = settings(words, USAGE, data="", **defaults)
    few = loose_rows(given["data"], NUM_FILES)
    if not few.num_rows:
        print(f"error: data={given['data']}: no JPEG file there", file=sys.stderr)
        return 2
    place = str(Path(given["work"]).resolve() / f"manifest-{given['rows']}")
    grown(place, few, int(given["rows"]))
    rows = []
    for _ in range(int(given["runs"])):
        rows.append(measure(place, float(given["watch_s"])))
        add_row(Path(given["out"]), rows[-1] | {"settings": given})
    print(table(rows))
    print(given["out"])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
