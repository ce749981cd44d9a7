"""A lease has one holder, whatever is killed or suspended; on local files and on a real S3
server."""

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipelines.storage import conditional, lease, processes, uris
from tests.commands import ROOT
from tests.object_store import ObjectStore

# Holds the lease until it is told to go on; then writes if it still may.
HOLDER = """
import sys
from pipelines.storage import lease, processes, uris

if sys.argv[2] == "elsewhere":
    processes.machine = lambda: "another machine"
print("ready", flush=True)
sys.stdin.readline()
try:
    with lease.held(sys.argv[1], owner="pretrain") as held:
        print("held", flush=True)
        if sys.stdin.readline():
            held.fence.check()
            uris.write_bytes(uris.join(sys.argv[1], "result"), sys.argv[3].encode())
    print("done", flush=True)
except (lease.Busy, lease.Lost) as error:
    print(type(error).__name__, error, flush=True)
"""


class Driver:
    """A process that wants the lease of a folder."""

    def __init__(self, uri: str, where: str = "here", text: str = "first") -> None:
        command = [sys.executable, "-c", HOLDER, uri, where, text]
        env = {**os.environ, lease.BEAT_VARIABLE: "0.3"}
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.line() == "ready"

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def go_on(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def send(self, number: int) -> None:
        self.process.send_signal(number)
        stat = Path(f"/proc/{self.process.pid}/stat")
        while number == signal.SIGSTOP and stat.read_text().rpartition(")")[2].split()[0] != "T":
            time.sleep(0.01)

    def said(self) -> str:
        """What it said on stderr, once it has ended."""
        return self.process.communicate(timeout=60)[1]


@contextmanager
def driver(uri: str, where: str = "here", text: str = "first") -> Iterator[Driver]:
    one = Driver(uri, where, text)
    try:
        yield one
    finally:
        one.process.kill()
        one.process.communicate()


@pytest.fixture(params=["local", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "local":
        return str(tmp_path / "out")
    store: ObjectStore = request.getfixturevalue("object_store")
    return f"{store.make_bucket(f'leases-{uuid.uuid4().hex[:8]}')}/out"


def test_of_several_at_once_one_gets_the_lease_and_the_others_are_told_whose_it_is(
    folder: str,
) -> None:
    with driver(folder) as one, driver(folder) as two, driver(folder) as three:
        drivers = (one, two, three)
        for each in drivers:
            each.go_on()
        lines = sorted((each.line(), each.process.pid) for each in drivers)
        assert [line.split()[0] for line, _ in lines] == ["Busy", "Busy", "held"]
        holder = lines[2][1]
        assert all(
            f"is in use by pretrain on {os.uname().nodename}, pid {holder}, since 2" in line
            for line, _ in lines[:2]
        )
        winner = next(each for each in drivers if each.process.pid == holder)
        winner.go_on()
        assert winner.line() == "done"
        assert uris.read_bytes(uris.join(folder, "result")) == b"first"
        assert [name for name in uris.list_names(folder) if not name.startswith(".lease")] == [
            "result"
        ]


def test_a_lease_that_ended_leaves_nothing_behind_and_is_free(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for _ in range(2):
        with lease.held(str(out), owner="export") as held:
            held.check()
            assert held.fence.check().owner == "export"
            assert [path.name for path in out.iterdir()] == [".lease"]
        assert not out.exists()


def test_no_credential_is_in_a_lease(folder: str) -> None:
    with lease.held(folder, owner="export"):
        data = uris.read_bytes(uris.join(folder, lease.FOLDER, "000001.json"))
    assert data and not any(
        value.encode() in data for name, value in os.environ.items() if name.startswith("AWS_")
    )


def test_a_killed_holder_is_taken_over_at_once_on_its_machine(folder: str) -> None:
    with driver(folder) as first, driver(folder, text="second") as second:
        first.go_on()
        assert first.line() == "held"
        first.send(signal.SIGKILL)
        first.process.wait()
        second.go_on()
        assert second.line() == "held"
        second.go_on()
        assert second.line() == "done"
        said = second.said()
    assert f"pid {first.process.pid}" in said and "has ended; going on in its place" in said
    assert "waiting" not in said
    assert uris.read_bytes(uris.join(folder, "result")) == b"second"


def test_a_killed_holder_of_another_machine_is_taken_over_after_a_few_heartbeats(
    folder: str,
) -> None:
    with driver(folder, "elsewhere") as first, driver(folder, text="second") as second:
        first.go_on()
        assert first.line() == "held"
        first.send(signal.SIGKILL)
        first.process.wait()
        second.go_on()
        assert second.line() == "held"
        second.go_on()
        said = second.said()
    assert f"pid {first.process.pid}" in said and "waiting for a sign of life" in said
    assert "gave no sign of life for 1 s; going on in its place" in said


def test_a_living_holder_of_another_machine_is_left_alone(folder: str) -> None:
    with driver(folder, "elsewhere") as first, driver(folder) as second:
        first.go_on()
        assert first.line() == "held"
        second.go_on()
        assert second.line().startswith("Busy")
        first.go_on()
        assert first.line() == "done"


@pytest.mark.parametrize(
    ("where", "folder"),
    [
        ("here", "local"),
        ("elsewhere", "s3"),
        pytest.param("here", "s3", marks=pytest.mark.slow),
        pytest.param("elsewhere", "local", marks=pytest.mark.slow),
    ],
    indirect=["folder"],
)
def test_a_suspended_holder_is_taken_over_and_writes_no_more(where: str, folder: str) -> None:
    with driver(folder, where) as first, driver(folder, text="second") as second:
        first.go_on()
        assert first.line() == "held"
        first.send(signal.SIGSTOP)
        second.go_on()
        assert second.line() == "held"
        first.go_on()  # it wants to write as soon as it wakes
        first.send(signal.SIGCONT)
        line = first.line()
        assert (
            line.startswith("Lost") and f"taken over by pretrain on {os.uname().nodename}" in line
        )
        second.go_on()
        assert second.line() == "done"
        assert uris.read_bytes(uris.join(folder, "result")) == b"second"
        with lease.held(folder, owner="export") as third:  # both have ended
            assert third.fence.number == 3


def test_a_folder_that_was_deleted_and_taken_anew_is_lost(folder: str) -> None:
    with lease.held(folder, owner="pretrain") as first:
        uris.remove(folder)
        with pytest.raises(lease.Lost, match="its lease, which is gone"):
            first.fence.check()
        with lease.held(folder, owner="export") as second:
            with pytest.raises(lease.Lost, match="taken over by export"):
                first.fence.check()
            second.fence.check()


def test_a_lease_that_a_heartbeat_found_lost_ends_its_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(lease.BEAT_VARIABLE, "0.02")
    with lease.held(str(tmp_path), owner="pretrain") as held:
        held.check()
        uris.remove(str(tmp_path / lease.FOLDER))
        held._thread.join(60)
        with pytest.raises(lease.Lost, match="its lease, which is gone"):
            held.check()


def test_a_store_without_conditional_writes_is_named(
    object_store: ObjectStore,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    uri = f"{object_store.make_bucket('unconditional')}/out"

    def careless(fs: object, path: str, data: bytes) -> bool:
        uris.write_bytes(f"s3://{path}", data)
        return True

    monkeypatch.setattr(conditional, "create_object", careless)
    with lease.held(uri, owner="pretrain") as held:
        held.fence.check()
    assert "lies in a store without conditional writes" in capsys.readouterr().err


def test_an_ended_process_is_told_from_a_living_one_and_from_another_of_its_number() -> None:
    here, pid = processes.machine(), os.getpid()
    start = processes.started(pid)
    assert processes.state(here, pid, start) == "alive"
    assert processes.state(here, pid, start - 1) == "ended"
    assert processes.state("another machine", pid, start) == "unknown"
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    start = processes.started(child.pid)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # a zombie
    assert processes.state(here, child.pid, start) == "ended"
    child.wait()
    assert processes.state(here, child.pid, start) == "ended"
