"""Follows masks or key points through sequences of frames, in a pool of Ray Data actors. A sequence
is one row, so that one actor sees its frames, in their order."""

import io
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data
import torch
from torch import Tensor

from augment.execution.geometry import resize_whole
from models.probing.propagation import Carrying, Propagation
from pipelines.embeddings.features import Features
from pipelines.media.contract import Limits
from pipelines.ray_tasks import Placed, map_in_networks, said_to
from pipelines.sequences.frame_maps import AllMaps
from pipelines.sequences.reading import Read, read_in_order
from pipelines.sequences.sequences import Frame, Place, Sequence
from pipelines.sequences.truth import FollowedMasks, FollowedPoints, Size, Truth

SEQUENCE = "sequence"
TOLD = "told"
FILM = "film"
COPY = "copy"
NO_START = "nothing to follow in any frame that can be read"
NOTHING_JUDGED = "no frame after the first to judge by"
_FILM_FRAMES = 6
_FILM_PX = 144  # height of a frame of a film


@dataclass(frozen=True)
class Following:
    """How sequences are followed.

    Attributes:
        columns: Name to the features that carry labels, at least one of an encoder.
        carrying: How they carry them.
        size: Shorter side of the frames, px; None: their own.
        ignore: Of masks, as `FollowedMasks.of`.
        tolerance: Of F.
        alphas: Of PCK.
        filmed: Name of the features of which films are made.
        shown: Names of the sequences of which films are made.
        placed: Where the actors run.
        limits: What a file may cost.
    """

    columns: Mapping[str, Features]
    carrying: Carrying
    size: int | None
    ignore: int | None
    tolerance: float
    alphas: tuple[float, ...]
    filmed: str
    shown: tuple[str, ...]
    placed: Placed
    limits: Limits

    def begins(self, read: Read) -> Truth | None:
        """Return what is to be followed from a frame on; None where it shows nothing known."""
        if read.mask is not None:
            return FollowedMasks.of(read.mask, self.ignore, self.tolerance)
        height, width = read.pixels.shape[:2]
        return FollowedPoints.of(read.points, (height, width), self.alphas)


class _Run:
    """One sequence from the first known frame on, followed by all features.

    Args:
        how: How.
        truth: What is followed.
        read: The first frame.
        maps: Its features, by name, (D, h, w).
        sequence: Whose frames these are.
    """

    def __init__(
        self,
        how: Following,
        truth: Truth,
        read: Read,
        maps: dict[str, Tensor],
        sequence: Sequence,
    ) -> None:
        self._truth = truth
        self._filmed = how.filmed
        self._carried = dict[str, Propagation]()
        for name, of_frame in maps.items():
            height, width = of_frame.shape[1:]
            labels = truth.labels((height, width)).to(of_frame.device)
            self._carried[name] = Propagation(how.carrying, of_frame, labels)
        self._sums = defaultdict[str, dict[str, float]](lambda: defaultdict(float))
        self._counts = defaultdict[str, dict[str, int]](lambda: defaultdict(int))
        self.judged = 0
        self._shown = list[int]()
        if sequence.name in how.shown:
            shown = np.linspace(read.index, len(sequence.frames) - 1, _FILM_FRAMES).round()
            self._shown = sorted({int(index) for index in shown})
        self._film: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        height, width = _size(read)
        self._small = (_FILM_PX, max(1, round(width * _FILM_PX / height)))
        if self._shown:
            self._take(read, truth.copied(_size(read)))

    def step(self, read: Read, maps: dict[str, Tensor]) -> None:
        """Follow to the next frame, and judge what is told of it where the truth is known."""
        truth = self._truth
        labels = {name: self._carried[name](of_frame) for name, of_frame in maps.items()}
        if self._shown and read.index >= self._shown[0]:
            self._take(read, truth.told(labels[self._filmed], _size(read)))
        known = truth.known(read)
        if known is None:
            return
        size, right = known
        told = {name: truth.told(of_frame, size) for name, of_frame in labels.items()}
        told[COPY] = truth.copied(size)
        self.judged += 1
        for name, answer in told.items():
            for measure, values in truth.judge(answer, right).items():
                self._sums[name][measure] += sum(values)
                self._counts[name][measure] += len(values)

    def scores(self) -> dict[str, dict[str, float]]:
        """Return the mean of each measure, by features."""
        return {
            name: {measure: total / self._counts[name][measure] for measure, total in sums.items()}
            for name, sums in self._sums.items()
        }

    def _take(self, read: Read, told: np.ndarray) -> None:
        """Keep a frame for the film, with what is told and what is true of it."""
        size, small = _size(read), self._small
        picture = np.empty((3, *small), np.uint8)
        resize_whole(read.pixels, picture)
        right = self._truth.shown(read)
        blank = np.zeros(small, np.uint8)
        truth = blank if right is None else self._truth.drawn(right, size, small)
        self._film.append((picture, self._truth.drawn(told, size, small), truth))
        self._shown = [index for index in self._shown if index > read.index]

    def film(self) -> bytes:
        """Return the kept frames, as `film_of` reads them; nothing where there are none."""
        if not self._film:
            return b""
        file = io.BytesIO()
        frames, told, truth = (np.stack(column) for column in zip(*self._film, strict=True))
        np.savez_compressed(file, frames=frames, told=told, truth=truth)
        return file.getvalue()


