"""Measure the stream of samples: through Ray to a training worker that does nothing, beside the
same work without Ray.

python -m benchmarks.ingest data=DIR [corpora=loose,shards,s3-loose,s3-shards] [size=224]
[batch=256] [seconds=60]
                            [runs=3] [rows=20000] [contestants=plain,ray] [work=FOLDER]
                            [out=ingest.jsonl]

DIR holds JPEG files. `work` gets as many copies of them as there are rows, 20 000 at most (which
the manifest then names over and over: equal rows would be read at once) and four shards of these;
for S3 a SeaweedFS serves them. The contestants (plain, plain-on-all-cores, ray, dataloader,
webdataset) take turns in every run; each is left alone until its stream is steady, then watched for
`seconds`. CPU seconds are those of the whole process tree, of Ray by what its processes are. `out`
collects the runs of several calls, and the table is of all that it holds.

The peers webdataset and psutil, which does the watching, are the optional extra `bench`.
"""

import os
import shutil
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.grown_manifest import grown, loose_rows
from benchmarks.ingest_contestants import CONTESTANTS, Setup
from benchmarks.job_runs import Row, add_row, job, read_rows, settings
from benchmarks.process_tree import ProcessTree
from pipelines import schema
from pipelines.corpus.manifest import Manifest, open_manifest, versions
from pipelines.storage import uris
from tests.object_store import ObjectStore

USAGE = "python -m benchmarks.ingest data=DIR and the settings at the head of benchmarks/ingest.py"
CORPORA = ("loose", "shards", "s3-loose", "s3-shards")
# from the first batch: until what was started at once has spread over time
WARM_UP_S = {"ray": 25.0}
OTHERS_WARM_UP_S = 5.0
# Blocks come in order, so several at once: what had been made by the end of the time arrives a
# little later.
COOL_DOWN_S = 5.0
NUM_SHARDS = 4
MAX_FILES = 20_000
UPLOADS = 4  # at once


def watch(
    contestant: Callable[[Any], None], setup: Any, seconds: float, *, warm_up_s: float
) -> Row:
    """Run one contestant, and measure it once its stream is steady.

    Args:
        contestant: Who runs.
        setup: What it is given; it writes the images of each batch to `setup.progress`.
        seconds: How long it is watched.
        warm_up_s: From its first batch until its stream is steady.
    """
    Path(setup.progress).unlink(missing_ok=True)
    process = get_context("spawn").Process(target=contestant, args=(setup,))
    process.start()
    with ProcessTree(process.pid or 0) as tree:
        process.join()
    if process.exitcode:
        raise RuntimeError(f"{contestant.__name__} ended with {process.exitcode}")
    times, images = np.loadtxt(setup.progress, unpack=True, ndmin=2)
    order = np.argsort(times)
    times, images = times[order], np.cumsum(images[order])
    start = times[0] + warm_up_s
    stop = start + seconds
    count = float(np.diff(np.interp([start, stop], times, images))[0])
    cpu = tree.cpu_s(start, stop)
    return {
        "images_per_s": count / seconds,
        "images_per_cpu_s": count / sum(cpu.values()),
        "cpu_share": {kind: used / sum(cpu.values()) for kind, used in cpu.items() if used > 0},
        "peaks": tree.peaks(),
        "windows": _windows(times, images, start, stop),
    }


def _windows(times: np.ndarray, images: np.ndarray, start: float, stop: float) -> list[float]:
    """Images/s of six equal parts, which show whether the stream was steady."""
    edges = np.linspace(start, stop, 7)
    rates: list[float] = (np.diff(np.interp(edges, times, images)) / np.diff(edges)).tolist()
    return rates


@contextmanager
def corpus(
    name: str, data: str, work: Path, rows: int
) -> Iterator[tuple[Manifest, tuple[str, ...]]]:
    """Lay out a corpus; gives the manifest of `rows` rows and the shards, none where files are
    loose."""
    with tempfile.TemporaryDirectory(prefix="afield-s3-", ignore_cleanup_errors=True) as folder:
        store = ObjectStore(Path(folder))
        if name.startswith("s3"):
            os.environ.update(store.env)
            store.start()
            uris.forget_clients()  # of the server of the corpus before, which had another port
        try:
            files = _copied(data, work, min(rows, MAX_FILES))
            few = _shard_rows(files, work) if name.endswith("shards") else loose_rows(files, 10**9)
            if name.startswith("s3"):
                few = _uploaded(few, store)
            place = uris.join(str(work), f"manifest-{name}-{rows}")
            if name.startswith("s3"):
                place = uris.join(folder, "manifest")  # the server's port is another each time
            shards = sorted(set(few[schema.URI].to_pylist()))
            yield grown(place, few, rows), tuple(shards) if name.endswith("shards") else ()
        finally:
            store.stop()


def _copied(data: str, work: Path, count: int) -> str:
    """Copy the files in turn until there are `count`, as links where that can be; gives their
    folder."""
    folder = work / f"files-{count}"
    if not folder.exists():
        paths = [Path(uri) for uri in loose_rows(data, count)[schema.URI].to_pylist()]
        making = Path(tempfile.mkdtemp(dir=work))
        for number in range(count):
            path = paths[number % len(paths)]
            copy = making / f"{number:06d}{path.suffix}"
            try:
                os.link(path, copy)
            except OSError:  # another file system
                shutil.copyfile(path, copy)
        making.rename(folder)
    return str(folder)


