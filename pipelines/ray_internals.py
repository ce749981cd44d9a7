"""Every private name of Ray that this project uses, but those of `jobs.cluster.ray_cluster`. An
upgrade of Ray is checked in these two, and nowhere else.

Ray Train's snapshot file says which checkpoints of a run are committed; no public call reads it
before a run starts. A streaming repartition takes no resources. Exceptions hide what a task raised.
Pools of actors are handed
references where values would do. `tests/pipelines/test_ray_internals.py` and
`tests/pipelines/test_ray_tasks.py` hold each of these against the installed Ray.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import ray
import ray.data
from ray.data._internal.execution.backpressure_policy import (
    ENABLED_BACKPRESSURE_POLICIES,
    ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY,
    BackpressurePolicy,
)
from ray.data._internal.execution.execution_callback import ExecutionCallback
from ray.exceptions import RayTaskError

from pipelines.storage import uris

SUBMITTED_JOB_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # Ray sets it for `ray job submit`
SNAPSHOT = "checkpoint_manager_snapshot.json"
# Where exceptions of tasks, of Train's workers and of its controller keep what is behind them.
_BEHIND = ("cause", "_base_exc", "controller_failure", "health_check_failure")
DOING = "afield_doing"  # of a stream's context: what it does, and to how many rows
PLAN_AHEAD = 64  # blocks; each becomes a task of some seconds
_FRAME = re.compile(r'^\s*File "([^"]+)", line \d+, in .+\n\s*(.*)$', re.MULTILINE)


@dataclass(frozen=True)
class Snapshot:
    """What Ray Train has recorded of a run's checkpoints.

    Attributes:
        latest: Name of the checkpoint that it would restore; None where there is none.
        names: Names of all committed checkpoints that it keeps.
    """

    latest: str | None
    names: tuple[str, ...]


def has_snapshot(folder: str) -> bool:
    """Tell whether Ray Train has begun to record checkpoints in a folder."""
    return SNAPSHOT in uris.list_names(folder)


def read_snapshot(folder: str) -> Snapshot | None:
    """Read Ray Train's record of a folder of checkpoints; None where there is none or it is cut
    short."""
    try:
        values = json.loads(uris.read_bytes(uris.join(folder, SNAPSHOT)))
    except (FileNotFoundError, ValueError):
        return None
    latest = values.get("latest_checkpoint_result")
    return Snapshot(
        str(latest["checkpoint_dir_name"]) if latest else None,
        tuple(str(result["checkpoint_dir_name"]) for result in values["checkpoint_results"]),
    )


def write_snapshot(folder: str, name: str | None, metrics: Mapping[str, Any]) -> None:
    """Make Ray Train restore one checkpoint of a folder, or none."""
    result = {"version": 0, "checkpoint_dir_name": name, "metrics": dict(metrics)}
    results = [result] if name else []
    values = {
        "ray_version": ray.__version__,
        "checkpoint_results": results,
        "checkpoint_report_indices": [0] * len(results),
        "latest_checkpoint_result": results[0] if results else None,
        "pending_training_results": [],
        "pending_validation_specs": [],
        "current_report_index": len(results),
        "validated_checkpoint_dir_names": [],
        "timed_out_validation_checkpoint_dir_names": [],
        "failed_validation_checkpoint_dir_names": [],
    }
    uris.write_bytes(uris.join(folder, SNAPSHOT), json.dumps(values).encode())


def last_operator(dataset: ray.data.Dataset) -> Any:
    """Return the operator that a dataset was made with last."""
    return dataset._logical_plan.dag


def hold_little(repartitioned: ray.data.Dataset, num_cpus: float) -> None:
    """Let a streaming repartition run as one task of few CPUs.

    `repartition` takes no resources, and its task lives as long as the stream: it must not hold a
    whole CPU. Nor must Ray keep a share of all CPUs for more such tasks: decoding would get three
    quarters of them, and one of two.
    """
    operator = last_operator(repartitioned)
    operator.ray_remote_args["num_cpus"] = num_cpus
    object.__setattr__(operator, "compute", ray.data.TaskPoolStrategy(size=1))


class _PlanAhead(BackpressurePolicy):
    """Lets a streaming repartition run only `PLAN_AHEAD` blocks ahead of the operator behind it.

    Ray limits what waits between two operators by its bytes. A plan item has 16 of them, and what
    Ray keeps of each block takes 26 KiB of the coordinator: a long plan would fill its memory.
    """

    def max_task_output_bytes_to_read(self, op: Any) -> int | None:
        """Return a byte for each block that may still be read: no block is smaller."""
        if not op.name.startswith("StreamingRepartition"):
            return None
        return max(0, PLAN_AHEAD - int(self._topology[op].total_enqueued_output_blocks()))


class StreamWatcher(ExecutionCallback):
    """Sees a stream run, in the process that runs it."""

    def on_execution_step(self, executor: Any) -> None:
        """Look at the stream, as Ray Data does many times a second while it runs."""
        if told := executor._data_context.get_config(DOING):
            doing, total = told
            self.look(doing, total, _rows_through(executor._topology))

    def look(self, doing: str, total: int | None, done: int) -> None:
        """Take note of how far a stream is that `DOING` says what it does of."""
        raise NotImplementedError


def _rows_through(topology: Mapping[Any, Any]) -> int:
    """Return how many rows have reached the last operator, or left it where it is the only one."""
    last = list(topology)[-1]
    if len([operator for operator in topology if operator.input_dependencies]) > 1:
        return int(last.metrics.num_row_inputs_received)
    return int(last.metrics.row_outputs_taken)


def plan_little_ahead(dataset: ray.data.Dataset) -> None:
    """Bound how many blocks of a streaming repartition wait in a dataset."""
    policies = [*ENABLED_BACKPRESSURE_POLICIES, _PlanAhead]
    dataset.context.set_config(ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY, policies)


class _ActorLocations:
    """Ray Data's record of where actors are, found by its name in whatever process asks."""

    @property
    def update_actor_location(self) -> Any:
        """Note where an actor is; it calls this when it starts."""
        tracker = ray.get_actor("ActorLocationTracker", namespace="ActorLocationTracker")
        return tracker.update_actor_location


