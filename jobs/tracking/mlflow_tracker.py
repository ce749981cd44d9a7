"""Shows a run to a tracking server of MLflow."""

import os
import time
from collections.abc import Iterator
from typing import Any

from jobs.setup.words import leaves
from jobs.tracking.tracker import End, Line, identity
from jobs.training.run_config import PretrainConfig
from pipelines.registry.mlflow_client import client_of

EXPERIMENT = "afield"
TAG = "afield.run"
_LONGEST = 500  # characters of a parameter, which every server takes
_AT_ONCE = 100  # parameters of a request
_STATUS: dict[End, str] = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}


class MlflowTracker:
    """One run of MLflow; a resumed run goes on with the same one, found by its tag.

    Args:
        config: Of the run.
    """

    def __init__(self, config: PretrainConfig) -> None:
        assert config.log.mlflow is not None
        self._client: Any = client_of("log.mlflow", config.log.mlflow)
        experiment = self._experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT))
        name = identity(config)
        found = self._client.search_runs([experiment], f"tags.`{TAG}` = '{name}'")
        if found:
            self._id = found[0].info.run_id
            self._client.update_run(self._id, status="RUNNING")
            return
        title = config.out.rstrip("/").rpartition("/")[2]
        made = self._client.create_run(experiment, run_name=title, tags={TAG: name})
        self._id = made.info.run_id
        for some in _parameters(config):
            self._client.log_batch(self._id, params=some)

    def log(self, line: Line) -> None:
        """Send one line of the log."""
        from mlflow.entities import Metric

        at_ms = int(1000 * line.get("time_s", time.time()))
        numbers = {name: value for name, value in line.items() if isinstance(value, int | float)}
        metrics = [Metric(name, value, at_ms, line["step"]) for name, value in numbers.items()]
        self._client.log_batch(self._id, metrics=metrics)

    def end(self, how: End) -> None:
        """Say how the run ended."""
        self._client.set_terminated(self._id, _STATUS[how])

    def _experiment(self, name: str) -> str:
        found = self._client.get_experiment_by_name(name)
        return str(found.experiment_id if found else self._client.create_experiment(name))


def _parameters(config: PretrainConfig) -> Iterator[list[Any]]:
    from mlflow.entities import Param

    values = leaves(config.model_dump(mode="json"))
    params = [Param(name, str(value)[:_LONGEST]) for name, value in values.items()]
    for first in range(0, len(params), _AT_ONCE):
        yield params[first : first + _AT_ONCE]
