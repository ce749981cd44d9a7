"""Makes small videos whose frames tell their number, in black and white bars of the lower half, lowest bit first.

The upper half is white and grey, so that a turned frame shows.
"""

import io
from collections.abc import Sequence
from fractions import Fraction

import av
import numpy as np


def frame(number: int) -> np.ndarray:
    """RGB of a frame, (48, 64, 3)."""
    pixels = np.full((48, 64, 3), 90, np.uint8)
    pixels[:24, :32] = 255
    bits = np.array([number >> bit & 1 for bit in range(8)], np.uint8)
    pixels[24:] = 255 * np.repeat(bits, 8)[None, :, None]
    return pixels


def number_of(pixels: np.ndarray) -> int:
    """Number of a decoded frame."""
    bits = pixels[28:44].mean(axis=(0, 2)).reshape(8, 8)[:, 2:6].mean(axis=1) > 128
    return int(np.dot(bits, 1 << np.arange(8)))


def video(
    num_frames: int,
    *,
    kind: str = "mp4",
    codec: str = "libx264",
    rate: int = 25,
    gop: int = 12,
    stamps: Sequence[int] | None = None,
    rotation: int = 0,
    title: str = "",
) -> bytes:
    """Encode frames 0, 1, ...

    Args:
        num_frames: How many.
        kind: Container.
        codec: FFmpeg's name of the encoder.
        rate: Frames per second.
        gop: Frames from one key frame to the next.
        stamps: Presentation times in milliseconds; by `rate` where there are none.
        rotation: Counter-clockwise turn that a player is told to make, degrees.
        title: In the metadata.
    """
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=kind) as container:
        container.metadata["title"] = title
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        stream.codec_context.gop_size = gop
        stream.codec_context.time_base = Fraction(1, 1000)
        if codec == "libx264":
            stream.options = {"crf": "10", "bf": "2", "sc_threshold": "0"}
        if rotation:
            stream.set_display_rotation(rotation)
        for number in range(num_frames):
            picture = av.VideoFrame.from_ndarray(frame(number), format="rgb24")
            picture.pts = stamps[number] if stamps else number * 1000 // rate
            picture.time_base = Fraction(1, 1000)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return buffer.getvalue()


def sound() -> bytes:
    """An MP4 file without a video stream."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        samples = av.AudioFrame.from_ndarray(
            np.zeros((1, 16000), np.float32), format="fltp", layout="mono"
        )
        samples.sample_rate = 16000
        container.mux(stream.encode(samples))
        container.mux(stream.encode())
    return buffer.getvalue()
