"""What a cluster says of itself by private names of Ray: why its head cannot be joined, what is
free, who holds the rest, what its autoscaler may start, what runs that have ended still ask for,
and who controls one.

Joining a head that is dead or wants another token is tried for minutes. What of a node is free, who
holds the rest and what an autoscaler may start are not to be had without a dashboard.
`tests/jobs/cluster/` holds these against the installed Ray.
"""

import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import yaml
from ray import cloudpickle
from ray._private import services
from ray._private.authentication.authentication_utils import is_token_auth_enabled
from ray._private.state import state
from ray._raylet import AuthenticationTokenLoader, GcsClient  # type: ignore[attr-defined]
from ray.exceptions import RayError
from ray.train._internal.utils import get_address_and_port
from ray.train.v2._internal.execution.callback import ControllerCallback
from ray.train.v2._internal.execution.controller.state import (
    ReschedulingState,
    RestartingState,
    RunningState,
)
from ray.train.v2._internal.execution.scaling_policy.autoscaling_coordinator_client import (
    AUTOSCALING_REQUESTS_EXPIRE_TIME_S as EXPIRES_S,
)
from ray.train.v2._internal.execution.scaling_policy.autoscaling_coordinator_client import (
    AUTOSCALING_REQUESTS_INTERVAL_S as REPEATED_S,
)
from ray.train.v2._internal.util import TrainingFramework
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

TORCH = TrainingFramework.TORCH
# Asked of a head before joining it: the cheapest question that its token check guards.
QUESTION = "/ray.rpc.NodeInfoGcsService/GetClusterId"
_HEAD = "node:__internal_head__"
_RUN = "train-"  # what requests of training runs are named, before the run's id
LOOKS_AGAIN_S = 5.0
BREATHES_S = 0.2
_MONITOR = re.compile(r"autoscaler/(_private|v2)/monitor\.py")


def address_of_this_process() -> tuple[str, int]:
    """Return this node's address and a free port of it, as Ray Train finds them."""
    found: tuple[str, int] = get_address_and_port()
    return found


def start_autoscaling_coordinator() -> None:
    """Start the actor that every stream waits for, as Ray Train's controller does before there is a
    stream."""
    from ray.data._internal.cluster_autoscaler import get_or_create_autoscaling_coordinator

    get_or_create_autoscaling_coordinator()


def drop_requests_of_ended_jobs() -> None:
    """Cancel what jobs that have ended still ask the cluster for, where none runs but this one,
    which has not asked yet.

    What a killed driver's training workers and streams asked for counts for 180 s: until then the
    next job's workers do not start, and its streams get half of the CPUs that are free.
    """

    def drop(coordinator: Any) -> None:
        for name in list(coordinator._ongoing_reqs):
            coordinator.cancel_request(name)

    with suppress(RayError):  # no reason not to run: what is left ends by itself
        if not other_jobs():
            _ask_coordinator(drop)


def drop_unheard_requests(unheard_s: float) -> int:
    """Cancel what jobs that have ended still ask the cluster for, whoever else runs; returns how
    many requests of training runs not heard of are left.

    A training run repeats its request every 20 s and a stream every 10 s; it counts for 180 s after
    the last time.

    Args:
        unheard_s: So long a job has not repeated its request that it must have ended.
    """

    def drop(coordinator: Any) -> int:
        now = coordinator._get_current_time()
        left = 0
        for name, request in list(coordinator._ongoing_reqs.items()):
            unheard = now - (request.expiration_time - EXPIRES_S)
            if unheard >= unheard_s:
                coordinator.cancel_request(name)
            elif name.startswith(_RUN) and unheard >= 1.5 * REPEATED_S:
                left += 1
        return left

    return int(_ask_coordinator(drop) or 0)


