"""A lease on a folder: one job writes there, and others are told whose it is.

<folder>/.lease/000001.json   who holds it, and the number of the last heartbeat; the highest counts

Whoever wants the lease creates the next file, which only one of several can. So the store must
refuse to create an object that is there (`If-None-Match`); more it need not know. Where it does
not refuse, that is said, and two jobs that start within a second may both go on.

The holder writes its file anew at every heartbeat. Whoever finds one watches it: a holder whose
file does not change for `MISSED` heartbeats is taken over. No clock is compared with another
machine's. On the holder's own machine the process tells: it is there, or it has ended. A holder
that was suspended finds a higher file when it wakes, and stops before it writes more.

No file but the first is deleted by its holder: a suspended one before must find that it has lost.
"""

import json
import os
import platform
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime

from pipelines.storage import processes, uris
from pipelines.storage.retries import StorageError

FOLDER = ".lease"
BEAT_VARIABLE = "AFIELD_LEASE_BEAT_S"
BEAT_S = 10.0
MISSED = 4  # heartbeats; more than a stalled request takes before it is tried again
SAY_EVERY_S = 10.0


class Busy(RuntimeError):
    """Somebody else holds the lease."""


class Lost(RuntimeError):
    """Somebody else took the lease over; whoever held it must not write."""


@dataclass(frozen=True)
class Holder:
    """Who holds a lease.

    Attributes:
        owner: The job.
        host: Name of the machine, for people.
        machine: Name of the machine and of what shares its process ids, for comparison.
        pid: Process id there.
        started: When that process started, by the machine's own count.
        since: When it took the lease, by its own clock, for people.
        token: Of this lease and no other.
        every_s: Seconds between heartbeats.
        beat: Heartbeats so far.
        released: Whether it has ended.
    """

    owner: str
    host: str
    machine: str
    pid: int
    started: int
    since: str
    token: str
    every_s: float
    beat: int = 0
    released: bool = False

    def __str__(self) -> str:
        return f"{self.owner} on {self.host}, pid {self.pid}, since {self.since}"

    def as_bytes(self) -> bytes:
        """Return the content of the lease's file."""
        return json.dumps(asdict(self)).encode()


@dataclass(frozen=True)
class Fence:
    """Lets every process of a job make sure, before it writes, that the job still holds its lease.

    Attributes:
        uri: The folder.
        what: What the command line calls it.
        number: Of the lease's file.
        token: Of the lease.
    """

    uri: str
    what: str
    number: int
    token: str

    def check(self) -> Holder:
        """Read the lease; it takes two requests.

        Raises:
            Lost: it is somebody else's, or gone.
        """
        newest = max(_numbers(self.uri), default=0)
        holder = _read(self.uri, newest) if newest else None
        if newest == self.number and holder is not None and holder.token == self.token:
            return holder
        by = f"was taken over by {holder}" if holder else "has lost its lease, which is gone"
        raise Lost(f"{self.what} {self.uri} {by}: this job stops before it writes more")


