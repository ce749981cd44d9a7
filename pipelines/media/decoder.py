"""Decode in a supervised child process what may do harm there: everything but ordinary JPEG.

A child that hangs or crashes costs its sample one retry in a new child and then the sample, never
the run.
"""

import fcntl
import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import lru_cache
from typing import BinaryIO, Protocol, cast

import numpy as np

from augment.picture import Picture
from pipelines.media.contract import BadSample, Changes, Clip, Limits, Reduce, Windows
from pipelines.media.decoder_process import Message, body_of, receive, send
from pipelines.media.jpeg import decode_pixels, read_header
from pipelines.motion.optical_flow import FlowKind

TRIES = 2
PROCESS = f"{__package__}.decoder_process"
# Pixels times scans of a JPEG that is decoded in this process, which nothing supervises: at some
# 100 million a second, a tenth of the time limit and at most seconds. A photograph of 24 million
# pixels in ten scans is within it.
_WORK_PER_S = 10_000_000
_MOST_WORK = 256_000_000
_PIPE_BYTES = 1 << 20  # Linux's default of 64 KiB means sixteen times the process switches
_F_SETPIPE_SZ = 1031
# Of the environment the child gets what Python and its libraries need to be found and to speak the
# same language; no credentials, and not the allocator's settings of Ray's workers, which would have
# it keep the memory of the largest image it ever saw.
INHERITED = (
    *("LANG", "LANGUAGE", "LC_ALL", "LC_CTYPE", "LC_MESSAGES", "PYTHONUTF8", "PYTHONIOENCODING"),
    *("PYTHONHOME", "PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX", "LD_LIBRARY_PATH"),
)


class File(Protocol):
    """A file that is read by parts."""

    @property
    def size(self) -> int:
        """Return the bytes of the file."""

    def read(self, offset: int, length: int) -> bytes:
        """Read bytes [offset, offset + length).

        Raises:
            BadSample, OSError: as in fetching.
        """


