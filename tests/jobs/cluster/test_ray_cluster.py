"""What a cluster says of itself, held against the installed Ray."""

import sys
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
import ray
from ray import cloudpickle

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


@pytest.fixture
def requests(ray_session: None) -> Iterator[Callable[[], set[str]]]:
    """Requests of two training runs and a stream, heard of 0 to 70 s ago; what is left of them."""
    from ray.data._internal.cluster_autoscaler import get_or_create_autoscaling_coordinator

    coordinator = get_or_create_autoscaling_coordinator()
    heard = {"train-alive": 0, "train-silent": 35, "train-ended": 70, "data-alive": 9}
    heard |= {"data-ended": 70}
    for name, silent_s in heard.items():
        left_s = ray_cluster.EXPIRES_S - silent_s
        ray.get(coordinator.request_resources.remote(name, [{"CPU": 1}], left_s))

    def left() -> set[str]:
        named = coordinator.__ray_call__.remote(lambda self: set(self._ongoing_reqs))
        return {*heard} & set(ray.get(named))

    yield left
    for name in heard:
        ray.get(coordinator.cancel_request.remote(name))


def test_what_a_run_that_has_ended_asked_for_is_dropped_and_a_living_runs_request_is_not(
    requests: Callable[[], set[str]],
) -> None:
    assert ray_cluster.drop_unheard_requests(60) == 1
    assert requests() == {"train-alive", "train-silent", "data-alive"}


def test_what_the_coordinator_is_asked_needs_no_module_of_this_project_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[bytes] = []
    call = SimpleNamespace(remote=lambda ask: asked.append(cloudpickle.dumps(ask)))
    monkeypatch.setattr("ray.get_actor", lambda *_, **__: SimpleNamespace(__ray_call__=call))
    monkeypatch.setattr("ray.get", lambda *_, **__: 0)
    monkeypatch.setattr(ray_cluster, "other_jobs", list)
    monkeypatch.setattr(
        ray_cluster, "state", SimpleNamespace(actor_table=lambda *_, **__: dict[str, Any]())
    )
    ray_cluster.drop_requests_of_ended_jobs()
    ray_cluster.drop_unheard_requests(60)
    ray_cluster.reserve_anew("train-alive")
    for name in [name for name in sys.modules if name.split(".")[0] == "jobs"]:
        monkeypatch.setitem(sys.modules, name, None)
    coordinator = MagicMock(_ongoing_reqs={}, _get_current_time=lambda: 0.0)
    assert [cloudpickle.loads(ask)(coordinator) for ask in asked] == [None, 0, None]
    coordinator.get_reserved_resources.assert_called_once_with("train-alive", recompute=True)


class TrainController:
    """By its name a controller of a run."""

    def ready(self) -> None: ...


@pytest.mark.long
def test_the_only_living_run_drops_all_others_requests_at_once(
    requests: Callable[[], set[str]],
) -> None:
    controllers = [ray.remote(num_cpus=0)(TrainController).remote() for _ in range(2)]
    ray.get([controller.ready.remote() for controller in controllers])
    ray_cluster.reserve_anew("train-alive")
    assert {"train-alive", "train-silent", "train-ended"} < requests()
    for controller in controllers:
        ray.kill(controller)
    deadline = time.monotonic() + 20
    while "train-ended" in requests() and time.monotonic() < deadline:
        ray_cluster.reserve_anew("train-alive")
    assert requests() == {"train-alive", "data-alive", "data-ended"}


def test_a_job_that_finds_no_other_drops_all_that_was_asked_before_it(
    requests: Callable[[], set[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = requests()
    monkeypatch.setattr(ray_cluster, "other_jobs", lambda: ["python -m jobs.export"])
    ray_cluster.drop_requests_of_ended_jobs()
    assert requests() == before
    monkeypatch.undo()
    ray_cluster.drop_requests_of_ended_jobs()
    assert requests() == set()


def test_what_is_reserved_is_on_nodes_that_live(requests: Callable[[], set[str]]) -> None:
    coordinator = ray.get_actor("AutoscalingCoordinator", namespace="AutoscalingCoordinator")

    def add_a_dead_node(self: Any) -> None:
        for nodes in self._cluster_node_resources.values():
            nodes |= {"dead": dict(next(iter(nodes.values())))}
        self.request_resources("train-alive", [{"CPU": 1}] * 1000, 60)

    def where(self: Any) -> set[str]:
        return set(self._ongoing_reqs["train-alive"].reserved_resources)

    ray.get(coordinator.__ray_call__.remote(lambda self: self.cancel_request("train-alive")))
    ray.get(coordinator.__ray_call__.remote(add_a_dead_node))
    assert "dead" in ray.get(coordinator.__ray_call__.remote(where))
    ray_cluster.reserve_anew("train-alive")
    assert "dead" not in ray.get(coordinator.__ray_call__.remote(where))


def test_a_controller_looks_for_room_anew_and_breathes_while_it_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slept: list[float] = []
    reserved: list[str] = []
    monkeypatch.setattr("time.sleep", slept.append)
    monkeypatch.setattr("time.monotonic", lambda: 1000.0)
    monkeypatch.setattr(ray_cluster, "reserve_anew", reserved.append)
    teller = ray_cluster.ControllerTeller(meet=None, grows=False)
    waiting = ray_cluster.RestartingState(training_failed_error=Exception())
    running = ray_cluster.RunningState()
    teller.after_controller_state_update(waiting, running)
    assert not slept and not reserved
    teller.after_controller_state_update(running, waiting)
    assert not slept and len(reserved) == 1  # a worker is lost
    for _ in range(3):
        teller.after_controller_state_update(waiting, waiting)
    assert slept == [ray_cluster.BREATHES_S] * 3 and len(reserved) == 1
    monkeypatch.setattr("time.monotonic", lambda: 1000.0 + 2 * ray_cluster.LOOKS_AGAIN_S)
    teller.after_controller_state_update(waiting, waiting)
    assert len(reserved) == 2
    monkeypatch.setattr("time.monotonic", lambda: 1000.0 + 4 * ray_cluster.LOOKS_AGAIN_S)
    teller.after_controller_state_update(running, ray_cluster.RunningState())
    assert len(reserved) == 2  # it takes no more workers than it has
    growing = ray_cluster.ControllerTeller(meet=None, grows=True)
    growing.after_controller_state_update(running, ray_cluster.RunningState())
    assert len(reserved) == 3 and len(slept) == 4