def film_of(data: bytes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the frames (T, 3, H, W) uint8 of a film, and (T, H, W) uint8 what is told and what is
    true of them, 0 where nothing is."""
    with np.load(io.BytesIO(data)) as columns:
        return columns["frames"], columns["told"], columns["truth"]


class Follow:
    """An actor that follows sequences; takes rows of `SEQUENCE`, gives back `TOLD` and `FILM`."""

    def __init__(self, following: Following) -> None:
        torch.set_num_threads(following.placed.threads)
        self._how = following
        self._maps = AllMaps(following.columns, torch.device(following.placed.device))

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Follow the sequences of a batch."""
        told = []
        films = []
        for text in batch[SEQUENCE]:
            answer, film = self.follow(_sequence_of(json.loads(text)))
            told.append(json.dumps(answer))
            films.append(film)
        return {TOLD: np.array(told, object), FILM: np.array(films, object)}

    def follow(self, sequence: Sequence) -> tuple[dict[str, Any], bytes]:
        """Follow one sequence.

        Returns:
            `name`, `frames` and `unreadable`; `problem`, or `judged` (frames) and `scores` (by
                features and measure); and its film, empty where there is none.
        """
        unreadable = Counter[str]()
        size: Size | None = None
        run: _Run | None = None
        for chunk in read_in_order(sequence, self._how.limits, unreadable):
            size = size or self._size(chunk[0])
            frames = np.empty((len(chunk), 3, *size), np.uint8)
            for read, frame in zip(chunk, frames, strict=True):
                resize_whole(read.pixels, frame)
            maps = self._maps(torch.from_numpy(frames))
            for index, read in enumerate(chunk):
                of_frame = {name: of_all[index] for name, of_all in maps.items()}
                if run is not None:
                    run.step(read, of_frame)
                elif (truth := self._how.begins(read)) is not None:
                    run = _Run(self._how, truth, read, of_frame, sequence)
        answer = {
            "name": sequence.name,
            "frames": len(sequence.frames),
            "unreadable": dict(unreadable),
        }
        if run is None or not run.judged:
            return answer | {"problem": NO_START if run is None else NOTHING_JUDGED}, b""
        return answer | {"judged": run.judged, "scores": run.scores()}, run.film()

    def _size(self, read: Read) -> Size:
        """Return the height and width at which the frames of a sequence are encoded, of its
        first."""
        height, width = _size(read)
        scale = 1.0 if self._how.size is None else self._how.size / min(height, width)
        side = self._maps.side
        rounded = [max(1, round(one * scale / side)) * side for one in (height, width)]
        return rounded[0], rounded[1]


def _size(read: Read) -> Size:
    height, width = read.pixels.shape[:2]
    return height, width


def follow(
    sequences: Iterable[Sequence], following: Following, *, num_actors: int
) -> ray.data.Dataset:
    """Follow sequences, a row each, as `Follow` tells them.

    Args:
        sequences: At least one.
        following: How.
        num_actors: Size of the pool.
    """
    texts = [json.dumps(asdict(sequence)) for sequence in sequences]
    rows = ray.data.from_blocks([pa.table({SEQUENCE: [text]}) for text in texts])
    rows.context.execution_no_progress_timeout_s = -1
    told = map_in_networks(
        rows, Follow, following, following.placed, block_rows=1, num_actors=num_actors
    )
    return said_to(told, "following sequences", len(texts))


def _sequence_of(values: dict[str, Any]) -> Sequence:
    """Read what `asdict` made of a sequence."""
    frames = [
        Frame(
            Place(**one["image"]),
            one["mask"] and Place(**one["mask"]),
            tuple((name, x, y) for name, x, y in one["points"]),
        )
        for one in values["frames"]
    ]
    return Sequence(values["name"], tuple(frames))