def reserve_anew(own: str) -> None:
    """Have what a training run may take counted on the nodes that live now, without what runs that
    have ended still ask for.

    Ray counts nodes every 20 s: with one that has just died a run would ask for workers that never
    start, and wait for them for a minute.

    Args:
        own: The name of the living run's request. Others' requests are dropped where no other run
            lives; which of several made which request cannot be told, and is left to
            `drop_unheard_requests`.
    """
    living = state.actor_table(None, actor_state_name="ALIVE").values()
    others = sum(actor["ActorClassName"] == "TrainController" for actor in living) > 1

    def reserve(coordinator: Any) -> None:
        for name in list(coordinator._ongoing_reqs):
            if name.startswith(_RUN) and name != own and not others:
                coordinator.cancel_request(name)
        coordinator.get_reserved_resources(own, recompute=True)

    _ask_coordinator(reserve)


def _ask_coordinator(ask: Callable[[Any], Any]) -> Any:
    """Call a function in the actor that shares a cluster out, with that actor; None where nobody
    has asked for anything yet.

    Args:
        ask: A function inside another, which travels whole: the actor is of the job that asked
            first, and need not have this module.
    """
    try:
        coordinator = ray.get_actor("AutoscalingCoordinator", namespace="AutoscalingCoordinator")
    except ValueError:
        return None
    return ray.get(coordinator.__ray_call__.remote(ask), timeout=REPEATED_S)


class ControllerTeller(ControllerCallback):
    """Hands Ray Train's controller to an actor, as soon as it runs, and keeps what it may take
    counted on the nodes that there are.

    Args:
        meet: The actor's method that takes it.
        grows: Whether the run takes more workers where there come more nodes.
    """

    def __init__(self, meet: Any, *, grows: bool) -> None:
        self._meet = meet
        self._grows = grows
        self._own = ""
        self._reserved = 0.0

    def after_controller_start(self, train_run_context: Any) -> None:
        """Hand it over pickled, in its own process."""
        self._own = f"{_RUN}{train_run_context.run_id}"
        self._meet.remote(cloudpickle.dumps(ray.get_runtime_context().current_actor))
        self._reserve()

    def after_controller_state_update(self, previous_state: Any, current_state: Any) -> None:
        """Look for room before workers start again, and every 5 s while more may come; breathe
        where it waits: by itself it asks again at once, for minutes, with a core of the head."""
        waits = current_state is previous_state
        again = not waits and isinstance(current_state, RestartingState | ReschedulingState)
        looks = waits or (self._grows and isinstance(current_state, RunningState))
        if again or (looks and time.monotonic() - self._reserved > LOOKS_AGAIN_S):
            self._reserve()
        if waits:
            time.sleep(BREATHES_S)

    def _reserve(self) -> None:
        with suppress(RayError):  # an actor under load that does not answer is no reason to end
            reserve_anew(self._own)
        self._reserved = time.monotonic()


@dataclass(frozen=True)
class Refusal:
    """Why the head of a cluster cannot be joined.

    Attributes:
        kind: `dead` (nobody listens), `silent` (accepts and says nothing), `other` (something that
            is no head of a Ray cluster), `no_token` (it wants one and none was sent) or
            `wrong_token`.
        detail: What the connection said.
    """

    kind: str
    detail: str


def head_address(address: str) -> str:
    """Return HOST:PORT of the cluster that `auto` or an address means.

    Raises:
        ConnectionError: no cluster runs on this machine, where `auto` looks for one.
    """
    found: str | None = services.canonicalize_bootstrap_address(address)
    return found or address


def ask_head(address: str, timeout_s: float) -> Refusal | None:
    """Ask the head of a cluster for its name, as joining it will; None where it answers.

    Joining itself would try a dead address for minutes, and tells a wrong token from a dead head
    by warnings only.
    """
    import grpc  # in the driver alone
    from ray._private.grpc_utils import init_grpc_channel

    if is_token_auth_enabled() and not _has_token():
        return Refusal("no_token", "RAY_AUTH_MODE is token and there is no token")
    channel = init_grpc_channel(address)
    try:
        channel.unary_unary(QUESTION)(b"", timeout=timeout_s)
    except grpc.RpcError as error:
        return _refusal(error.code().name, str(error.details()))
    finally:
        channel.close()
    return None


def _has_token() -> bool:
    """Tell whether this process has a token to send, in its environment or the home folder."""
    return bool(AuthenticationTokenLoader.instance().has_token(ignore_auth_mode=True))


