"""Joining a Ray that is there: one line that says what is wrong with it, soon."""

import http.server
import os
import secrets
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.cluster import joining
from jobs.setup.failures import InputError
from tests import commands

TOKEN = secrets.token_hex(16)


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joining, "ANSWER_S", 2.0)


@pytest.fixture
def port() -> Iterator[int]:
    """A port on which somebody listens and says nothing."""
    with socket.socket() as listener:
        listener.bind(("0.0.0.0", 0))
        listener.listen()
        yield listener.getsockname()[1]


def refused(address: str) -> str:
    with pytest.raises(InputError, match=f"cluster.address {address}") as caught:
        joining.join(address, {})
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_port_without_anybody_is_called_dead() -> None:
    with socket.socket() as free:
        free.bind(("0.0.0.0", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    assert "cannot be reached (Connection refused): start Ray there" in refused(address)


def test_a_port_that_says_nothing_is_no_head(port: int) -> None:
    assert "takes connections and does not answer" in refused(f"127.0.0.1:{port}")


def test_another_server_is_no_head() -> None:
    with http.server.HTTPServer(("0.0.0.0", 0), http.server.SimpleHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        said = refused(f"127.0.0.1:{server.server_address[1]}")
        server.shutdown()
    assert "is no Ray head" in said and "6379 by default" in said


def test_what_is_no_address_is_said() -> None:
    assert "Invalid address format" in refused("somewhere")
    assert "cannot be reached" in refused("nowhere.invalid:6379")


def test_ray_client_is_refused_before_anything_is_asked() -> None:
    assert "`ray job submit`" in refused("ray://127.0.0.1:10001")


@pytest.fixture(scope="module")
def guarded_head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Ray head that wants `TOKEN`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = f"/tmp/afield-join-{os.getpid()}"  # short: Ray's sockets lie below it
    command = [str(Path(sys.executable).parent / "ray"), "start", "--head", f"--port={port}"]
    command += ["--num-cpus=1", "--include-dashboard=false", f"--temp-dir={folder}", "--block"]
    env = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(command, env=env, **pipes) as process:  # type: ignore[call-overload]
        try:
            for line in process.stdout:
                if "Ray runtime started" in line:
                    break
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()
            process.communicate(timeout=60)
            shutil.rmtree(folder, ignore_errors=True)


TOLD = (
    ({"RAY_AUTH_MODE": "disabled"}, "wants a token and none was sent: set RAY_AUTH_MODE=token"),
    ({"RAY_AUTH_MODE": "token"}, "wants a token and none was sent: set RAY_AUTH_MODE=token"),
    (
        {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "a" * 32},
        "refuses the token: set RAY_AUTH_TOKEN",
    ),
    ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}, "joined"),
)


def test_a_missing_and_a_wrong_token_are_told_apart(guarded_head: str, tmp_path: Path) -> None:
    script = (
        "import sys, ray; from jobs.cluster import joining\n"
        "try: joining.join(sys.argv[1], {})\n"
        "except ValueError as error: print(error)\n"
        "else: print('joined'); ray.shutdown()\n"
    )
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH_")}
    env["HOME"] = str(tmp_path)  # where Ray looks for a token as well
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    started = [  # all at once: each waits most of the time
        subprocess.Popen(
            [sys.executable, "-c", script, guarded_head],
            cwd=commands.ROOT,
            env=env | variables,
            **pipes,  # type: ignore[call-overload]
        )
        for variables, _ in TOLD
    ]
    for process, (variables, said) in zip(started, TOLD, strict=True):
        stdout, stderr = process.communicate(timeout=150)
        assert said in stdout and stdout.count("\n") == 1, (variables, stderr)


def test_a_job_says_so_in_one_line(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("0.0.0.0", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    words = [f"source.uri={tmp_path}", f"out={tmp_path}/m", f"cluster.address={address}"]
    done = commands.run("index", *words, timeout_s=60)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: cluster.address {address}")
    assert done.stderr.count("\n") == 1
