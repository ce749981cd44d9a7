"""jobs.training.planned_data and the preflight: where colours change, and whether the pool of
actors fits."""

from typing import Any

import pytest

from augment.recipe import Placement
from jobs.cluster import worker_sizes
from jobs.cluster.launch import Session
from jobs.setup.command_line import InputError
from jobs.setup.sections import ClusterConfig
from jobs.training.planned_data import resolve
from pipelines.stream.colour_actors import ActorPool


def session(**changed: Any) -> Session:
    values = {
        "num_workers": 1,
        "min_workers": 1,
        "cpus_per_worker": 1.0,
        "threads_per_worker": 1,
        "use_gpu": True,
        "gpus_per_worker": 1.0,
        "num_nodes": 1,
        "data_cpus": 3.0,
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
        (
            2,
            {"num_workers": 2, "gpus_per_worker": 0.75, "gpus_per_view_actor": 0.5},
        ),  # a quarter of each is left
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
