"""What a cluster's Prometheus hears of a run and of a retraining, through Ray's metrics."""

import time
from collections.abc import Mapping
from typing import Any

from ray.util.metrics import Gauge

# Column of a line to its description. Ray exports each as `ray_afield_COLUMN`, by run.
COLUMNS = {
    "step": "optimiser steps done",
    "samples": "samples shown so far",
    "loss": "mean loss of the newest line",
    "images_per_s": "images a second, all workers together",
    "wait_fraction": "share of the training workers' time in which they waited for data",
    "bad_samples": "samples quarantined so far",
    "rankme": "effective rank of a batch's embeddings",
    "feature_std": "spread of a batch's features",
    "health_rankme": "effective rank at the newest look at the encoder",
    "health_variation": "variation of the embeddings at the newest look at the encoder",
    "health_spread": "spread of the projections at the newest look at the encoder",
    "storage_retries": "requests to storage that were tried again since the line before",
}
OWN = {
    "num_steps": "optimiser steps of the whole run",
    "line_time_s": "when the newest line was written, in seconds since 1970",
}
# Set by the driver, which is there before any worker is.
DRIVER = {"silent_s": "seconds since the newest line, or since training began, seen by the driver"}
WAITING = {"waiting_s": "seconds for which a job has waited for room on the cluster"}
CYCLE = {
    "retrain_step": "1 index, 2 decide, 3 train, 4 gate, 5 promote, 6 export, 7 page",
    "retrain_new_samples": "samples of the corpus that are new to the champion",
    "retrain_in_use": "version of the model that is in use",
    "retrain_done": "1 once a cycle has come to its last step, whatever it decided",
}
LAST_STEP = 7


def metric_names() -> dict[str, str]:
    """Return the name of every metric as Prometheus knows it, with its description."""
    every = {**COLUMNS, **OWN, **DRIVER, **WAITING, **CYCLE}
    return {f"ray_afield_{name}": said for name, said in every.items()}


class Gauges:
    """Shows each line of a run's log to the Prometheus of the cluster, if it has one.

    Args:
        run: URI of the run, by which its figures are told from another's.
        num_steps: Optimiser steps of the whole run.
    """

    def __init__(self, run: str, num_steps: int) -> None:
        self._num_steps = num_steps
        self._gauges = _made(COLUMNS | OWN, "run", run)

    def show(self, line: Mapping[str, Any]) -> None:
        """Set the gauges to what a line says; those it says nothing of keep their value."""
        figures = {**line, "num_steps": self._num_steps, "line_time_s": time.time()}
        for name, gauge in self._gauges.items():
            if (value := figures.get(name)) is not None:
                gauge.set(float(value))


class SilenceGauge:
    """Shows for how long a driver has heard nothing of its workers, be they there or not.

    Args:
        run: URI of the run.
    """

    def __init__(self, run: str) -> None:
        self._gauges = _made(DRIVER, "run", run)

    def show(self, seconds: float) -> None:
        """Set the gauge."""
        self._gauges["silent_s"].set(seconds)


class WaitingGauge:
    """Shows for how long a job has waited for room.

    Args:
        job: Ray's id of the job.
    """

    def __init__(self, job: str) -> None:
        self._gauges = _made(WAITING, "job", job)

    def show(self, seconds: float) -> None:
        """Set the gauge."""
        self._gauges["waiting_s"].set(seconds)


class CycleGauges:
    """Shows how far a retraining is.

    Args:
        model: Name of the model in its registry.
    """

    def __init__(self, model: str) -> None:
        self._gauges = _made(CYCLE, "model", model)

    def show(self, **figures: float | None) -> None:
        """Set the gauges of `CYCLE` that are given, by their names without `retrain_`."""
        if figures.get("step") == LAST_STEP:
            figures = {**figures, "done": 1}
        for name, value in figures.items():
            if value is not None:
                self._gauges[f"retrain_{name}"].set(float(value))


def _made(described: Mapping[str, str], tag: str, value: str) -> dict[str, Gauge]:
    gauges = {}
    for name, description in described.items():
        gauge = Gauge(f"afield_{name}", description, tag_keys=(tag,))
        gauge.set_default_tags({tag: value})
        gauges[name] = gauge
    return gauges
