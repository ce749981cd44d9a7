"""The process in which decoders run that may hang, crash or eat memory: bytes come in, pixels go
out.

It has no credentials: of its parent's environment it gets the few variables that
`decoder.INHERITED` names, of its open files only the two pipes and standard error. Before the first
sample it gives up files, sockets, programs and other processes, as far as the kernel takes them;
`confinement` says what that is, and what is left. Messages are a line of JSON and as many raw bytes
as it announces: no pickle, so that a decoder which a file has taken over runs nothing in its
parent. It can still answer with wrong pixels or with nonsense, write to the log, and keep its
parent waiting. A sample that only takes too long ends the process by the kernel's timer, which
needs neither the interpreter nor a parent that is still alive.
"""

import io
import json
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, BinaryIO

import numpy as np

from pipelines.media.confinement import confine
from pipelines.media.contract import BadSample, Clip, Limits, Track, Windows
from pipelines.media.depth_map import decode_depth
from pipelines.media.image import decode, deep_values
from pipelines.media.index_map import decode_indices

# Interpreter and libraries, then a decoded image in several forms at once: RGBA, the white page,
# the composite, RGB.
BASE_BYTES = 1 << 30
BYTES_PER_PIXEL = 24
MAX_FILES = 64  # open at once: the pipes, and what is imported later

Message = dict[str, Any]


def send(pipe: BinaryIO, message: Message, body: Any = b"") -> None:
    """Write a message; `size` says how many bytes of body follow."""
    view = memoryview(body).cast("B")
    pipe.write(json.dumps({**message, "size": len(view)}).encode() + b"\n")
    pipe.write(view)
    pipe.flush()


def receive(pipe: BinaryIO) -> Message | None:
    """Read the head of a message, None where the other side has gone; its body is read by
    `body_of`."""
    line = pipe.readline()
    return json.loads(line) if line.endswith(b"\n") else None


def body_of(pipe: BinaryIO, message: Message) -> np.ndarray | None:
    """Read the body of a message, (size,) uint8; None where the other side has gone."""
    body = np.empty(message["size"], np.uint8)
    return body if pipe.readinto(body) == len(body) else None  # type: ignore[attr-defined]


def main(decode_image: Callable[..., np.ndarray] = decode) -> None:
    """Serve requests until the parent is gone.

    Args:
        decode_image: The decoder of still images.
    """
    limits = limits_of(json.loads(sys.argv[1]))
    memory = BASE_BYTES + BYTES_PER_PIXEL * limits.max_pixels
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (MAX_FILES, MAX_FILES))
    requests = sys.stdin.buffer
    answers = os.fdopen(os.dup(1), "wb")
    # Ctrl-C reaches the whole group; the parent decides
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.dup2(2, 1)  # whatever a library prints must not end up among the answers
    confine()
    send(answers, {"ready": True})
    while (request := receive(requests)) is not None:
        body = body_of(requests, request)
        if body is None:
            break
        try:
            with deadline(limits.timeout_s):
                pixels = _answer(request, body, limits, Link(requests, answers), decode_image)
        except BadSample as problem:
            send(answers, {"reason": problem.reason, "message": problem.message})
        except MemoryError:
            send(
                answers,
                {
                    "reason": "too_large",
                    "message": f"decoding takes more than {memory >> 20:,} MiB",
                },
            )
        else:
            send(answers, {"shape": pixels.shape, "shown": request.get("shown")}, pixels)


def limits_of(values: dict[str, Any]) -> Limits:
    """Rebuild limits from JSON, which knows no tuples."""
    tuples = {key: tuple(value) for key, value in values.items() if isinstance(value, list)}
    return Limits(**(values | tuples))