def _shard_rows(data: str, work: Path) -> pa.Table:
    """Pack the files into shards; gives the manifest rows of their members."""
    out = str(work / f"packed-{Path(data).name}")
    if not versions(f"{out}/manifest"):
        files = loose_rows(data, 10**9)[schema.LENGTH].to_numpy()
        mib = max(1, -(-int((files + 1024).sum()) // NUM_SHARDS) >> 20)
        job("pack", f"source.uri={data}", f"out={out}", f"shard_mib={mib}", "cluster.address=local")
    manifest = open_manifest(f"{out}/manifest")
    return pa.concat_tables(
        manifest.read_row_group(part, group) for part, group, _ in manifest.row_groups()
    )


def _uploaded(rows: pa.Table, store: ObjectStore) -> pa.Table:
    """Copy what rows name to the object store; gives the rows that name the copies."""
    bucket, places = store.make_bucket("corpus"), dict[str, str]()
    for uri in rows[schema.URI].to_pylist():
        places.setdefault(uri, f"{bucket}/{len(places):05d}-{os.path.basename(uri)}")
    with ThreadPoolExecutor(UPLOADS) as threads:
        list(threads.map(lambda uri: uris.write_bytes(places[uri], Path(uri).read_bytes()), places))
    column = pa.array([places[uri] for uri in rows[schema.URI].to_pylist()])
    return rows.set_column(
        rows.schema.get_field_index(schema.URI), schema.MANIFEST.field(schema.URI), column
    )


def table(rows: list[Row]) -> str:
    """Medians of all runs in Markdown, our stream's beside the plain loops'."""
    corpora = defaultdict[tuple[str, str], dict[str, list[Row]]](lambda: defaultdict(list))
    for row in rows:
        corpora[row["corpus"], f"{row['size']} px, {row['rows']:,} rows"][row["contestant"]].append(
            row
        )
    lines = list[str]()
    for (name, what), found in corpora.items():
        lines += [
            f"{name}, {what}:",
            "",
            "| | images per CPU-second | of plain | images/s | of plain on all cores |",
        ]
        lines += ["|---|---|---|---|---|"]
        one, all_cores = (
            _medians(found.get(plain, [])) for plain in ("plain", "plain-on-all-cores")
        )
        for contestant, runs in found.items():
            per_cpu, per_s = _medians(runs)
            lines.append(
                f"| {contestant}, {len(runs)} runs | {per_cpu:,.0f}"
                f" {_range(runs, 'images_per_cpu_s')} | {per_cpu / one[0]:.0%} | {per_s:,.0f}"
                f" {_range(runs, 'images_per_s')} | {per_s / all_cores[1]:.0%} |"
            )
        if "ray" in found:
            last = found["ray"][-1]
            shares = ", ".join(
                f"{kind} {share:.0%}" for kind, share in last["cpu_share"].items() if share >= 0.005
            )
            peaks = ", ".join(
                f"{kind} {peak['rss_mib']:,.0f}" for kind, peak in list(last["peaks"].items())[:6]
            )
            lines += ["", f"CPU seconds through Ray: {shares}; peak resident MiB: {peaks}"]
        lines.append("")
    return "\n".join(lines)


def _medians(runs: list[Row]) -> tuple[float, float]:
    if not runs:
        return float("nan"), float("nan")
    return statistics.median(row["images_per_cpu_s"] for row in runs), statistics.median(
        row["images_per_s"] for row in runs
    )


def _range(runs: list[Row], key: str) -> str:
    values = [row[key] for row in runs]
    return f"({min(values):,.0f}-{max(values):,.0f})"


def main(words: list[str]) -> int:
    """Measure every corpus; the table goes to stdout, JSON lines to `out`."""
    defaults = {
        "corpora": ",".join(CORPORA),
        "size": "224",
        "batch": "256",
        "seconds": "60",
        "runs": "3",
    }
    defaults |= {
        "rows": "20000",
        "contestants": ",".join(CONTESTANTS),
        "work": "ingest",
        "out": "ingest.jsonl",
    }
    given = settings(words, USAGE, data="", **defaults)
    work, seconds, out = Path(given["work"]).resolve(), float(given["seconds"]), Path(given["out"])
    work.mkdir(parents=True, exist_ok=True)
    for name in given["corpora"].split(","):
        with corpus(name, str(Path(given["data"]).resolve()), work, int(given["rows"])) as (
            manifest,
            shards,
        ):
            for _ in range(int(given["runs"])):
                rates = dict[str, float]()
                for contestant in _named(given["contestants"], shards):
                    warm = WARM_UP_S.get(contestant, OTHERS_WARM_UP_S)
                    progress = str(work / "progress")
                    setup = Setup(
                        manifest.uri,
                        shards,
                        int(given["size"]),
                        int(given["batch"]),
                        warm + seconds + COOL_DOWN_S,
                        progress,
                    )
                    row = watch(CONTESTANTS[contestant], setup, seconds, warm_up_s=warm)
                    rates[contestant] = row["images_per_s"]
                    what = {
                        "corpus": name,
                        "contestant": contestant,
                        "size": setup.size,
                        "rows": manifest.num_rows,
                        "ratios": _ratios(f"{name}, {setup.size} px", rates, contestant),
                    }
                    add_row(
                        out,
                        what | row | {"settings": given, "at": time.time()},
                    )
                    print(
                        f"{name}: {contestant}: {row['images_per_s']:,.0f} images/s",
                        file=sys.stderr,
                    )
    print(table(read_rows(out)))
    print(out)
    return 0


def _ratios(what: str, rates: dict[str, float], last: str) -> dict[str, float]:
    """Our stream's speed beside each other contestant's of the run, where `last` is one of the
    two."""
    if "ray" not in rates:
        return {}
    return {
        f"ingest, {what}: ray / {other}": rates["ray"] / rate
        for other, rate in rates.items()
        if other != "ray" and last in ("ray", other)
    }


def _named(given: str, shards: tuple[str, ...]) -> list[str]:
    """Contestants that were asked for and can read the corpus."""
    return [name for name in given.split(",") if shards or name != "webdataset"]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