class Decoder:
    """Turns files into pixels, with one child process that is started when it is first needed and
    when it has died.

    Args:
        limits: What a file may cost.
        module: What runs in the child.
    """

    def __init__(self, limits: Limits, module: str = PROCESS) -> None:
        self._limits = limits
        self._module = module
        self._child: subprocess.Popen[bytes] | None = None
        self._shown: list[float] | None = None  # when the frames of the last answer are on display

    def image(self, data: bytes, reduce: Reduce | None = None) -> Picture:
        """Decode a still image, ordinary JPEG in this process, and JPEG as `reduce` allows to fewer
        pixels.

        Raises:
            BadSample: it cannot be used.
        """
        limits = self._limits
        header = read_header(data, limits.max_pixels)
        if header is None:
            return Picture.whole(self._ask({}, data))
        reduction = header.reduction(reduce)
        if header.work > min(_MOST_WORK, _WORK_PER_S * limits.timeout_s):
            pixels = self._ask({"reduction": reduction}, data)
            if pixels.shape[0] == header.height:  # by Pillow, or not reduced
                return Picture.whole(pixels)
            return Picture(pixels, header.height, header.width, reduction)
        picture = decode_pixels(data, header, reduction, allow_truncated=limits.allow_truncated)
        return Picture.whole(self._ask({}, data)) if picture is None else picture

    def clip(self, source: bytes | File, clip: Clip) -> Picture:
        """Decode a clip of a video, and what of its sound goes with it.

        Raises:
            BadSample: it cannot be used.
            OSError: the storage failed.
        """
        found = self._ask_of_stream({"clip": asdict(clip)}, source)
        sound: np.ndarray | None = None
        if clip.track is not None:
            assert self._shown is not None
            shape = [int(length) for length in self._shown[3:]]
            num_bytes = math.prod(shape)
            sound = found[num_bytes:].view(np.int16).reshape(-1, clip.track.size)
            found = found[:num_bytes].reshape(shape)
        frames = replace(Picture.whole(found), sound=sound)
        if self._shown is None:
            return frames
        start_s, end_s, lasts_s = self._shown[:3]
        return replace(frames, shown=(start_s, end_s), lasts_s=lasts_s)

    def changes(self, source: bytes | File, flow: FlowKind | None = None) -> Changes:
        """Look at all frames of a video, for motion by optical flow too where a kind is given.

        Raises:
            BadSample: it cannot be used.
            OSError: the storage failed.
        """
        found = self._ask_of_stream({"changes": flow}, source).view(np.float64)
        times, changes, cuts = found[:3]
        assert self._shown is not None
        start_s, end_s, rate, top, bottom, left, right = self._shown
        bars = (top, bottom, left, right)
        moved = None if flow is None else found[3]
        return Changes(start_s, end_s, rate, times, changes, cuts > 0, bars, moved)

    def sound(self, source: bytes | File, windows: Windows) -> np.ndarray:
        """Decode stretches of a sound, (N, L) int16, one channel.

        Raises:
            BadSample: it cannot be used, or is silent there.
            OSError: the storage failed.
        """
        return self._ask_of_stream({"sound": asdict(windows)}, source).view(np.int16)

    def _ask_of_stream(self, request: Message, source: bytes | File) -> np.ndarray:
        if not isinstance(source, bytes):
            return self._ask({**request, "bytes": source.size}, b"", source.read)
        if not source:
            raise BadSample("empty", "zero bytes")
        return self._ask(request, source)

    def indices(self, data: bytes) -> np.ndarray:
        """Decode a mask to class indices, (H, W) uint8.

        Raises:
            BadSample: it cannot be used.
        """
        return self._ask({"mask": True}, data)

    def depth(self, data: bytes) -> np.ndarray:
        """Decode a depth map to its values, (H, W) uint16.

        Raises:
            BadSample: it cannot be used.
        """
        return self._ask({"depth": True}, data).view(np.uint16)

    def deep_values(self, data: bytes) -> np.ndarray:
        """Return some values of an image of more than 8 bits a channel, float64; none of another.

        Raises:
            BadSample: it cannot be used.
        """
        return self._ask({"values": True}, data).view(np.float64)

    def close(self) -> None:
        """End the child, if there is one."""
        if self._child:
            self._child.kill()
            self._child.communicate()
            self._child = None

    def _ask(
        self, request: Message, body: bytes, read: Callable[[int, int], bytes] | None = None
    ) -> np.ndarray:
        for _ in range(TRIES):
            child = self._child or self._start()
            try:
                answer = self._converse(child, request, body, read)
            except BaseException:
                # the storage's failures, a task that is cancelled: the child is in mid-sentence
                self.close()
                raise
            if isinstance(answer, np.ndarray):
                return answer
            if answer is not None:
                raise answer
            problem = self._obituary(child)
        raise problem

    def _converse(
        self,
        child: subprocess.Popen[bytes],
        request: Message,
        body: bytes,
        read: Callable[[int, int], bytes] | None,
    ) -> np.ndarray | BadSample | None:
        """Put one request and serve the child's until it answers; None where it died."""
        to_child = cast(BinaryIO, child.stdin)
        from_child = cast(BinaryIO, child.stdout)
        try:
            send(to_child, request, body)
            while (answer := receive(from_child)) is not None:
                if "reason" in answer:
                    return BadSample(answer["reason"], answer["message"])
                if "shape" in answer:
                    self._shown = answer.get("shown")
                    pixels = body_of(from_child, answer)
                    return None if pixels is None else pixels.reshape(answer["shape"])
                assert read is not None
                send(to_child, {}, read(*answer["read"]))
        except BrokenPipeError:
            pass
        return None

    def _start(self) -> subprocess.Popen[bytes]:
        env = {name: value for name, value in os.environ.items() if name in INHERITED}
        env |= {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OPENBLAS_NUM_THREADS": "1"}
        start = ["-m", self._module]
        if __package__ != "pipelines.media":  # inside `afield`, whose modules must be imported
            start = ["-c", f"from {self._module} import main; main()"]
        command = [sys.executable, *start, json.dumps(asdict(self._limits))]
        child = subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for pipe in (child.stdin, child.stdout):
            try:
                fcntl.fcntl(cast(BinaryIO, pipe), _F_SETPIPE_SZ, _PIPE_BYTES)
            except OSError:
                # a user's pipes may take so much and no more; the default is only slower
                break
        self._child = child
        if receive(cast(BinaryIO, child.stdout)) is None:
            self.close()
            raise RuntimeError(
                f"{' '.join(command[:3])} ends at once, with {child.returncode}: its output"
                " says why"
            )
        return child

    def _obituary(self, child: subprocess.Popen[bytes]) -> BadSample:
        """Say what a child died of."""
        child.communicate()
        self._child = None
        if child.returncode == -signal.SIGALRM:
            return BadSample("timeout", f"not decoded within {self._limits.timeout_s:g} s, twice")
        how = (
            signal.Signals(-child.returncode).name
            if child.returncode < 0
            else f"status {child.returncode}"
        )
        return BadSample("crashed", f"the decoder ended with {how}, twice")


@lru_cache(maxsize=4)
def kept_decoder(limits: Limits, module: str) -> Decoder:
    """Return this process's decoder of some limits, kept from task to task: its child takes a while
    to start.

    Args:
        limits: What a file may cost.
        module: What runs in the child; `PROCESS`, but for tests.
    """
    return Decoder(limits, module)