def _refusal(code: str, said: str) -> Refusal:
    detail = said.rpartition(": ")[2].strip("]")
    if code == "UNAUTHENTICATED":
        return Refusal("wrong_token" if is_token_auth_enabled() else "no_token", detail)
    if code == "DEADLINE_EXCEEDED":
        return Refusal("silent", detail)
    if code == "UNAVAILABLE" and "HTTP/2" not in said:
        return Refusal("dead", detail)
    return Refusal("other", detail)


def free_by_node() -> dict[str, dict[str, float]]:
    """Return what of each node's resources nothing holds, by the node's id."""
    free: dict[str, dict[str, float]] = state.available_resources_per_node()
    return free


def other_jobs() -> list[str]:
    """Return the command lines of the other jobs that run on the cluster."""
    return drivers_but(ray.get_runtime_context().get_job_id(), state.job_table())


def drivers_but(own: str, jobs: list[dict[str, Any]]) -> list[str]:
    """Return the command lines of the jobs of a table that run, but one's own and Ray's.

    A dashboard joins as a driver once a job is submitted; it holds nothing.
    """
    return [
        str(job["Entrypoint"])
        for job in jobs
        if not job["IsDead"]
        and job["JobID"] != own
        and job["Entrypoint"]
        and not job["Entrypoint"].startswith("ray::")
    ]


@dataclass(frozen=True)
class NodeType:
    """A kind of node that an autoscaler may start.

    Attributes:
        resources: What each of them has.
        most: How many of them there may be.
    """

    resources: Mapping[str, float]
    most: int


def node_types() -> list[NodeType] | None:
    """Return what the cluster's autoscaler may start; None where one runs and does not say.

    Ray keeps that in the file that its monitor was started with, on the head.
    """
    config = state.get_cluster_config()
    if config and config.node_group_configs:
        groups = config.node_group_configs
        return [NodeType(dict(one.resources), max(0, one.max_count)) for one in groups]
    here = ray.get_runtime_context()
    heads = [node["NodeID"] for node in ray.nodes() if node["Alive"] and _HEAD in node["Resources"]]
    if not heads or here.get_node_id() in heads:
        return _types_of_monitor(here.gcs_address)
    there = NodeAffinitySchedulingStrategy(heads[0], soft=False)
    read = ray.remote(_types_of_monitor).options(num_cpus=0, scheduling_strategy=there)
    found: list[NodeType] | None = ray.get(read.remote(here.gcs_address))
    return found


def _types_of_monitor(gcs_address: str) -> list[NodeType] | None:
    """Read the configuration of the monitor that runs on this machine for a cluster."""
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = process.read_text().split("\0")
        except OSError:  # it has ended
            continue
        if f"--gcs-address={gcs_address}" not in words or not _MONITOR.search(" ".join(words)):
            continue
        option = "--autoscaling-config="
        files = [word.removeprefix(option) for word in words if word.startswith(option)]
        return _types_in(yaml.safe_load(Path(files[0]).read_text())) if files else []
    from ray.autoscaler.v2.utils import is_autoscaler_v2  # in the driver alone

    return None if is_autoscaler_v2() else []


def _types_in(config: Mapping[str, Any]) -> list[NodeType]:
    most = int(config.get("max_workers", 0))
    kinds = config["available_node_types"].items()
    return [
        NodeType(kind["resources"], min(most, int(kind.get("max_workers", most))))
        for name, kind in kinds
        if name != config["head_node_type"]
    ]


def autoscaler_says(group_id: str) -> tuple[list[str], bool]:
    """Return the kinds of nodes that the autoscaler is starting, and whether it cannot ever hold a
    placement group."""
    from ray.core.generated import autoscaler_pb2 as messages  # in the driver alone

    reply = messages.GetClusterStatusReply()  # type: ignore[attr-defined]
    client = GcsClient(ray.get_runtime_context().gcs_address)
    reply.ParseFromString(client.get_cluster_status(timeout_s=10))
    said = reply.autoscaling_state
    coming = [one.ray_node_type_name for one in said.pending_instances]
    for one in said.pending_instance_requests:
        coming += [one.ray_node_type_name] * one.count
    refused = any(group_id in one.details for one in said.infeasible_gang_resource_requests)
    return coming, refused
