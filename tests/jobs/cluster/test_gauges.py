"""What Prometheus reads of a run: one cluster of its own, asked as Prometheus asks."""

import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from jobs.cluster.gauges import metric_names
from tests.object_store import free_ports

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = """
import sys, ray
from jobs.cluster.gauges import COLUMNS, CycleGauges, Gauges, SilenceGauge, WaitingGauge
ray.init(address="local", num_cpus=1, include_dashboard=True, dashboard_port=int(sys.argv[2]),
         _metrics_export_port=int(sys.argv[1]))

@ray.remote
class Worker:
    def show(self):
        self.gauges = Gauges("s3://bucket/run", 9)
        self.gauges.show({name: 0.5 for name in COLUMNS} | {"loss": float("nan")})
        self.gauges.show({"step": 7, "loss": 2.5})
        self.cycle = CycleGauges("encoder")
        self.cycle.show(step=7, new_samples=40, in_use=2)
        self.silence = SilenceGauge("s3://bucket/run")
        self.silence.show(60)
        self.waiting = WaitingGauge("01000000")
        self.waiting.show(50)
        self.waiting = WaitingGauge("01000000")  # a job waits more than once
        self.waiting.show(70)

worker = Worker.remote()
ray.get(worker.show.remote())
print("shown", flush=True)
sys.stdin.read()
"""


@pytest.mark.slow
def test_prometheus_reads_every_figure_of_a_line_by_its_run() -> None:
    metrics, dashboard = free_ports(2)
    words = [sys.executable, "-c", SCRIPT, str(metrics), str(dashboard)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(words, cwd=ROOT, text=True, **pipes) as process:  # type: ignore[call-overload]
        try:
            assert process.stdout.readline() == "shown\n"
            found = _figures(metrics)
        finally:
            process.stdin.close()
    assert set(found) == set(metric_names())
    assert found["ray_afield_step"] == 7 and found["ray_afield_loss"] == 2.5
    assert found["ray_afield_retrain_step"] == 7 and found["ray_afield_retrain_in_use"] == 2
    assert found["ray_afield_retrain_done"] == 1
    assert found["ray_afield_silent_s"] == 60 and found["ray_afield_waiting_s"] == 70
    assert found["ray_afield_num_steps"] == 9 and found["ray_afield_rankme"] == 0.5
    assert abs(found["ray_afield_line_time_s"] - time.time()) < 300


def _figures(port: int) -> dict[str, float]:
    """Ask until everything is there: Ray hands metrics on every few seconds."""
    found: dict[str, float] = {}
    while set(found) != set(metric_names()) or found["ray_afield_step"] != 7:
        time.sleep(1)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
            text = answer.read().decode()
        lines = [line for line in text.splitlines() if line.startswith("ray_afield_")]
        assert all(_tag(line) in line for line in lines)
        found = {line.partition("{")[0]: float(line.rpartition(" ")[2]) for line in lines}
    return found


def _tag(line: str) -> str:
    """Return what a metric is told from others by."""
    if line.startswith("ray_afield_retrain_"):
        return 'model="encoder"'
    return 'job="01000000"' if "waiting_s" in line else 'run="s3://bucket/run"'
