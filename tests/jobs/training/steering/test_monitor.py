"""A monitor outlives its process."""

import os
import signal

import pytest
import ray

from jobs.training.steering.monitor import answer, start_monitor


@pytest.mark.usefixtures("ray_session")
def test_a_monitor_whose_process_is_killed_goes_on_beside_the_driver() -> None:
    monitor = start_monitor()
    monitor.stop.remote()
    assert ray.get(monitor.stop_wanted.remote())
    pid = ray.get(monitor.__ray_call__.remote(lambda _: os.getpid()))
    os.kill(pid, signal.SIGKILL)
    assert answer(monitor.stop_wanted.remote(), None) in (False, None)
    monitor.log.remote({"step": 1})
    assert ray.get(monitor.take.remote()) == [{"step": 1}]
    node = ray.get(monitor.__ray_call__.remote(lambda _: ray.get_runtime_context().get_node_id()))
    assert node == ray.get_runtime_context().get_node_id()
