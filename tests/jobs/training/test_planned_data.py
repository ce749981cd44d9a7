"""jobs.training.planned_data and the preflight: who gets which samples, where colours change, and
whether the pool of actors fits."""

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from ray.data import DataIterator

from augment.recipe import Placement
from jobs.cluster import worker_sizes
from jobs.cluster.available import largest_store
from jobs.cluster.share import Session
from jobs.setup.command_line import parse
from jobs.setup.failures import InputError
from jobs.setup.inputs import make_manifest
from jobs.setup.sections import ClusterConfig
from jobs.training import checkpoints
from jobs.training.planned_data import PlannedData, Samples, check_batch_fits, resolve
from jobs.training.run_config import complete_pretrain
from jobs.training.run_dir import RunDir
from pipelines import ray_internals, schema
from pipelines.stream.colour_actors import ActorPool
from pipelines.stream.plan import Plan


def session(**changed: Any) -> Session:
    values = {
        "num_workers": 1,
        "min_workers": 1,
        "cpus_per_worker": 1.0,
        "threads_per_worker": 1,
        "use_gpu": True,
        "gpus_per_worker": 1.0,
        "view_actors": None,
    }
    return Session(**(values | changed))


def pool(
    gpus: float,
    cpus: float = 4,
    *,
    use_gpu: bool = True,
    placement: Placement = "actor",
    **cluster: Any,
) -> ActorPool | None:
    return worker_sizes.view_actors_beside(
        ClusterConfig(**cluster), gpus, cpus, use_gpu=use_gpu, placement=placement
    )


@pytest.mark.parametrize("placement", ["worker", "actor", "decode"])
def test_a_placement_that_was_asked_for_is_taken(placement: Placement) -> None:
    assert resolve(placement, session()) == placement


def test_auto_takes_actors_on_spare_gpus_the_worker_on_its_own_and_else_the_decode_task() -> None:
    assert resolve("auto", session(view_actors=ActorPool(2, 0.5))) == "actor"
    assert resolve("auto", session(view_actors=None)) == "worker"
    assert (
        resolve("auto", session(view_actors=ActorPool(2, 0.25), gpus_per_worker=0.75)) == "worker"
    )
    assert resolve("auto", session(use_gpu=False, view_actors=ActorPool(1, 0))) == "decode"


def test_actors_compute_on_the_cpu_where_there_are_no_gpus() -> None:
    assert pool(0, use_gpu=False, view_actors=2) == ActorPool(2, 0)
    assert pool(4, gpus_per_view_actor=0) == ActorPool(1, 0)


def test_actors_get_the_gpus_that_training_leaves_whole_or_in_shares() -> None:
    assert pool(3, num_workers=2) == ActorPool(1, 1)
    assert pool(3, num_workers=2, view_actors=4, gpus_per_view_actor=0.25) == ActorPool(4, 0.25)
    shares = {"gpus_per_worker": 0.6, "gpus_per_view_actor": 0.2}
    assert pool(2, num_workers=2, view_actors=4, **shares) == ActorPool(4, 0.2)


@pytest.mark.parametrize(
    ("gpus", "cluster"),
    [
        (1, {}),  # training takes the only one
        (2, {"num_workers": "1..2"}),  # and would grow into the second
        # a quarter of each is left
        (2, {"num_workers": 2, "gpus_per_worker": 0.75, "gpus_per_view_actor": 0.5}),
        (2, {"view_actors": 3, "gpus_per_view_actor": 0.5}),
    ],
)
def test_actors_that_find_no_gpu_are_refused_in_one_line(
    gpus: float, cluster: dict[str, Any]
) -> None:
    with pytest.raises(
        InputError, match=r"cluster.view_actors=\d x cluster.gpus_per_view_actor=\S+ do not fit"
    ) as caught:
        pool(gpus, **cluster)
    assert "\n" not in str(caught.value)
    assert pool(gpus, placement="auto", **cluster) is None


def test_actors_leave_decoding_the_cpu_that_it_needs() -> None:
    assert pool(0, 1, use_gpu=False) == ActorPool(1, 0)
    with pytest.raises(
        InputError, match=r"cluster.view_actors=3 hold 0.15 of the 1 CPUs that training leaves"
    ):
        pool(0, 1, use_gpu=False, view_actors=3)


