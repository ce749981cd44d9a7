"""What exporting embeddings through the job costs, beside a plain PyTorch DataLoader loop with the
same encoder.

python -m benchmarks.export data=DIR [encoder=resnet18] [size=224] [repeats=3] [out=FILE.json]
[contestants=loop,job,two_nodes]

Both decode the same files, embed them on the CPU and keep float32 vectors with their ids, in turn.
The loop is what a user would write: an `ImageFolder`-like dataset of Pillow and torchvision, a
DataLoader with as many workers as cores, `encoder(batch)`, one `np.save` at the end. `loop_own`
decodes with this project's decoder instead, so that what Ray costs is told from what decoding
costs. Of each, rate and CPU time count from the first batch embedded to the last: what starting
takes stands beside it. CPU time an image tells more where other work disturbs the clock.
`two_nodes` is the job on two local nodes of Ray, beside `one_node`, one of them.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch

from benchmarks.job_runs import add_row, settings
from benchmarks.process_tree import ProcessTree
from models import artifact

USAGE = " ".join((__doc__ or "").split("\n\n")[1].split())
BATCH = 64
Row = dict[str, Any]


def make_artifact(folder: str, encoder: str, size: int) -> str:
    """Write an artifact with random weights: what an encoder costs does not depend on them."""
    from augment.recipe import IMAGENET_MEAN, IMAGENET_STD
    from models.encoders.factory import EncoderConfig, build_encoder

    config = EncoderConfig(name=encoder)
    artifact.save(
        folder,
        build_encoder(config, size),
        config={"encoder": config.model_dump(mode="json"), "seed": 0},
        preprocess={"image_size": size, "mean": IMAGENET_MEAN, "std": IMAGENET_STD},
        provenance={},
    )
    return folder


class Files(torch.utils.data.Dataset[tuple[int, torch.Tensor]]):
    """Image files as a user's own dataset opens them.

    Args:
        paths: The files.
        size: Side of the centre crop, px.
        own: Whether this project's decoder and crop take the place of Pillow and torchvision.
    """

    def __init__(self, paths: list[str], size: int, own: bool) -> None:
        self._paths = paths
        self._size = size
        self._own = own

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> tuple[int, torch.Tensor]:
        read = self._read_own if self._own else self._read_plain
        return index, read(self._paths[index])

    def _read_plain(self, path: str) -> torch.Tensor:
        from PIL import Image
        from torchvision.transforms import v2

        with Image.open(path) as image:
            rgb = image.convert("RGB")
        side = min(rgb.size)
        square = v2.functional.center_crop(v2.functional.pil_to_tensor(rgb), [side, side])
        return v2.functional.resize(square, [self._size, self._size], antialias=True)

    def _read_own(self, path: str) -> torch.Tensor:
        from pipelines.media.contract import Limits
        from pipelines.media.decoder import PROCESS, kept_decoder
        from pipelines.stream.shapes import Centre

        columns = Centre(self._size).empty(1)
        filler = Centre(self._size).filler(columns, np.zeros(1), np.zeros(1))
        decoder = kept_decoder(Limits(), PROCESS)
        data = Path(path).read_bytes()
        filler.fill(
            0, decoder.image(data, lambda height, width: filler.reduction(0, height, width))
        )
        return torch.from_numpy(columns["image"][0])


def loop(place: str, paths: list[str], size: int, out: str, own: bool) -> list[tuple[float, int]]:
    """Embed files in a plain loop; returns when each batch was done, and its images."""
    encoder = artifact.load(place).to(memory_format=torch.channels_last)
    workers = len(os.sched_getaffinity(0))
    loader = torch.utils.data.DataLoader(Files(paths, size, own), BATCH, num_workers=workers)
    ids = []
    vectors = []
    marks = []
    with torch.inference_mode():
        for index, images in loader:
            prepared = encoder.preprocess(images).contiguous(memory_format=torch.channels_last)
            vectors.append(encoder(prepared).numpy())
            ids.append(index.numpy())
            marks.append((time.time(), len(index)))
    np.save(out, np.concatenate(vectors))
    np.save(f"{out}.ids", np.concatenate(ids))
    return marks


def measure_loop(place: str, paths: list[str], size: int, out: str, own: bool) -> Row:
    """Run the loop in a process of its own."""
    given = json.dumps({"place": place, "paths": paths, "size": size, "out": out, "own": own})
    code = "import json, sys; from benchmarks.export import loop\n"
    code += "print(json.dumps(loop(**json.loads(sys.stdin.read()))))"
    begun = time.time()
    said, tree = watched([sys.executable, "-c", code], given)
    return rate(begun, json.loads(said), tree)


def measure_job(place: str, source: str, out: str, words: list[str]) -> Row:
    """Run jobs.export; its parts' files say when rows were written."""
    command = [sys.executable, "-m", "jobs.export", f"artifact={place}", f"source.uri={source}"]
    command += [f"out={out}", f"part_rows={BATCH}", *words, "--json"]
    begun = time.time()
    _, tree = watched(command, "")
    parts = Path(out, "embeddings").glob("*.parquet")
    marks = [(path.stat().st_mtime, pq.read_metadata(path).num_rows) for path in parts]
    return rate(begun, sorted(marks), tree)


