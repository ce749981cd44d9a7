"""Measure how many images a CPU turns into views, beside decoding alone and beside other libraries.

python -m benchmarks.views data=DIR [out=views.json] [passes=5] [processes=2] [malloc=keep|default]
[only=WORDS]

Every contestant works through the JPEG files under DIR (clips: some of the videos there) in as many
processes as given, all in turn in every pass, after one pass that is not counted; shares are
medians over the passes, so that other work on the machine slows all alike. `malloc=keep` lets glibc
keep large buffers, as the project's Ray workers do, for every contestant; `only` takes the
workloads whose name holds the words, and what `out` holds of others from the same commit, machine
and versions stays. The peers are the optional extra `bench`; those not installed are left out.
"""

import json
import multiprocessing
import os
import platform
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch

from augment.recipe import Views
from benchmarks.clip_contestants import CLIP_CONTESTANTS, CLIP_WORKLOADS, frames_of
from benchmarks.job_runs import add_row, cpu_model
from benchmarks.view_contestants import CONTESTANTS, WORKLOADS, Contestant
from jobs.cluster.cores import own_cores
from jobs.cluster.launch import WORKER_ENV
from jobs.training.run_dir import code_commit
from pipelines.corpus.file_kinds import media_of
from pipelines.media.contract import BadSample

mpl.use("agg")
from matplotlib import pyplot as plt

USAGE = " ".join((__doc__ or "").split("\n\n")[1].split())
DEFAULTS = {"out": "views.json", "passes": "5", "processes": "2", "malloc": "keep", "only": ""}
PACKAGES = (
    *(
        "simplejpeg",
        "av",
        "numba",
        "numpy",
        "torch",
        "torchvision",
        "kornia",
        "albumentations",
        "lightly",
    ),
    *("opencv-python-headless", "nvidia-dali-cuda130"),
)
MOST_VIDEOS = 40
WHOLE = "Afield, crops and colours"
Result = dict[str, dict[str, Any]]


