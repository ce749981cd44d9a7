"""What a job may take of the cluster that cluster.yaml describes, of which only the head is up."""

from typing import Any

import pytest
import yaml

from jobs.cluster import available, ray_cluster, share
from jobs.cluster.available import Capacity
from jobs.setup.failures import InputError
from jobs.setup.sections import ClusterConfig
from tests.commands import ROOT

HEAD = {"CPU": 0.0, "GPU": 0.0}


def shipped() -> Capacity:
    kinds = ray_cluster._types_in(yaml.safe_load((ROOT / "cluster.yaml").read_text()))
    return Capacity((HEAD,), (HEAD,), tuple(available._to_come([HEAD], kinds)), unknown=False)


def check(found: Capacity, work: share.Work = "train", **values: Any) -> None:
    cluster = ClusterConfig(**values)
    use_gpu = share._uses_gpus(cluster, found)
    gpus = available.total(found.at_most, "GPU")
    asked = share._asked(cluster, work, "worker", use_gpu=use_gpu, gpus=gpus)
    share._check_possible(
        cluster, found, work, asked, own=False, use_gpu=use_gpu, placement="worker"
    )


def test_the_shipped_cluster_may_hold_every_kind_of_work() -> None:
    found = shipped()
    assert len(found.to_come) == 12 and available.total(found.at_most, "GPU") == 16
    for work in ("train", "embed", "tasks"):
        check(found, work, num_workers=4)  # type: ignore[arg-type]
    check(found, num_workers=16)
    check(found, num_workers="2..16")


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ({"num_workers": 17, "use_gpu": True}, "the cluster has 16 GPUs"),
        ({"num_workers": 4, "cpus_per_worker": 64.0}, "find room for 0"),
        ({"num_workers": 16, "cpus_per_worker": 48.0}, "leave -320 of 448 CPUs"),
        (
            {"num_workers": "1..4", "cpus_per_worker": 48.0, "use_gpu": False},
            "may take all 48 CPUs",
        ),
    ],
)
def test_what_no_node_that_may_come_holds_is_refused(values: dict[str, Any], error: str) -> None:
    with pytest.raises(InputError, match=error):
        check(shipped(), **values)


def test_gpus_are_chosen_by_what_may_come() -> None:
    data = {"CPU": 32.0, "GPU": 0.0}
    up = Capacity((HEAD, data), (HEAD, data), shipped().to_come, unknown=False)
    assert share._uses_gpus(ClusterConfig(num_workers=4), up)
    assert not share._uses_gpus(
        ClusterConfig(num_workers=4), Capacity(up.totals, up.free, (), unknown=False)
    )


def test_nodes_that_are_up_are_not_to_come_again() -> None:
    kinds = [ray_cluster.NodeType({"CPU": 8, "memory": 1e9}, 3)]
    node = {"CPU": 8.0, "GPU": 0.0}
    assert len(list(available._to_come([HEAD, node], kinds))) == 2


def test_a_local_path_is_for_one_node_or_for_a_shared_file_system() -> None:
    one, two = 1, 2
    share._check_paths(ClusterConfig(), ["/data", "s3://bucket/out"], one)
    share._check_paths(ClusterConfig(), ["s3://bucket/data", "gs://bucket/out"], two)
    share._check_paths(ClusterConfig(shared_fs=True), ["/data", "/out"], two)
    with pytest.raises(InputError, match=r"^/out is a local path and the cluster has 2 nodes"):
        share._check_paths(ClusterConfig(), ["s3://bucket/data", "/out"], two)
