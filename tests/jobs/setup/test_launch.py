import os
import subprocess
import sys

import pytest

from jobs.setup import launch
from jobs.setup.command_line import InputError
from jobs.setup.sections import ClusterConfig
from jobs.training.run_dir import environment
from pipelines.storage import retries
from tests.commands import ROOT


def test_no_credential_is_forwarded_or_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.setenv(name, "topsecret")
        assert name not in launch.FORWARDED
    assert "topsecret" not in str(environment())


def test_patience_of_the_configuration_reaches_every_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in (retries.RETRY_VARIABLE, retries.TIMEOUT_VARIABLE):
        monkeypatch.setenv(name, "1")
    launch._set_patience(ClusterConfig(storage_retry_s=7, storage_timeout_s=2))
    assert (retries.retry_s(), retries.timeout_s()) == (7, 2)
    assert {retries.RETRY_VARIABLE, retries.TIMEOUT_VARIABLE} <= set(launch.FORWARDED) & set(
        os.environ
    )


@pytest.mark.parametrize("most", [2, 3, 8, 16])
@pytest.mark.parametrize("wanted", ["auto", 1.0, 1.5, 2.0])
def test_a_changing_number_of_workers_leaves_every_node_a_whole_cpu(
    most: int, wanted: str | float
) -> None:
    cluster = ClusterConfig.model_validate({"num_workers": f"1..{most}", "cpus_per_worker": wanted})
    for size in range(3, 33):
        first = launch._cpus_per_worker(cluster, size, own=False, use_gpu=False)
        per_worker = launch._leaving_a_cpu(first, size, cluster)
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
        launch._leaving_a_cpu(1.0 if wanted == "auto" else float(wanted), size, cluster)


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
    wanted = launch._cpus_per_worker(cluster, sum(sizes), own=False, use_gpu=False)
    assert launch._fitting(wanted, sizes, cluster) == taken


def test_workers_that_no_node_can_hold_are_refused() -> None:
    cluster = ClusterConfig(num_workers=2, cpus_per_worker=3.0)
    with pytest.raises(InputError, match="find room for 1 on nodes of 2, 2, 4 CPUs"):
        launch._fitting(3.0, [2, 2, 4], cluster)


def test_the_cores_of_this_process_are_those_it_may_run_on() -> None:
    script = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from jobs.setup import launch; print(launch.own_cores())"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "1", done.stderr
