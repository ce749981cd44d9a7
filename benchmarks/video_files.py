"""Writes frames as H.264 in MP4, for benchmarks that need videos of a kind."""

from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction
from itertools import cycle
from pathlib import Path

import av
import numpy as np

RATE = 25


def write_video(
    path: Path, frames: Iterable[np.ndarray], options: Mapping[str, str], gop: int | None = None
) -> int:
    """Encode frames (H, W, 3) uint8 of even sides; returns how many.

    Args:
        path: An .mp4 file.
        frames: At least one.
        options: Of libx264.
        gop: Frames from one key frame to the next at most; None: as libx264 has it.
    """
    number = 0
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options=dict(options))
        stream.pix_fmt = "yuv420p"
        if gop is not None:
            stream.codec_context.gop_size = gop
        for pixels in frames:
            if not number:
                stream.height, stream.width = pixels.shape[:2]
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            picture.pts = number
            picture.time_base = Fraction(1, RATE)
            container.mux(stream.encode(picture))
            number += 1
        container.mux(stream.encode())
    return number


def frames_of(paths: Iterable[Path], height: int, width: int) -> Iterator[np.ndarray]:
    """Yield the frames of videos one after the other, at one size, and then those again.

    Raises:
        ValueError: not one of the videos can be read.
    """
    read = 0
    left = list(paths)
    for path in cycle(left):
        try:
            with av.open(str(path)) as container:
                for frame in container.decode(video=0):
                    read += 1
                    yield frame.reformat(width, height, "rgb24").to_ndarray()
        except (av.FFmpegError, IndexError):
            pass  # of many videos some are damaged, or hold sound alone
        if path == left[-1] and not read:
            break
    raise ValueError(f"not one of {len(left)} videos can be read")
