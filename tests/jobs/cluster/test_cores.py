import subprocess
import sys

from tests.commands import ROOT


def test_the_cores_of_this_process_are_those_it_may_run_on() -> None:
    script = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from jobs.cluster.cores import own_cores; print(own_cores())"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "1", done.stderr
