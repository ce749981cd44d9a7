import pytest

from jobs.cluster import worker_sizes
from jobs.cluster.available import Capacity
from jobs.setup.failures import InputError
from jobs.setup.sections import ClusterConfig


@pytest.mark.parametrize("most", [2, 3, 8, 16])
@pytest.mark.parametrize("wanted", ["auto", 1.0, 1.5, 2.0])
@pytest.mark.parametrize("beside", [[], [9.0], [5.0, 64.0]])
def test_a_changing_number_of_workers_leaves_every_node_a_whole_cpu(
    most: int, wanted: str | float, beside: list[float]
) -> None:
    cluster = ClusterConfig.model_validate({"num_workers": f"1..{most}", "cpus_per_worker": wanted})
    for first in range(3, 33):
        sizes = [float(first), *beside]
        per_worker = worker_sizes.leaving_a_cpu(sizes, cluster)
        started = {size: min(most, int(size // per_worker)) for size in sizes}
        assert sum(started.values()) >= 1
        assert all(size - count * per_worker >= 1 for size, count in started.items() if count)
        assert wanted == "auto" or per_worker >= float(wanted)


@pytest.mark.parametrize(
    ("most", "sizes", "taken"), [(2, [2, 32], 8), (4, [4, 4, 16], 3.0), (4, [16], 2)]
)
def test_a_changing_number_of_workers_is_not_sized_by_the_smallest_node(
    most: int, sizes: list[float], taken: float
) -> None:
    cluster = ClusterConfig(num_workers=f"1..{most}")
    assert worker_sizes.leaving_a_cpu(sizes, cluster) == taken


@pytest.mark.parametrize(("size", "wanted"), [(1, "auto"), (2, "auto"), (2, 1.0), (4, 4.0)])
def test_a_changing_number_of_workers_that_may_take_every_cpu_is_refused(
    size: int, wanted: str | float
) -> None:
    cluster = ClusterConfig.model_validate({"num_workers": "1..4", "cpus_per_worker": wanted})
    with pytest.raises(
        InputError, match=f"may take all {size} CPUs of a node.*nodes of 3 CPUs or more"
    ):
        worker_sizes.leaving_a_cpu([size], cluster)


@pytest.mark.parametrize(
    ("workers", "sizes", "taken"),
    [
        (1, [2, 2, 2, 2], 1),  # half of the cluster, 4 CPUs, is more than any node has
        (1, [0, 8, 8], 7),
        (2, [16], 4),
        (4, [8, 8, 8], 3),
        (2, [2, 2], 1),
        (4, [2, 2], 1),  # no whole CPU is left, which is refused elsewhere
    ],
)
def test_a_fixed_number_of_workers_fits_the_nodes(
    workers: int, sizes: list[float], taken: float
) -> None:
    assert worker_sizes.fitting(sizes, ClusterConfig(num_workers=workers)) == taken


def test_workers_that_no_node_can_hold_are_refused() -> None:
    cluster = ClusterConfig(num_workers=2, cpus_per_worker=3.0)
    with pytest.raises(InputError, match="find room for 1 on nodes of 2, 2, 4 CPUs"):
        worker_sizes.check_room([2, 2, 4], 2, cluster)


def test_workers_are_fitted_to_what_is_free() -> None:
    totals = ({"CPU": 16.0, "GPU": 0.0},)
    free = ({"CPU": 4.0, "GPU": 0.0},)
    found = Capacity(totals, free, (), unknown=False)
    fixed = ClusterConfig(num_workers=1)
    changing = ClusterConfig(num_workers="1..2")
    sizes = {"own": False, "use_gpu": False}
    assert worker_sizes.cpus_of_each(fixed, found, elastic=True, **sizes) == 2
    assert worker_sizes.cpus_of_each(changing, found, elastic=True, **sizes) == 1
    none_left = Capacity(totals, ({"CPU": 1.0, "GPU": 0.0},), (), unknown=False)
    assert worker_sizes.cpus_of_each(changing, none_left, elastic=True, **sizes) == 4
