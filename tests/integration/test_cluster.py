"""On a Ray that is already there: two nodes, a submitted job, and what such a cluster is refused
for."""

import http.server
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from tests import commands
from tests.object_store import PUBLIC, ObjectStore

BIN = Path(sys.executable).parent


@contextmanager
def usage_listener() -> Iterator[tuple[list[str], dict[str, str]]]:
    """Collects what is reported to it, and gives the variables that have Ray report there at
    once."""
    reports: list[str] = []

    class Listener(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            reports.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
            self.send_response(200)
            self.end_headers()

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Listener) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        yield reports, {"RAY_USAGE_STATS_REPORT_URL": url, "RAY_USAGE_STATS_REPORT_INTERVAL_S": "1"}
        server.shutdown()


@pytest.mark.slow
def test_a_local_ray_reports_no_usage_not_even_that_it_reports_none() -> None:
    script = (
        "import pathlib, time\n"
        "from ray._common.usage import usage_lib\n"
        "from ray._private import worker\n"
        "print(usage_lib.usage_stats_enabled())\n"
        "from jobs.cluster import launch\n"
        "from jobs.setup.sections import ClusterConfig\n"
        "with launch.session(ClusterConfig(address='local')):\n"
        "    print(usage_lib.usage_stats_enabled())\n"
        "    log = pathlib.Path(worker._global_node.get_logs_dir_path(), 'dashboard.log')\n"
        "    while 'Usage reporting is ' not in (log.read_text() if log.exists() else ''):\n"
        "        time.sleep(0.1)\n"
        "    time.sleep(2)\n"  # a report would follow at once, and then one a second
    )
    env = {name: value for name, value in os.environ.items() if name != "RAY_USAGE_STATS_ENABLED"}
    with usage_listener() as (reports, usage):
        command = [sys.executable, "-c", script]
        done = subprocess.run(
            command,
            cwd=commands.ROOT,
            env={**env, **usage},
            capture_output=True,
            text=True,
            check=True,
        )
    # Ray's own default, and what it is once a job has started it
    assert done.stdout.split() == [
        "True",
        "False",
    ]
    assert not reports


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("asked", [False, True])
def test_a_cluster_reports_usage_only_where_that_is_asked_for(asked: bool) -> None:
    options = yaml.safe_load((commands.ROOT / "cluster.yaml").read_text())["docker"]["run_options"]
    shipped = dict(
        option.removeprefix("--env ").split("=", 1) for option in options if "USAGE_STATS" in option
    )
    with (
        usage_listener() as (reports, usage),
        started_head(**{**usage, **({"RAY_USAGE_STATS_ENABLED": "1"} if asked else shipped)}),
    ):
        deadline = time.monotonic() + (60 if asked else 20)
        while time.monotonic() < deadline and not reports:
            time.sleep(0.5)
    assert bool(reports) == asked


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_nodes_train_and_a_local_out_needs_shared_fs(
    image_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    words = [
        *commands.TINY,
        f"source.uri={image_folder}",
        f"out={out}",
        "num_steps=6",
        "cluster.num_workers=2",
    ]
    with commands.two_nodes((2, 2)) as address:
        refused = commands.run("pretrain", *words, f"cluster.address={address}")
        assert refused.returncode == 2
        assert (
            "local path and the cluster has 2 nodes" in refused.stderr
            and "cluster.shared_fs=true" in refused.stderr
        )
        assert not out.exists()
        hungry = commands.run(
            "pretrain",
            *words,
            f"cluster.address={address}",
            "cluster.shared_fs=true",
            "cluster.num_workers=4",
        )
        assert hungry.returncode == 2 and "decoding needs at least 1" in hungry.stderr
        done = commands.run(
            "pretrain", *words, f"cluster.address={address}", "cluster.shared_fs=true", "--json"
        )
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout.splitlines()[-1])["steps"] == 6


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_cluster_without_settings_of_its_own_takes_the_drivers(
    image_folder: Path, put_folder: Callable[[Path, str], None], object_store: ObjectStore
) -> None:
    source = f"{object_store.make_bucket(PUBLIC)}/images"
    put_folder(image_folder / "scene0", source)
    bare = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    settings = {"AWS_ENDPOINT_URL": object_store.endpoint, "AWS_SKIP_SIGNATURE": "true"}
    with commands.two_nodes((2, 2), bare) as address:
        script = (
            "import sys, ray\n"
            "from jobs.cluster import launch\n"
            "from jobs.setup.sections import ClusterConfig\n"
            "from pipelines.corpus.listing import list_source\n"
            "cluster = ClusterConfig(address=sys.argv[1], storage_retry_s=10)\n"
            "with launch.session(cluster, work='tasks'):\n"
            "    print(sum(table.num_rows for table in list_source(sys.argv[2])))\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", script, address, source],
            cwd=commands.ROOT,
            env=bare | settings,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.stdout.split()[-1:] == ["25"], done.stderr


@contextmanager
def started_head(**variables: str) -> Iterator[dict[str, str]]:
    """A `ray start --head` with its job server; gives the variables of its clients."""
    with socket.socket() as probe, socket.socket() as other:
        probe.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        port, dashboard = probe.getsockname()[1], other.getsockname()[1]
    folder = f"/tmp/afield-{os.getpid()}"  # short: Ray's sockets lie below it
    command = [
        *(
            str(BIN / "ray"),
            "start",
            "--head",
            f"--port={port}",
            f"--dashboard-port={dashboard}",
            "--num-cpus=4",
        ),
        *(f"--temp-dir={folder}", "--block", "--dashboard-agent-listen-port=0"),
    ]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, cwd=commands.ROOT, env={**os.environ, **variables}, **quiet)
    try:
        yield {"RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard}"}
    finally:
        process.terminate()
        process.wait(60)


@pytest.fixture
def head() -> Iterator[dict[str, str]]:
    with started_head() as variables:
        yield variables


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_submitted_job_runs_on_the_submitting_cluster(
    head: dict[str, str], image_folder: Path, tmp_path: Path, object_store: ObjectStore
) -> None:
    def submit(out: str) -> subprocess.CompletedProcess[str]:
        words = [*commands.TINY, f"source.uri={image_folder}", f"out={out}", "num_steps=3"]
        command = [str(BIN / "ray"), "job", "submit", "--working-dir", "."]
        return subprocess.run(
            [*command, "--", sys.executable, "-m", "jobs.pretrain", *words],
            cwd=commands.ROOT,
            env={**os.environ, **head},
            capture_output=True,
            text=True,
            timeout=280,
        )

    for _ in range(30):  # until the job server answers
        ready = subprocess.run(
            [str(BIN / "ray"), "job", "list"], env={**os.environ, **head}, capture_output=True
        )
        if ready.returncode == 0:
            break
    relative = submit("runs/a")
    assert (
        "is relative, and a submitted job's folder is thrown away"
        in relative.stdout + relative.stderr
    )
    done = submit(str(tmp_path / "run"))
    text = done.stdout + done.stderr
    assert done.returncode == 0, text
    assert "starting a local Ray" not in text
    assert (tmp_path / "run" / "artifact" / "encoder.safetensors").exists()
