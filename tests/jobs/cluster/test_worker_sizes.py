import pytest

from jobs.cluster import worker_sizes
from jobs.setup.command_line import InputError
from jobs.setup.sections import ClusterConfig


@pytest.mark.parametrize("most", [2, 3, 8, 16])
@pytest.mark.parametrize("wanted", ["auto", 1.0, 1.5, 2.0])
def test_a_changing_number_of_workers_leaves_every_node_a_whole_cpu(
    most: int, wanted: str | float
) -> None:
    cluster = ClusterConfig.model_validate({"num_workers": f"1..{most}", "cpus_per_worker": wanted})
    for size in range(3, 33):
        first = worker_sizes.cpus_per_worker(cluster, size, own=False, use_gpu=False)
        per_worker = worker_sizes.leaving_a_cpu(first, size, cluster)
        started = min(most, int(size // per_worker))
        assert started >= 1 and size - started * per_worker >= 1, size
        assert wanted == "auto" or per_worker >= float(wanted)


@pytest.mark.parametrize(("size", "wanted"), [(1, "auto"), (2, "auto"), (2, 1.0), (4, 4.0)])
def test_a_changing_number_of_workers_that_may_take_every_cpu_is_refused(
    size: int, wanted: str | float
) -> None:
    cluster = ClusterConfig.model_validate({"num_workers": "1..4", "cpus_per_worker": wanted})
    with pytest.raises(
        InputError, match=f"may take all {size} CPUs of a node.*nodes of 3 CPUs or more"
    ):
        worker_sizes.leaving_a_cpu(1.0 if wanted == "auto" else float(wanted), size, cluster)


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
    cluster = ClusterConfig(num_workers=workers)
    wanted = worker_sizes.cpus_per_worker(cluster, sum(sizes), own=False, use_gpu=False)
    assert worker_sizes.fitting(wanted, sizes, cluster) == taken


def test_workers_that_no_node_can_hold_are_refused() -> None:
    cluster = ClusterConfig(num_workers=2, cpus_per_worker=3.0)
    with pytest.raises(InputError, match="find room for 1 on nodes of 2, 2, 4 CPUs"):
        worker_sizes.fitting(3.0, [2, 2, 4], cluster)