@cache
def _files(workload: str, folder: str) -> list[bytes]:
    found = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    if workload in WORKLOADS:
        return [
            data
            for data in (path.read_bytes() for path in found)
            if data.startswith(b"\xff\xd8\xff")
        ]
    videos = [path for path in found if media_of(path.name) == "video"]
    files = [path.read_bytes() for path in videos[:: max(1, len(videos) // MOST_VIDEOS)]]
    return [data for data in files if _is_readable(data)]


def _is_readable(video: bytes) -> bool:
    try:
        frames_of(video)
    except BadSample:
        return False
    return True


def _contestants(workload: str) -> dict[str, Any]:
    return CONTESTANTS if workload in WORKLOADS else CLIP_CONTESTANTS


@cache
def _contestant(workload: str, name: str) -> Contestant:
    torch.set_num_threads(1)
    views: Views = (WORKLOADS | CLIP_WORKLOADS)[workload]
    made: Contestant = _contestants(workload)[name](views)
    return made


def once(workload: str, name: str, folder: str) -> tuple[float, float]:
    """Work through the files once, in this process; returns CPU seconds and seconds."""
    run, files = _contestant(workload, name), _files(workload, folder)
    cpu, wall = time.process_time(), time.perf_counter()
    run(files)
    return time.process_time() - cpu, time.perf_counter() - wall


def measure(workload: str, folder: str, passes: int, pools: list[ProcessPoolExecutor]) -> Result:
    """Medians and ranges over the passes, by contestant; those that cannot be imported are left
    out."""
    num_images = len(_files(workload, folder)) * len(pools)
    samples: dict[str, list[tuple[float, float]]] = {}
    for number in range(passes + 1):
        for name in _contestants(workload):
            if number and name not in samples:
                continue
            waiting = [pool.submit(once, workload, name, folder) for pool in pools]
            try:
                times = [future.result() for future in waiting]
            except ImportError as error:
                print(f"{name}: left out, {error}", file=sys.stderr)
                continue
            samples.setdefault(name, [])
            if number:  # the first pass compiles, imports and warms up
                cpu, wall = sum(cpu for cpu, _ in times), max(wall for _, wall in times)
                samples[name].append((num_images / cpu, num_images / wall))
    decoding, whole = next(iter(samples.values())), samples[WHOLE]
    return {name: _summary(pairs, decoding, whole) for name, pairs in samples.items()}


def _summary(
    pairs: list[tuple[float, float]],
    decoding: list[tuple[float, float]],
    whole: list[tuple[float, float]],
) -> dict[str, Any]:
    per_cpu, per_s = ([pair[index] for pair in pairs] for index in range(2))
    of_decoding = [ours / limit for (ours, _), (limit, _) in zip(pairs, decoding, strict=True)]
    ahead = [afield / theirs for (afield, _), (theirs, _) in zip(whole, pairs, strict=True)]
    values = {
        "images_per_cpu_s": per_cpu,
        "images_per_s": per_s,
        "of_decoding_alone": of_decoding,  # in CPU-seconds, as the next
        "afield_whole_path_times": ahead,
    }
    summary: dict[str, Any] = {}
    for key, numbers in values.items():
        summary |= {key: statistics.median(numbers), f"{key}_range": [min(numbers), max(numbers)]}
    return summary


def table(results: dict[str, Result]) -> str:
    """The results in Markdown, each beside decoding alone."""
    lines = []
    for workload, rows in results.items():
        noun = "images" if workload in WORKLOADS else "videos"
        lines += [
            f"{workload}:",
            "",
            (
                f"| | {noun} per CPU-second | of decoding alone | Afield with colours is faster by"
                f" | {noun}/s |"
            ),
            "|---|---|---|---|---|",
        ]
        for name, row in rows.items():
            low, high = row["images_per_cpu_s_range"]
            lines.append(
                f"| {name} | {row['images_per_cpu_s']:.0f} ({low:.0f}-{high:.0f}) |"
                f" {row['of_decoding_alone']:.0%} | {row['afield_whole_path_times']:.2g} x |"
                f" {row['images_per_s']:.0f} |"
            )
        lines.append("")
    return "\n".join(lines)


def plot(results: dict[str, Result], out: Path) -> None:
    """One panel of bars a workload; its title says how far Afield is from the limit and from the
    next."""
    heights = [len(rows) for rows in results.values()]
    figure, axes = plt.subplots(
        len(results),
        1,
        figsize=(8.5, 0.34 * sum(heights) + 0.9 * len(results)),
        constrained_layout=True,
        squeeze=False,
        height_ratios=heights,
    )
    for axis, (workload, rows) in zip(axes[:, 0], results.items(), strict=True):
        rates = [row["images_per_cpu_s"] for row in rows.values()]
        spread = [
            [
                abs(row["images_per_cpu_s_range"][side] - row["images_per_cpu_s"])
                for row in rows.values()
            ]
            for side in (0, 1)
        ]
        colours = ["#7a828c", *["#2f6fb0"] * 2, *["#c9ced6"] * (len(rows) - 3)]
        axis.barh(list(rows), rates, xerr=spread, color=colours, error_kw={"elinewidth": 0.8})
        axis.invert_yaxis()
        for place, row in enumerate(rows.values()):
            reach = row["images_per_cpu_s_range"][1]
            axis.annotate(
                f"{row['of_decoding_alone']:.0%}",
                (reach, place),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
            )
        axis.set_title(f"{workload}: Afield reaches {_finding(rows)}", loc="left", fontsize=9)
        noun = "images" if workload in WORKLOADS else "videos"
        axis.set_xlabel(
            f"{noun} per CPU-second (median and range; in per cent of decoding alone)", fontsize=8
        )
        axis.margins(x=0.1)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(out, dpi=130)
    plt.close(figure)


def _finding(rows: Result) -> str:
    share = f"{rows[WHOLE]['of_decoding_alone']:.0%} of decoding alone"
    peers = {name: row["afield_whole_path_times"] for name, row in list(rows.items())[3:]}
    if not peers:
        return share
    nearest = min(peers, key=peers.__getitem__)
    return f"{share}, {peers[nearest]:.2f} x {nearest}"


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def _device() -> dict[str, Any]:
    return {
        "cpu": cpu_model(),
        "cores": own_cores(),
        "platform": platform.platform(),
        "python": platform.python_version(),
    }


def main(words: list[str]) -> int:
    """Measure every workload; the table goes to stdout, JSON and plot beside each other to
    `out`."""
    given = DEFAULTS | dict(word.partition("=")[::2] for word in words)
    if (
        not given.get("data")
        or set(given) > {"data", *DEFAULTS}
        or given["malloc"] not in ("keep", "default")
    ):
        print(f"error: usage: {USAGE}", file=sys.stderr)
        return 2
    workloads = [
        name
        for name in (*WORKLOADS, *CLIP_WORKLOADS)
        if given["only"] in name and _files(name, given["data"])
    ]
    if not workloads:
        print(f"error: data={given['data']}: no JPEG file and no video there", file=sys.stderr)
        return 2
    if given["malloc"] == "keep":  # read when the processes below start
        os.environ.update(
            {name: value for name, value in WORKER_ENV.items() if name.startswith("MALLOC_")}
        )
    # each process compiles and opens what it needs for itself
    context = multiprocessing.get_context("spawn")
    pools = [ProcessPoolExecutor(1, mp_context=context) for _ in range(int(given["processes"]))]
    results = {
        name: measure(name, given["data"], int(given["passes"]), pools) for name in workloads
    }
    for pool in pools:
        pool.shutdown()
    out = Path(given["out"])
    ratios = {
        f"views, {workload}: Afield / {name}": row["afield_whole_path_times"]
        for workload, rows in results.items()
        for name, row in rows.items()
        if name != WHOLE
    }
    add_row(out.with_suffix(".jsonl"), {"settings": given, "ratios": ratios})
    same = {
        "commit": code_commit(),
        "malloc": given["malloc"],
        "device": _device(),
        "versions": _versions(),
    }
    before = json.loads(out.read_text()) if out.exists() else {}
    if any(before.get(name) != value for name, value in same.items()):
        before = {"commands": [], "results": {}}
    before["commands"].append(f"python -m benchmarks.views {' '.join(words)}")
    before["results"] |= results
    out.write_text(json.dumps({**before, **same}, indent=2))
    plot(before["results"], out.with_suffix(".png"))
    print(table(results))
    print(out)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
