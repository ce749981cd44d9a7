"""Measure how many images a CPU turns into views, beside decoding alone and beside other libraries.

python -m benchmarks.views data=DIR [out=views.json] [passes=5] [processes=2]

Every contestant works through the JPEG files of DIR in as many processes as given, all in turn in every pass, after one
pass that is not counted. The peers are the optional extra `bench`; those not installed are left out.
"""

import json
import multiprocessing
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

from benchmarks.view_contestants import CONTESTANTS, WORKLOADS, Contestant

mpl.use("agg")
from matplotlib import pyplot as plt

PACKAGES = (
    "simplejpeg",
    "numba",
    "torch",
    "torchvision",
    "kornia",
    "albumentations",
    "lightly",
    "opencv-python-headless",
)
Result = dict[str, dict[str, Any]]


@cache
def _files(folder: str) -> list[bytes]:
    found = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    return [data for data in (path.read_bytes() for path in found) if data.startswith(b"\xff\xd8\xff")]


@cache
def _contestant(workload: str, name: str) -> Contestant:
    torch.set_num_threads(1)
    return CONTESTANTS[name](WORKLOADS[workload])


def once(workload: str, name: str, folder: str) -> tuple[float, float]:
    """Work through the files once, in this process; returns CPU seconds and seconds."""
    run, files = _contestant(workload, name), _files(folder)
    cpu, wall = time.process_time(), time.perf_counter()
    run(files)
    return time.process_time() - cpu, time.perf_counter() - wall


def measure(workload: str, folder: str, passes: int, pools: list[ProcessPoolExecutor]) -> Result:
    """Medians and ranges over the passes, by contestant; those that cannot be imported are left out."""
    num_images = len(_files(folder)) * len(pools)
    samples: dict[str, list[tuple[float, float]]] = {}
    for number in range(passes + 1):
        for name in CONTESTANTS:
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
    return {name: _summary(pairs) for name, pairs in samples.items()}


def _summary(pairs: list[tuple[float, float]]) -> dict[str, Any]:
    per_cpu, per_s = zip(*pairs, strict=True)
    return {
        "images_per_cpu_s": statistics.median(per_cpu),
        "images_per_cpu_s_range": [min(per_cpu), max(per_cpu)],
        "images_per_s": statistics.median(per_s),
        "images_per_s_range": [min(per_s), max(per_s)],
    }


def table(results: dict[str, Result]) -> str:
    """The results in Markdown, each beside decoding alone."""
    lines = []
    for workload, rows in results.items():
        limit = next(iter(rows.values()))["images_per_cpu_s"]
        lines += [f"{workload}:", "", "| | images per CPU-second | of decoding alone | images/s |", "|---|---|---|---|"]
        for name, row in rows.items():
            low, high = row["images_per_cpu_s_range"]
            rate = row["images_per_cpu_s"]
            lines.append(
                f"| {name} | {rate:.0f} ({low:.0f}-{high:.0f}) | {rate / limit:.0%} | {row['images_per_s']:.0f} |"
            )
        lines.append("")
    return "\n".join(lines)


def plot(results: dict[str, Result], out: Path) -> None:
    """One row of bars a workload."""
    figure, axes = plt.subplots(
        len(results), 1, figsize=(8, 2.6 * len(results)), constrained_layout=True, squeeze=False
    )
    for axis, (workload, rows) in zip(axes[:, 0], results.items(), strict=True):
        rates = [row["images_per_cpu_s"] for row in rows.values()]
        axis.barh(list(rows), rates, color=["#7a828c", *["#2f6fb0"] * 2, *["#c9ced6"] * (len(rows) - 3)])
        axis.invert_yaxis()
        axis.bar_label(axis.containers[0], labels=[f"{rate / rates[0]:.0%}" for rate in rates], padding=4)
        axis.set_title(workload, loc="left")
        axis.set_xlabel("images per CPU-second; in per cent of decoding alone")
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(out, dpi=130)


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def main(words: list[str]) -> int:
    """Measure every workload; the table goes to stdout, JSON and plot beside each other to `out`."""
    given = {"out": "views.json", "passes": "5", "processes": "2"} | dict(word.split("=", 1) for word in words)
    if "data" not in given or set(given) > {"data", "out", "passes", "processes"}:
        print(
            "error: usage: python -m benchmarks.views data=DIR [out=views.json] [passes=5] [processes=2]",
            file=sys.stderr,
        )
        return 2
    if not _files(given["data"]):
        print(f"error: data={given['data']}: no JPEG file there", file=sys.stderr)
        return 2
    context = multiprocessing.get_context("spawn")  # each process compiles and opens what it needs for itself
    pools = [ProcessPoolExecutor(1, mp_context=context) for _ in range(int(given["processes"]))]
    results = {name: measure(name, given["data"], int(given["passes"]), pools) for name in WORKLOADS}
    for pool in pools:
        pool.shutdown()
    out = Path(given["out"])
    out.write_text(json.dumps({"settings": given, "versions": _versions(), "results": results}, indent=2))
    plot(results, out.with_suffix(".png"))
    print(table(results))
    print(out)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
