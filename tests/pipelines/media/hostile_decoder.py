"""A decoder's process as it goes wrong: what an image's bytes ask for is what happens to it."""

import os
import signal
import time
from typing import Any

import numpy as np

from pipelines.media import decoder_process
from pipelines.media.image import decode


def misbehave(data: bytes, **options: Any) -> np.ndarray:
    """Sleep for ever, crash, take all memory, or decode."""
    if data == b"sleep":
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        time.sleep(10**6)
    if data == b"crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if data == b"grow":
        return np.ones(2**36, np.uint8)
    if data == b"die once":
        try:
            os.mkdir(os.environ["AFIELD_TEST_DIED"])
        except FileExistsError:
            return np.zeros((2, 3, 3), np.uint8)
        os.kill(os.getpid(), signal.SIGKILL)
    return decode(data, **options)


if __name__ == "__main__":
    decoder_process.main(misbehave)