class Held:
    """A lease while its job runs.

    Args:
        fence: What makes sure, before a write, that it is still held.
        holder: This process.
        born: When the lease's file was made, by the file system's clock; None in object storage.
    """

    def __init__(self, fence: Fence, holder: Holder, born: float | None) -> None:
        self.fence = fence
        self.born = born
        self._holder = holder
        self._ended = threading.Event()
        self._lost: Lost | None = None
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise if the last heartbeat found the lease lost; costs nothing, for loops.

        Raises:
            Lost: it did.
        """
        if self._lost is not None:
            raise self._lost

    def release(self) -> None:
        """End the lease, so that the next job need not wait."""
        self._ended.set()
        self._thread.join()
        with suppress(OSError, Lost):  # else the next job waits
            self.fence.check()
            if self.fence.number == 1:
                _withdraw(self.fence.uri)
            else:
                self._write(replace(self._holder, released=True))

    def _beat(self) -> None:
        while not self._ended.wait(self._holder.every_s):
            try:
                self.fence.check()
                self._holder = replace(self._holder, beat=self._holder.beat + 1)
                self._write(self._holder)
            except Lost as lost:
                self._lost = lost
                return
            except OSError:
                continue  # the storage may come back

    def _write(self, holder: Holder) -> None:
        uris.write_bytes(_place(self.fence.uri, self.fence.number), holder.as_bytes())


@contextmanager
def held(uri: str, *, owner: str, what: str = "out") -> Iterator[Held]:
    """Hold the lease on a folder, taken over where its holder is gone.

    Args:
        uri: The folder, which need not be there.
        owner: The job.
        what: What the command line calls the folder.

    Raises:
        Busy: somebody else holds it, and lives.
    """
    there = uris.is_local(uri) and os.path.isdir(uri)
    lease = _acquire(uri, owner, what)
    try:
        yield lease
    finally:
        lease.release()
        if uris.is_local(uri) and not there:
            with suppress(OSError):  # it is not empty
                os.rmdir(uri)


def _acquire(uri: str, owner: str, what: str) -> Held:
    while True:
        last = max(_numbers(uri), default=0)
        before = _read(uri, last) if last else None
        if before is not None and not before.released:
            _outwait(uri, last, before, what)
        mine = _myself(owner)
        if not uris.create(_place(uri, last + 1), mine.as_bytes()):
            continue  # somebody else was first
        place = _place(uri, last + 1)
        born = os.stat(place).st_mtime if uris.is_local(uri) else None
        if max(_numbers(uri)) != last + 1:  # it stood for one that has been cleared away since
            uris.remove(place)
            continue
        if not uris.is_local(uri):
            _try_refusal(uri, place, mine)
        _clear(uri, last)
        return Held(Fence(uri, what, last + 1, mine.token), mine, born)


def _outwait(uri: str, number: int, holder: Holder, what: str) -> None:
    """Watch a lease until its holder is known to be gone.

    Raises:
        Busy: it lives.
    """
    busy = Busy(f"{what} {uri} is in use by {holder}: wait for its end, or choose another {what}")
    state = processes.state(holder.machine, holder.pid, holder.started)
    if state == "alive":
        raise busy
    limit = MISSED * holder.every_s
    waited = said = 0.0
    while state != "ended" and waited < limit:
        if not waited or waited - said >= SAY_EVERY_S:
            said = waited
            print(
                f"{what} {uri} is held by {holder}: waiting for a sign of life, for"
                f" {limit - waited:.0f} s more",
                file=sys.stderr,
            )
        pause = min(holder.every_s / 4, limit - waited)
        time.sleep(pause)
        asked = time.monotonic()
        if max(_numbers(uri), default=0) != number or (now := _read(uri, number)) is None:
            return  # it ended, or somebody else took over
        if now.released:
            return
        if now != holder:
            raise busy
        # What the storage cannot tell for a while is no sign of death.
        waited = waited + pause if time.monotonic() - asked < holder.every_s else 0.0
        state = processes.state(holder.machine, holder.pid, holder.started)
    why = "has ended" if state == "ended" else f"gave no sign of life for {limit:.0f} s"
    print(f"{what} {uri}: {holder} {why}; going on in its place", file=sys.stderr)


def _myself(owner: str) -> Holder:
    return Holder(
        owner=owner,
        host=platform.node(),
        machine=processes.machine(),
        pid=os.getpid(),
        started=processes.started(os.getpid()),
        since=datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
        token=uuid.uuid4().hex,
        every_s=float(os.environ.get(BEAT_VARIABLE, BEAT_S)),
    )


def _try_refusal(uri: str, place: str, mine: Holder) -> None:
    """Say so where a store creates what is there already."""
    if uris.create(place, replace(mine, beat=1).as_bytes()):
        print(
            f"warning: {uri} lies in a store without conditional writes (If-None-Match): of two"
            " jobs that start there within a second, neither is told of the other",
            file=sys.stderr,
        )


def _place(uri: str, number: int) -> str:
    return uris.join(uri, FOLDER, f"{number:06d}.json")


def _numbers(uri: str) -> list[int]:
    names = uris.list_names(uris.join(uri, FOLDER))
    return [int(name.removesuffix(".json")) for name in names if name.endswith(".json")]


def _read(uri: str, number: int) -> Holder | None:
    """Read a lease; None where it is gone."""
    place = _place(uri, number)
    try:
        return Holder(**json.loads(uris.read_bytes(place)))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError):
        raise StorageError(place, "this is no lease: delete it if no job runs there") from None


def _clear(uri: str, last: int) -> None:
    """Delete the leases up to one that are over."""
    with suppress(OSError):  # who may not delete leaves them: nobody reads them
        for number in _numbers(uri):
            if number <= last:
                uris.remove(_place(uri, number))


def _withdraw(uri: str) -> None:
    """Delete the first lease of a folder: nobody held one before."""
    uris.remove(_place(uri, 1))
    if uris.is_local(uri):
        with suppress(OSError):
            os.rmdir(uris.join(uri, FOLDER))