def hand_actors_values() -> dict[str, Any]:
    """Let pools of actors get values where Ray Data hands them references to objects and actors.

    Ray cannot promise to start an actor again whose constructor was given references, and says so
    in red for each pool (ray-project/ray issues 53727 and 57733). All three that Ray Data hands out
    are small.

    Given to `map_batches` as `ray_remote_args_fn`, it is called before an actor starts, in the
    process that starts it.

    Returns:
        No further options.
    """
    from ray.data._internal.execution.node_trackers import get_or_create_actor_location_tracker
    from ray.data._internal.execution.operators import actor_pool_map_operator as pools

    def locations() -> _ActorLocations:
        get_or_create_actor_location_tracker()
        return _ActorLocations()

    operator = pools.ActorPoolMapOperator
    if not isinstance(vars(operator).get("_map_transformer_ref"), property):
        pools.get_or_create_actor_location_tracker = locations
        handed = {"_map_transformer_ref": "_map_transformer", "_data_context_ref": "data_context"}
        for reference, value in handed.items():
            setattr(operator, reference, property(attrgetter(value)))
    return {}


def chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception and all that it was raised from, through whatever Ray wraps around it."""
    left = [error]
    seen = set[int]()
    while left:
        one = left.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        behind = [one.__cause__, *(getattr(one, name, None) for name in _BEHIND)]
        behind += getattr(one, "worker_failures", {}).values()
        left += [other for other in behind if isinstance(other, BaseException)]


def remote_text(error: BaseException) -> str | None:
    """Return the traceback that an exception brought from another process; None for one of this
    process."""
    if isinstance(error, RayTaskError) or getattr(error, "actor_init_failed", False):
        return str(error)  # of what a constructor raised Ray keeps nothing else
    text = getattr(error, "_traceback_str", None)
    return text if isinstance(text, str) else None


def first_line(text: str) -> str:
    """Return a message without what Ray Data appends to it, which is advice on its own retries."""
    return text.partition("\n")[0]


def raised_in(text: str) -> str | None:
    """Return the file whose `raise` statement ends a traceback; None where C code raised, or
    nothing is known."""
    frames = _FRAME.findall(text)
    if not frames:
        return None
    file, statement = frames[-1]
    return file if statement.startswith("raise ") else None


def nodes_leaving() -> frozenset[str]:
    """Return the ids of nodes of this training worker's group that are about to be taken away.

    Ray Train tells every worker, some seconds after the notice came. Its public
    `ray.train.get_preemption_info` asks all workers at once, which is a barrier.
    """
    from ray.train.v2._internal.execution.context import get_train_context

    info = get_train_context().preemption_context.preemption_info
    return frozenset(info.preempted_node_ids) if info else frozenset()
