"""What a cluster says of itself, held against the installed Ray."""

from typing import Any

import pytest
import ray

from jobs.cluster import ray_cluster


def test_a_dashboard_is_no_job_that_holds_room() -> None:
    def driver(id: str, entrypoint: str, dead: bool = False) -> dict[str, Any]:
        return {"JobID": id, "Entrypoint": entrypoint, "IsDead": dead}

    table = [
        driver("01000000", "python -m jobs.pretrain"),
        driver("02000000", 'ray::DashboardAgent "" ""'),
        driver("03000000", "python -m jobs.pack", dead=True),
        driver("04000000", "python -m jobs.export"),
        driver("05000000", ""),
    ]
    assert ray_cluster.drivers_but("01000000", table) == ["python -m jobs.export"]


@pytest.mark.usefixtures("ray_session")
def test_what_a_run_that_has_ended_asked_for_is_dropped_and_a_living_runs_request_is_not() -> None:
    from ray.data._internal.cluster_autoscaler import get_or_create_autoscaling_coordinator

    coordinator = get_or_create_autoscaling_coordinator()

    def asks(name: str, silent_s: float) -> None:
        left_s = ray_cluster.EXPIRES_S - silent_s
        ray.get(coordinator.request_resources.remote(name, [{"CPU": 1}], left_s))

    names = ("train-alive", "train-silent", "train-ended", "data-silent")
    for name, silent_s in zip(names, (0, 35, 70, 70), strict=True):
        asks(name, silent_s)
    assert ray_cluster.drop_unheard_requests(60) == 1
    kept = coordinator.__ray_call__.remote(lambda self: set(self._ongoing_reqs))
    assert ray.get(kept) & {*names} == {*names} - {"train-ended"}
    for name in names:
        ray.get(coordinator.cancel_request.remote(name))
