"""Makes control clips out of videos: as they are, and with nothing left to tell the order of their
frames by but one cue."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np

from benchmarks.video_files import write_video

_LONGEST_SIDE = 128  # px
_RING = 0.025  # of each side: within the border that methods make grey, in every crop
_BAR = 0.15  # of the height, above and below
_DARK = 24  # of 255: still taken for a bar
_OPTIONS = {"crf": "35", "bf": "2", "preset": "veryfast"}  # coarse, as much of the web is
_GOP = 12


def _still(frames: np.ndarray) -> np.ndarray:
    """Show the frame in the middle all the time: encoding alone makes frames differ."""
    return np.repeat(frames[len(frames) // 2][None], len(frames), axis=0)


def _palindrome(frames: np.ndarray) -> np.ndarray:
    """Play the first half and then play it backwards, so that both directions are alike."""
    half = frames[: (len(frames) + 1) // 2]
    return np.concatenate([half, half[::-1][len(frames) % 2 :]])


def _clock(num_frames: int, brightest: int) -> np.ndarray:
    """Return a grey level for each frame, (T, 1, 1, 1), that rises."""
    return np.linspace(0, brightest, num_frames).round().astype(np.uint8)[:, None, None, None]


def _borders(frames: np.ndarray) -> np.ndarray:
    """Put a thin border that grows brighter around a picture that stands still."""
    still = _still(frames)
    rows, columns = (max(1, round(_RING * side)) for side in frames.shape[1:3])
    level = _clock(len(frames), brightest=200)
    for edge in (np.s_[:, :rows], np.s_[:, -rows:], np.s_[:, :, :columns], np.s_[:, :, -columns:]):
        still[edge] = level
    return still


def _bars(frames: np.ndarray) -> np.ndarray:
    """Put dark bars that grow a little brighter above and below a picture that stands still."""
    still = _still(frames)
    rows = math.ceil(_BAR * frames.shape[1])
    still[:, :rows] = still[:, -rows:] = _clock(len(frames), brightest=_DARK)
    return still


CONTROLS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "real": lambda frames: frames,
    "backwards": lambda frames: frames[::-1],
    "still": _still,
    "palindrome": _palindrome,
    "borders": _borders,
    "bars": _bars,
}
"""By name, what makes a control's frames of a clip's, (T, H, W, 3) uint8 each."""


def stretches(path: Path, num_frames: int, most: int) -> Iterator[np.ndarray]:
    """Cut a video's first frames into stretches that follow each other, small enough to be quick.

    Args:
        path: The video.
        num_frames: T, of a stretch.
        most: How many at most; fewer where the video is shorter, none where it is shorter than one.

    Yields:
        (T, H, W, 3) uint8 of even sides.
    """
    waiting = list[np.ndarray]()
    with av.open(str(path)) as container:
        if not container.streams.video:
            return
        for frame in container.decode(video=0):
            scale = min(1.0, _LONGEST_SIDE / max(frame.height, frame.width))
            height, width = (max(2, 2 * round(s * scale / 2)) for s in (frame.height, frame.width))
            waiting.append(frame.reformat(width, height, "rgb24").to_ndarray())
            if len(waiting) == num_frames:
                yield np.stack(waiting)
                waiting.clear()
                most -= 1
                if not most:
                    return


def encode(path: Path, frames: np.ndarray) -> None:
    """Write frames as H.264, as compressed as much of the web is.

    Args:
        path: An .mp4 file.
        frames: (T, H, W, 3) uint8 of even sides.
    """
    write_video(path, frames, _OPTIONS, _GOP)


def make(videos: list[Path], out: Path, num_frames: int, most: int) -> int:
    """Write every control of every stretch, as out/<control>/<video>-<stretch>.mp4.

    Returns:
        How many stretches there are; videos that cannot be read are passed over.
    """
    made = 0
    for folder in CONTROLS:
        (out / folder).mkdir(parents=True, exist_ok=True)
    for number, path in enumerate(videos):
        try:
            for part, frames in enumerate(stretches(path, num_frames, most)):
                for name, control in CONTROLS.items():
                    encode(out / name / f"{number:05d}-{part:02d}.mp4", control(frames))
                made += 1
        except (av.FFmpegError, ValueError) as error:
            print(f"{path}: passed over, {error}")
    return made