@pytest.fixture
def corpus(image_folder: Path, tmp_path: Path) -> Path:
    """24 images."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    for path in sorted((image_folder / "scene0").glob("*.jpg"))[:12]:
        shutil.copy(path, folder / path.name)
        shutil.copy(path, folder / f"again-{path.name}")
    return folder


def planned(corpus: Path, out: Path, placement: Placement, *words: str) -> PlannedData:
    """The data of a run of 6 steps of 8 samples, 2 of which are committed."""
    manifest = make_manifest(str(corpus), str(out / "manifest"))
    plan = Plan.fresh(manifest, 0)
    place = out / checkpoints.FOLDER / checkpoints.name_of(2)
    place.mkdir(parents=True)
    checkpoints.write(str(place), {"step": 2}, plan.ledger.at(16))
    ray_internals.write_snapshot(str(place.parent), place.name, {"step": 2})
    given = [f"source.uri={corpus}", f"out={out}", "num_steps=6", "global_batch_size=8"]
    shape = ["simclr_small", "views.size=16", *given, *words]
    config = parse(complete_pretrain, shape)
    samples = Samples.of_plan(plan, config)
    return PlannedData(config, samples, RunDir(str(out)), 6, placement=placement, view_actors=None)


def read(shards: list[DataIterator]) -> list[dict[str, np.ndarray]]:
    """All that each rank gets, its batches joined; ranks wait for one another."""

    def one(shard: DataIterator) -> dict[str, np.ndarray]:
        batches = list(shard.iter_batches(batch_size=None))
        return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}

    with ThreadPoolExecutor(len(shards)) as threads:
        return list(threads.map(one, shards))


@pytest.mark.usefixtures("ray_session")
def test_a_batch_that_no_object_store_holds_is_refused(corpus: Path, tmp_path: Path) -> None:
    data = planned(corpus, tmp_path / "run", "decode")
    check_batch_fits(data.work(2), largest_store())
    config = data.config.model_copy(update={"global_batch_size": 10**11})
    huge = replace(data, config=config).work(2)
    with pytest.raises(InputError, match="global_batch_size: a worker's 50,000,000,000 samples"):
        check_batch_fits(huge, largest_store())


@pytest.mark.usefixtures("ray_session")
def test_ranks_share_every_step_from_the_committed_one_to_the_last(
    corpus: Path, tmp_path: Path
) -> None:
    data = planned(corpus, tmp_path / "run", "decode", "method.name=mae", "accumulate=2")
    shards = data.streams().configure({}, 2)
    ranks = read([shard["train"] for shard in shards])
    found = [rank[schema.POSITION].reshape(-1, 2) for rank in ranks]  # micro-batches
    assert all(len(of_rank) == 8 for of_rank in found)
    steps = np.stack(found, axis=1)  # (micro-batch, rank, 2)
    assert np.array_equal(steps.reshape(-1), np.arange(16, 48))


@pytest.mark.long
@pytest.mark.usefixtures("ray_session")
def test_samples_are_verified_and_colours_changed_where_that_is_asked_for(
    corpus: Path, tmp_path: Path
) -> None:
    plain = planned(corpus, tmp_path / "plain", "worker")
    strict = planned(corpus, tmp_path / "strict", "decode", "source.verify=etag")
    os.utime(corpus / "01.jpg", ns=(0, 1))  # written again, for all that anybody can tell
    ((crops,), (coloured,)) = (
        read([shard["train"] for shard in data.streams().configure({}, 1)])
        for data in (plain, strict)
    )
    assert np.array_equal(crops[schema.SAMPLE_ID], coloured[schema.SAMPLE_ID])
    assert crops[schema.VALID].all()
    bad = ~coloured[schema.VALID]
    assert 1 <= bad.sum() <= 2 and len(set(coloured[schema.SAMPLE_ID][bad])) == 1
    same = (crops["global_crops"] == coloured["global_crops"]).reshape(len(bad), -1).all(axis=1)
    assert not same[~bad].all()


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_each_rank_gets_second_images_as_they_were_cut(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "depth").mkdir()
    for path in corpus.iterdir():
        width, height = Image.open(path).size
        rows, columns = np.mgrid[:height, :width]
        depth = Image.fromarray((rows * 100 + columns).astype(np.uint16))
        depth.save(tmp_path / f"depth/{path.stem}.png")
    words = ("source.pair=../depth/{stem}.png", "source.pair_kind=depth")
    data = planned(corpus, tmp_path / "run", "worker", *words)
    for columns in read([shard["train"] for shard in data.streams().configure({}, 2)]):
        pairs = columns[schema.PAIR]
        assert columns[schema.VALID].all()
        assert pairs.shape == (16, 2, 1, 16, 16)
        assert pairs.dtype == np.int32
        step = pairs[:, :, 0, 1:] - pairs[:, :, 0, :-1]  # a row further down, no column aside
        # nearest neighbours: a box lower than the view shows a row twice
        assert (step >= 0).all() and (step % 100 == 0).all() and (step > 0).mean() > 0.9
