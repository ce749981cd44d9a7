"""Joining a Ray that is there: one line that says what is wrong with it, soon."""

import http.server
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.cluster import joining
from jobs.setup.failures import InputError
from tests import commands


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


@pytest.mark.long
def test_a_job_says_so_in_one_line(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("0.0.0.0", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    words = [f"source.uri={tmp_path}", f"out={tmp_path}/m", f"cluster.address={address}"]
    done = commands.run("index", *words, timeout_s=60)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: cluster.address {address}")
    assert done.stderr.count("\n") == 1