def watched(command: list[str], given: str) -> tuple[str, ProcessTree]:
    """Run a command to its end; returns what it printed last, and what its processes used.

    Raises:
        RuntimeError: it failed.
    """
    pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    process = subprocess.Popen(command, text=True, **pipes)
    with ProcessTree(process.pid) as tree:
        said, errors = process.communicate(given)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}:\n{errors}")
    return said.splitlines()[-1], tree


def rate(begun: float, marks: list[tuple[float, int]], tree: ProcessTree) -> Row:
    """Return images a second and CPU seconds an image between the first mark and the last."""
    first = marks[0][0]
    last = marks[-1][0]
    behind = sum(number for _, number in marks[1:])
    used = tree.cpu_s(first, last)
    return {
        "images_per_s": behind / (last - first),
        "cpu_ms_per_image": 1000 * sum(used.values()) / behind,
        "cpu_s": used,
        "whole_images_per_s": sum(number for _, number in marks) / (time.time() - begun),
        "first_s": first - begun,
    }


def nodes(count: int) -> Iterator[str]:
    """Start local nodes of one logical CPU for embedding and one for decoding each; yields their
    address."""
    from ray.cluster_utils import Cluster

    small = {"num_cpus": 2, "object_store_memory": 300 << 20}
    cluster = Cluster(initialize_head=True, head_node_args=small)
    try:
        for _ in range(count - 1):
            cluster.add_node(**small)
        yield cluster.address
    finally:
        cluster.shutdown()


def contestants(
    given: dict[str, str], place: str, paths: list[str], folder: str
) -> dict[str, Callable[[int], Row]]:
    """Return who is measured: name to a function of the number of the repeat."""
    size = int(given["size"])

    def on_nodes(count: int) -> Callable[[int], Row]:
        def run(repeat: int) -> Row:
            for address in nodes(count):
                words = [f"cluster.address={address}", "cluster.shared_fs=true"]
                words += [f"cluster.num_workers={count}", "cluster.cpus_per_worker=1"]
                return measure_job(place, given["data"], f"{folder}/nodes{count}-{repeat}", words)
            raise AssertionError("no cluster")

        return run

    return {
        "loop": lambda repeat: measure_loop(
            place, paths, size, f"{folder}/loop{repeat}.npy", own=False
        ),
        "loop_own": lambda repeat: measure_loop(
            place, paths, size, f"{folder}/own{repeat}.npy", own=True
        ),
        "job": lambda repeat: measure_job(
            place, given["data"], f"{folder}/job{repeat}", ["cluster.address=local"]
        ),
        "one_node": on_nodes(1),
        "two_nodes": on_nodes(2),
    }


def main(words: list[str]) -> int:
    """Measure in turn, and print a table."""
    given = settings(
        words,
        USAGE,
        data="",
        encoder="resnet18",
        size="224",
        repeats="3",
        contestants="loop,loop_own,job",
        out="export.jsonl",
    )
    paths = sorted(str(path) for path in Path(given["data"]).rglob("*") if path.is_file())
    rates: dict[str, list[Row]] = {name: [] for name in given["contestants"].split(",")}
    with tempfile.TemporaryDirectory(prefix="afield-bench-") as folder:
        place = make_artifact(f"{folder}/artifact", given["encoder"], int(given["size"]))
        runs = contestants(given, place, paths, folder)
        for repeat in range(int(given["repeats"])):
            for name in rates:
                rates[name].append(runs[name](repeat))
                print(f"{repeat} {name}: {rates[name][-1]}", file=sys.stderr, flush=True)
    rows = {name: _summed(found) for name, found in rates.items()}
    first = next(iter(rows.values()))["images_per_s"]
    print(
        "| | images/s | range | of the first | CPU ms an image | whole run | first after |\n"
        "|---|---|---|---|---|---|---|"
    )
    for name, row in rows.items():
        low, high = row["range"]
        share = row["images_per_s"] / first
        print(
            f"| {name} | {row['images_per_s']:.1f} | {low:.1f} to {high:.1f} | {share:.0%} |"
            f" {row['cpu_ms_per_image']:.1f} | {row['whole_images_per_s']:.1f} |"
            f" {row['first_s']:.1f} s |"
        )
    ratios = {
        f"export, {given['encoder']} at {given['size']} px: job / {name}": rows["job"][
            "images_per_s"
        ]
        / row["images_per_s"]
        for name, row in rows.items()
        if "job" in rows and name != "job"
    }
    add_row(
        Path(given["out"]), {"set": given, "images": len(paths), "rates": rates, "ratios": ratios}
    )
    return 0


def _summed(found: list[Row]) -> Row:
    names = ("images_per_s", "cpu_ms_per_image", "whole_images_per_s", "first_s")
    row: Row = {name: statistics.median(each[name] for each in found) for name in names}
    each = [one["images_per_s"] for one in found]
    return row | {"range": (min(each), max(each))}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
