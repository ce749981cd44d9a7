"""A decoder's process as it goes wrong: what an image's bytes ask for is what happens to it."""

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.media import decoder_process
from pipelines.media.contract import BadSample
from pipelines.media.image import decode

GROWTH = 2 << 30  # bytes that any machine of today hands out unless a limit forbids it
served = list[bytes]()


def misbehave(data: bytes, **options: Any) -> np.ndarray:
    """Sleep for ever, crash, take more memory than allowed, try what is forbidden, or decode."""
    served.append(data)
    if data == b"sleep":
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        time.sleep(10**6)
    if data == b"crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if data == b"grow":
        return np.empty(GROWTH, np.uint8)[: 3 * 4].reshape(2, 2, 3)
    if data == b"die as the second":
        if len(served) > 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return np.zeros((2, 3, 3), np.uint8)
    what, _, argument = data.decode("latin-1").partition(" ")
    if what in ATTEMPTS:
        raise BadSample("corrupt", attempt(ATTEMPTS[what], argument))
    return decode(data, **options)


def attempt(what: Callable[[str], object], argument: str) -> str:
    """Return what came of it as JSON, or why it did not."""
    try:
        return json.dumps(what(argument))
    except OSError as error:
        return type(error).__name__


def connect(address: str) -> str:
    """Open a TCP connection to a port of this machine, or one to a socket in the file system."""
    family, where = (
        (socket.AF_INET, ("127.0.0.1", int(address)))
        if address.isdigit()
        else (socket.AF_UNIX, address)
    )
    with socket.socket(family) as made:
        made.connect(where)
    return "connected"


def open_to_write(path: str) -> str:
    """Open a file for writing and leave it as it is: where nothing forbids it, nothing is lost."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT))
    return "opened"


def descriptors(_: str) -> list[int]:
    """List what is open."""
    return [number for number in range(decoder_process.MAX_FILES) if _is_open(number)]


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def thread(_: str) -> str:
    """Run something in a thread."""
    found = list[str]()
    started = threading.Thread(target=lambda: found.append("ran"))
    started.start()
    started.join()
    return found[0]


ATTEMPTS: dict[str, Callable[[str], object]] = {
    "read": lambda path: len(Path(path).read_bytes()),
    "write": open_to_write,
    "chmod": lambda path: os.chmod(path, 0o777),
    "connect": connect,
    "run": lambda path: os.execv(path, [path]),
    "fork": lambda _: os.fork(),
    "signal": lambda pid: os.kill(int(pid), 0),
    "thread": thread,
    "environment": lambda _: dict(os.environ),
    "descriptors": descriptors,
}

if __name__ == "__main__":
    decoder_process.main(misbehave)
