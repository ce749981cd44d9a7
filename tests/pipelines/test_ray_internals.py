"""Ray's private names: each is still there and does what we take it for, and no other module uses
one."""

import ast
import json
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import ray
import ray.data
from ray.data._internal.execution.backpressure_policy import BackpressurePolicy
from ray.train.v2._internal.exceptions import UserExceptionWithTraceback
from ray.train.v2._internal.execution.checkpoint.checkpoint_manager import _CheckpointManagerState

from pipelines import ray_internals

ROOT = Path(__file__).parents[2]
PACKAGES = ("augment", "models", "pipelines", "jobs", "benchmarks")


def private_names(path: Path) -> list[str]:
    """Private modules of Ray that a file imports, and private attributes of its objects that we
    know of."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        modules = []
        if isinstance(node, ast.ImportFrom) and node.module:
            modules = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.Attribute):
            inside = ast.unparse(node)
            attributes = inside.startswith("ray.") and "._" in inside
            found += [inside] if attributes or node.attr in ("_logical_plan", "_base_exc") else []
        found += [
            name
            for name in modules
            if name.startswith("ray.") and any(part.startswith("_") for part in name.split("."))
        ]
    return found


def test_no_other_module_uses_a_private_name_of_ray() -> None:
    own = {ROOT / "pipelines" / "ray_internals.py", ROOT / "jobs" / "cluster" / "ray_cluster.py"}
    for path in own:
        assert len(private_names(path)) >= 3  # the test sees what it looks for
    files = {path for name in PACKAGES for path in (ROOT / name).rglob("*.py")} - own
    used = {str(path.relative_to(ROOT)): private_names(path) for path in files}
    assert {path: names for path, names in used.items() if names} == {}


def test_a_snapshot_is_one_that_ray_train_reads(tmp_path: Path) -> None:
    assert ray_internals.read_snapshot(str(tmp_path)) is None
    assert not ray_internals.has_snapshot(str(tmp_path))
    ray_internals.write_snapshot(str(tmp_path), "step-20", {"step": 20})
    text = (tmp_path / ray_internals.SNAPSHOT).read_text()
    state = _CheckpointManagerState.model_validate_json(text)
    assert state.latest_checkpoint_result is not None
    assert state.latest_checkpoint_result.checkpoint_dir_name == "step-20"
    assert state.model_dump().keys() == json.loads(text).keys()
    assert ray_internals.has_snapshot(str(tmp_path))
    expected = ray_internals.Snapshot("step-20", ("step-20",))
    assert ray_internals.read_snapshot(str(tmp_path)) == expected


def test_a_snapshot_that_ray_train_writes_is_read(tmp_path: Path) -> None:
    results = [
        {"checkpoint_dir_name": name, "metrics": {"step": 1}} for name in ("step-10", "step-20")
    ]
    state = _CheckpointManagerState(
        checkpoint_results=results,
        checkpoint_report_indices=[0, 1],
        latest_checkpoint_result=results[-1],
        pending_training_results=[],
        pending_validation_specs=[],
        current_report_index=2,
        validated_checkpoint_dir_names=[],
        timed_out_validation_checkpoint_dir_names=[],
        failed_validation_checkpoint_dir_names=[],
    )
    (tmp_path / ray_internals.SNAPSHOT).write_text(state.model_dump_json())
    expected = ray_internals.Snapshot("step-20", ("step-10", "step-20"))
    assert ray_internals.read_snapshot(str(tmp_path)) == expected


@pytest.mark.usefixtures("ray_session")
def test_a_repartition_holds_few_cpus_in_one_task() -> None:
    cut = ray.data.range(8).repartition(target_num_rows_per_block=1, strict=True)
    operator = ray_internals.last_operator(cut)
    assert type(operator).__name__ == "StreamingRepartition"
    ray_internals.hold_little(cut, 0.01)
    assert operator.ray_remote_args == {"num_cpus": 0.01}
    assert operator.compute.size == 1  # else Ray keeps a quarter of the CPUs for more of its tasks
    assert sorted(row["id"] for row in cut.take_all()) == list(range(8))


def test_what_a_training_worker_raised_is_behind_trains_wrapper() -> None:
    error = KeyError("x")
    wrapped = UserExceptionWithTraceback(error, "text")
    assert list(ray_internals.chain(wrapped)) == [wrapped, error]
    assert ray_internals.remote_text(wrapped) == "text"
    assert ray_internals.remote_text(error) is None


@pytest.mark.usefixtures("ray_session")
class Recorder(BackpressurePolicy):
    """Notes how many blocks wait behind the operator that plans."""

    most = 0

    def max_task_output_bytes_to_read(self, op: Any) -> int | None:
        if op.name.startswith("StreamingRepartition"):
            waiting = self._topology[op].total_enqueued_output_blocks()
            Recorder.most = max(Recorder.most, waiting)
        return None


@pytest.mark.long
def test_a_plan_runs_only_a_little_ahead(
    ray_session: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_internals, "PLAN_AHEAD", 8)
    monkeypatch.setattr(
        ray_internals,
        "ENABLED_BACKPRESSURE_POLICIES",
        [*ray_internals.ENABLED_BACKPRESSURE_POLICIES, Recorder],
    )
    items = ray.data.from_blocks([pa.table({"x": range(400)})])
    items = items.repartition(target_num_rows_per_block=1, strict=True)
    ray_internals.hold_little(items, 0.01)
    ray_internals.plan_little_ahead(items)
    # Ray lets single blocks through while no task runs behind: here seldom, whatever the load.
    items.context.output_backpressure_guard_release_interval_s = 600.0
    slow = items.map_batches(lambda batch: time.sleep(0.05) or batch, batch_size=None, num_cpus=0.9)
    for index, _ in enumerate(slow.iter_batches(batch_size=None, prefetch_batches=0)):
        if index == 60:
            break
    assert 0 < Recorder.most <= 8 + 4  # what was on its way when the limit was reached
