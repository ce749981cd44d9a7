"""Who is measured by `benchmarks.ingest`: each streams batches of crops and does nothing with them,
in a process tree of its own.

All of them fetch, decode and crop with the same functions; they differ in what carries the work:
our stream through Ray, loops without any of it, torch's DataLoader, webdataset.
"""

import itertools
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from jobs.cluster.cores import own_cores
from jobs.training.run_config import PretrainConfig, load_pretrain
from pipelines import schema
from pipelines.corpus.manifest import open_manifest
from pipelines.media.contract import Limits
from pipelines.media.decoder import Decoder
from pipelines.storage import uris
from pipelines.stream import fetch
from pipelines.stream.plan import Plan
from pipelines.stream.shapes import Columns, Crops

NUM_WORKERS = 2  # of DataLoader and webdataset
PLAIN_ROWS = 64  # fetched at a time
_DECODER = Decoder(Limits())


@dataclass(frozen=True)
class Setup:
    """What every contestant does.

    Attributes:
        manifest: URI of the manifest.
        shards: URIs of the tar shards; none for loose files.
        size: Side of the two crops, px.
        batch: Images of a batch.
        seconds: How long to go on after the first batch.
        progress: Local file to which the images of each batch are written, with the time.
    """

    manifest: str
    shards: tuple[str, ...]
    size: int
    batch: int
    seconds: float
    progress: str

    def config(self) -> PretrainConfig:
        """The pretraining run whose data this is."""
        values = {
            "source": {"uri": self.manifest},
            "out": "/unused",
            "method": {"name": "simclr"},
            "num_steps": 10**7,
        }
        views = {"size": self.size, "placement": "worker"}
        cluster = {"address": "local", "max_failures": 0}
        return load_pretrain(
            {**values, "views": views, "cluster": cluster, "global_batch_size": self.batch}
        )

    def crops(self) -> Crops:
        """What is cut of each image."""
        config = self.config()
        return Crops(config.views, config.seed, photometric=False)

    def consume(self, batches: Iterable[int]) -> None:
        """Take batches, each as its number of images, until the time is over."""
        end = None
        with open(self.progress, "a", buffering=1) as file:
            for images in batches:
                now = time.time()
                end = end or now + self.seconds
                file.write(f"{now} {images}\n")
                if now > end:
                    return


def cut(data: Iterable[bytes], crops: Crops, sample_id: np.ndarray) -> Columns:
    """Decode and crop image after image, each while it is in the cache."""
    columns = crops.empty(len(sample_id))
    filler = crops.filler(columns, np.zeros_like(sample_id), sample_id)
    for row, one in enumerate(data):
        filler.fill(row, _DECODER.image(one, partial(filler.reduction, row)))
    return columns


def good(fetched: Iterable[fetch.Fetched]) -> Iterator[bytes]:
    """Bytes of files that are all there."""
    for data in fetched:
        assert isinstance(data, bytes), data
        yield data


def _plain(setup: Setup, number: int) -> None:
    torch.set_num_threads(1)
    plan, crops = Plan.fresh(open_manifest(setup.manifest), number), setup.crops()

    def blocks() -> Iterator[int]:
        for start in itertools.count(0, PLAIN_ROWS):
            rows = pa.concat_tables(plan.rows(start, start + PLAIN_ROWS))
            cut(good(fetch.fetch(rows)), crops, np.array(rows[schema.SAMPLE_ID]))
            yield rows.num_rows

    setup.consume(blocks())


def plain(setup: Setup, processes: int = 1) -> None:
    """Loops over the functions, each in a process of its own."""
    context = get_context("spawn")
    loops = [context.Process(target=_plain, args=(setup, number)) for number in range(processes)]
    for loop in loops:
        loop.start()
    for loop in loops:
        loop.join()


def plain_on_all_cores(setup: Setup) -> None:
    """As many loops as there are cores."""
    plain(setup, own_cores())


def _train_worker(setup: Setup) -> None:
    import ray.train

    stream = ray.train.get_dataset_shard("train").iter_torch_batches(
        batch_size=setup.batch, prefetch_batches=2
    )
    setup.consume(len(columns[schema.SAMPLE_ID]) for columns in stream)


