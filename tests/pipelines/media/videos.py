"""Makes small videos whose frames tell their number, in black and white bars of the lower half,
lowest bit first.

The upper half is white and grey, so that a turned frame shows.
"""

import io
from collections.abc import Sequence
from fractions import Fraction

import av
import numpy as np
from av.stream import Disposition


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
    pictures: Sequence[np.ndarray] | None = None,
) -> bytes:
    """Encode frames 0, 1, ..., or pictures.

    Args:
        num_frames: How many.
        kind: Container.
        codec: FFmpeg's name of the encoder.
        rate: Frames per second.
        gop: Frames from one key frame to the next.
        stamps: Presentation times in milliseconds; by `rate` where there are none.
        rotation: Counter-clockwise turn that a player is told to make, degrees.
        title: In the metadata.
        pictures: RGB of each frame, (H, W, 3) uint8 of even sides; those of `frame` where there are
            none.
    """
    pictures = [frame(number) for number in range(num_frames)] if pictures is None else pictures
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=kind) as container:
        container.metadata["title"] = title
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.gop_size = gop
        unit = Fraction(1, rate) if codec == "mpeg2video" else Fraction(1, 1000)
        stream.codec_context.time_base = unit
        if codec == "libx264":
            stream.options = {"crf": "10", "bf": "2", "sc_threshold": "0"}
        if rotation:
            stream.set_display_rotation(rotation)
        for number in range(num_frames):
            picture = av.VideoFrame.from_ndarray(pictures[number], format="rgb24")
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


def picture() -> bytes:
    """A stream of one JPEG picture, as a cover is kept."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="matroska") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuvj420p"
        cover = av.VideoFrame.from_ndarray(frame(200), format="rgb24")
        cover = cover.reformat(format="yuvj420p")
        cover.pts = 0
        container.mux(stream.encode(cover))
        container.mux(stream.encode())
    return buffer.getvalue()


def remuxed(
    files: Sequence[bytes],
    kind: str,
    *,
    last_ms: int = 0,
    roles: Sequence[Disposition] = (),
    **options: str,
) -> bytes:
    """Put the video streams of files side by side into another container.

    Args:
        files: The files.
        kind: Container.
        last_ms: How long the last frame of each stays on display; 0: as it did.
        roles: What each stream is to a player.
        options: Of the container's muxer.
    """
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=kind, container_options=options) as target:
        sources = [av.open(io.BytesIO(file)) for file in files]
        videos = [source.streams.video[0] for source in sources]
        streams = [target.add_stream_from_template(video) for video in videos]
        for stream, role in zip(streams, roles, strict=False):
            stream.disposition = role
        for source, stream in zip(sources, streams, strict=True):
            packets = [packet for packet in source.demux(video=0) if packet.dts is not None]
            if last_ms:
                packets[-1].duration = round(last_ms / 1000 / packets[-1].time_base)
            for packet in packets:
                packet.stream = stream
                target.mux(packet)
    return buffer.getvalue()