def _answer(
    request: Message,
    body: np.ndarray,
    limits: Limits,
    link: "Link",
    decode_image: Callable[..., np.ndarray],
) -> np.ndarray:
    if "values" in request:
        return deep_values(body.tobytes(), limits).view(np.uint8)
    if "depth" in request:
        return decode_depth(body.tobytes(), limits).view(np.uint8)
    if "mask" in request:
        return decode_indices(body.tobytes(), limits)
    if not {"clip", "changes", "sound"} & request.keys():
        data = body.tobytes()
        return decode_image(
            data,
            max_pixels=limits.max_pixels,
            allow_truncated=limits.allow_truncated,
            reduction=request.get("reduction", 1),
            value_range=limits.value_range,
            bands=limits.bands,
        )
    # here, as FFmpeg is of no use to a corpus of images
    from pipelines.media.frame_changes import frame_changes
    from pipelines.media.sounds.stretches import decode_track, decode_windows
    from pipelines.media.video import decode_clip

    file = RemoteFile(link, request["bytes"]) if "bytes" in request else io.BytesIO(body.tobytes())
    if "sound" in request:
        return decode_windows(file, Windows(**request["sound"]), limits).view(np.uint8)
    if "changes" in request:
        alive = partial(_more_time, limits.timeout_s)
        found = frame_changes(file, limits, alive, request["changes"])
        request["shown"] = [found.start_s, found.end_s, found.rate, *found.bars]
        columns = [found.times, found.changes, found.cuts]
        return np.stack([*columns, *([] if found.flow is None else [found.flow])]).view(np.uint8)
    track = request["clip"].pop("track")
    clip = Clip(**request["clip"])
    decoded = decode_clip(file, clip, limits)
    # goes back with the frames
    request["shown"] = [decoded.times[0], decoded.end_s, decoded.lasts_s]
    if track is None:
        return decoded.frames
    middle_s = float(np.mean(decoded.times[: clip.num_frames]))
    sound = decode_track(file, Track(**{**track, "centre_s": middle_s}), limits)
    request["shown"] += decoded.frames.shape
    return np.concatenate([decoded.frames.reshape(-1), sound.view(np.uint8).reshape(-1)])


def _more_time(timeout_s: float) -> None:
    """Begin the time limit anew: of work that can be as long as a film, its parts are limited."""
    signal.setitimer(signal.ITIMER_REAL, timeout_s)


@contextmanager
def deadline(timeout_s: float) -> Iterator[None]:
    """End this process by SIGALRM when the block takes longer."""
    signal.setitimer(signal.ITIMER_REAL, timeout_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


class Link:
    """Asks the parent for parts of a file; the time that takes does not count against the
    decoder."""

    def __init__(self, requests: BinaryIO, answers: BinaryIO) -> None:
        self._requests = requests
        self._answers = answers

    def read(self, offset: int, length: int) -> bytes:
        """Get bytes [offset, offset + length)."""
        left_s, _ = signal.setitimer(signal.ITIMER_REAL, 0)
        send(self._answers, {"read": [offset, length]})
        message = receive(self._requests)
        body = body_of(self._requests, message) if message else None
        if body is None:
            sys.exit(0)
        signal.setitimer(signal.ITIMER_REAL, left_s)
        return body.tobytes()


class RemoteFile(io.RawIOBase):
    """A file whose bytes the parent reads as they are needed."""

    def __init__(self, link: Link, size: int) -> None:
        self._link = link
        self._size = size
        self._at = 0

    def readable(self) -> bool:
        """Say that it can be read."""
        return True

    def seekable(self) -> bool:
        """Say that it can seek."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a place, which costs nothing."""
        self._at = offset + (0, self._at, self._size)[whence]
        return self._at

    def tell(self) -> int:
        """Return where the next read begins."""
        return self._at

    def read(self, size: int = -1) -> bytes:
        """Ask for the next `size` bytes."""
        length = min(self._size - self._at, size if size >= 0 else self._size)
        data = self._link.read(self._at, length) if length > 0 else b""
        self._at += len(data)
        return data


if __name__ == "__main__":
    main()