def ours(setup: Setup) -> None:
    """The stream of `jobs.pretrain`, to a training worker of Ray Train that does nothing."""
    import ray.data
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    from jobs.cluster import launch
    from jobs.training.planned_data import PlannedData, Samples
    from jobs.training.run_dir import RunDir

    config = setup.config()
    with (
        tempfile.TemporaryDirectory(prefix="afield-ingest-") as out,
        launch.session(config.cluster) as session,
    ):
        plan = Plan.fresh(open_manifest(setup.manifest), config.seed)
        data = PlannedData(
            config,
            Samples.of_plan(plan, config),
            RunDir(out),
            config.steps(plan),
            placement="worker",
            view_actors=None,
        )
        trainer = TorchTrainer(
            _train_worker,
            train_loop_config=setup,  # type: ignore[arg-type]  # whatever it is, the loop gets it
            scaling_config=ScalingConfig(
                num_workers=1, resources_per_worker={"CPU": session.cpus_per_worker}
            ),
            run_config=RunConfig(name="ingest", storage_path=out),
            datasets={"train": lambda: ray.data.range(1)},
            dataset_config=data.streams(),
        )
        thread = threading.Thread(target=trainer.fit)  # as in jobs.pretrain
        thread.start()
        thread.join()


class _Files(torch.utils.data.Dataset[Columns]):
    """The samples of a manifest by number, a batch at a time: torch's own way for who can fetch
    several at once."""

    def __init__(self, setup: Setup) -> None:
        self._manifest, self._crops = open_manifest(setup.manifest), setup.crops()
        self._rows: pa.Table | None = None

    def __len__(self) -> int:
        return self._manifest.num_rows

    def __getitem__(self, index: int) -> Columns:
        return self.__getitems__([index])

    def __getitems__(self, indices: list[int]) -> Columns:
        torch.set_num_threads(1)
        if self._rows is None:
            groups = [
                self._manifest.read_row_group(*place) for *place, _ in self._manifest.row_groups()
            ]
            self._rows = pa.concat_tables(groups).combine_chunks()
        rows = self._rows.take(pa.array(indices))
        return cut(good(fetch.fetch(rows)), self._crops, np.array(rows[schema.SAMPLE_ID]))


def _as_tensors(columns: Columns) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(column) for name, column in columns.items()}


def data_loader(setup: Setup) -> None:
    """torch's DataLoader."""
    files = _Files(setup)
    order = torch.utils.data.RandomSampler(files, replacement=True, num_samples=10**9)
    loader = torch.utils.data.DataLoader(
        files,
        setup.batch,
        sampler=order,
        num_workers=NUM_WORKERS,
        collate_fn=_as_tensors,
        multiprocessing_context="spawn",
    )
    setup.consume(len(next(iter(batch.values()))) for batch in loader)


def _open_shard(url: str, mode: str = "rb", bufsize: int = 8192, **_: Any) -> Any:
    fs, path = uris.filesystem(url)
    return fs.open(path, mode)


class _Cut:
    """Makes a batch of the samples of shards; pickled with the loader."""

    def __init__(self, setup: Setup) -> None:
        self._crops = setup.crops()

    def __call__(self, samples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        torch.set_num_threads(1)
        files = [
            next(data for suffix, data in sample.items() if not suffix.startswith("__"))
            for sample in samples
        ]
        sample_id = np.random.default_rng().integers(2**63, size=len(samples))
        return _as_tensors(cut(files, self._crops, sample_id))


def _s3_shards(samples: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Open shards as webdataset would, those on S3 by this project's file systems: it would start
    the AWS program."""
    import webdataset

    webdataset.gopen_schemes["s3"] = _open_shard
    yield from samples


def webdataset_loader(setup: Setup) -> None:
    """webdataset's pipeline behind its loader; shards only."""
    import webdataset

    stages = [
        webdataset.ResampledShards(list(setup.shards)),
        _s3_shards,
        webdataset.tarfile_to_samples(),
        webdataset.batched(setup.batch, collation_fn=None),
        webdataset.map(_Cut(setup)),
    ]
    loader = webdataset.WebLoader(
        webdataset.DataPipeline(*stages),
        batch_size=None,
        num_workers=NUM_WORKERS,
        multiprocessing_context="spawn",
    )
    setup.consume(len(next(iter(batch.values()))) for batch in loader)


CONTESTANTS: dict[str, Callable[[Setup], None]] = {
    "plain": plain,
    "plain-on-all-cores": plain_on_all_cores,
    "ray": ours,
    "dataloader": data_loader,
    "webdataset": webdataset_loader,
}
