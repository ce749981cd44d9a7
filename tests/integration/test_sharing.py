"""A second job on a busy cluster waits, says what for, and starts when there is room."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests import commands

HOLDER = """
import sys
import ray

ray.init(address=sys.argv[1], log_to_driver=False)

@ray.remote(num_cpus=1)
class Holder:
    def ready(self):
        return True

holders = [Holder.remote() for _ in range(2)]
print(ray.get([one.ready.remote() for one in holders]), flush=True)
sys.stdin.read()
"""


@pytest.mark.timeout(200)
def test_a_second_job_waits_for_room_and_names_who_holds_it(
    image_folder: Path, tmp_path: Path
) -> None:
    with commands.two_nodes((1, 1)) as address:
        path = tmp_path / "holder.py"
        path.write_text(HOLDER)
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        first = subprocess.Popen([sys.executable, str(path), address], text=True, **pipes)
        assert first.stdin is not None and first.stdout is not None
        while "True" not in first.stdout.readline():
            assert first.poll() is None
        words = [f"source.uri={image_folder}", f"out={tmp_path / 'manifest'}"]
        second = commands.start(
            "index", *words, f"cluster.address={address}", "cluster.shared_fs=true"
        )
        waits = commands.read_until(second, "waiting for room")[-1]
        first.stdin.close()
        out, err = second.communicate(timeout=100)
        first.wait(60)
    assert "room for 1 x (1 CPU): 0 of 2 CPUs are free; the rest is held by `python" in waits
    assert "holder.py" in waits
    assert second.returncode == 0 and "200 samples" in out, err
