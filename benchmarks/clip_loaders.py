"""Who is measured by `benchmarks.clips`: each turns videos into clips of 16 frames of 224 px, and
does nothing with them, in a process tree of its own.

All take frames that are as far apart, at random places, and cut a random part of each clip. Peers
use torchvision's transforms; a clip that several need is fetched as their authors would.
"""

import itertools
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from torchvision.transforms import v2

from augment.recipe import CropGroup, Views
from pipelines import schema
from pipelines.labels.labelled_stream import LabelledOrder
from pipelines.media.clips import Sampling
from pipelines.media.contract import Limits
from pipelines.media.decoder import PROCESS, kept_decoder
from pipelines.storage import uris
from pipelines.stream.ingest import Ingest, dataset
from pipelines.stream.shapes import Clips, Crops

NUM_FRAMES = 16
SIZE = 224
STRIDE = 2  # frames of the video from one of a clip to the next: a clip of 2 s must hold one
SCALE = (0.3, 1.0)
NUM_WORKERS = 2  # of the DataLoader
_BATCH = 8  # videos
_MANY = 1_000_000  # more than anybody gets through


@dataclass(frozen=True)
class Setup:
    """What every contestant does.

    Attributes:
        files: The videos, local paths.
        clips: Of each video, wherever they lie in it.
        seconds: How long to go on after the first batch.
        progress: Local file to which the clips of each batch are written, with the time.
    """

    files: tuple[str, ...]
    clips: int
    seconds: float
    progress: str

    def consume(self, batches: Iterable[int]) -> None:
        """Take batches, each as its number of videos, until the time is over."""
        end = None
        with open(self.progress, "a", buffering=1) as file:
            for videos in batches:
                now = time.time()
                end = end or now + self.seconds
                file.write(f"{now} {videos * self.clips}\n")
                if now > end:
                    return

    def order(self) -> LabelledOrder:
        """The videos in endless permutations."""
        count = len(self.files)
        columns = {
            schema.SAMPLE_ID: range(count),
            schema.URI: [uris.absolute(file) for file in self.files],
            schema.OFFSET: [0] * count,
            schema.LENGTH: [Path(file).stat().st_size for file in self.files],
            schema.MEMBER: [None] * count,
            "etag": [""] * count,
            schema.MEDIA: [schema.VIDEO] * count,
            schema.CLIP: [0] * count,
        }
        rows = pa.table(columns, schema=schema.MANIFEST)
        return LabelledOrder(rows.append_column(schema.ROW, rows[schema.SAMPLE_ID]), seed=0)

    def sampling(self) -> Sampling:
        """Where the clips of a video lie."""
        return Sampling(
            num_frames=NUM_FRAMES,
            frame_stride=STRIDE,
            as_frames=False,
            seed=0,
            per_sample=self.clips,
        )

    def shape(self) -> Clips:
        """What is cut of each clip."""
        group = CropGroup(count=self.clips, scale=SCALE, flip=0.5)
        views = Views(size=SIZE, groups={"global_crops": group})
        return Clips(Crops(views, 0, photometric=False), NUM_FRAMES)


def _afield_loop(setup: Setup, *, cut: bool) -> None:
    """Decode by the functions of the stream, and cut if wanted, without Ray."""
    torch.set_num_threads(1)
    order, sampling, shape = setup.order(), setup.sampling(), setup.shape()
    decoder = kept_decoder(Limits(), PROCESS)

    def batches() -> Iterator[int]:
        for start in itertools.count(0, _BATCH):
            rows = pa.concat_tables(order.rows(start, start + _BATCH))
            keys = (np.array(rows[name]) for name in (schema.EPOCH, schema.SAMPLE_ID))
            filler = shape.filler(shape.empty(rows.num_rows), *keys)
            for row, (uri, clip) in enumerate(
                zip(rows[schema.URI].to_pylist(), sampling.clips(rows), strict=True)
            ):
                assert clip is not None
                picture = decoder.clip(uris.read_bytes(uri), clip)
                if cut:
                    filler.fill(row, picture)
            yield rows.num_rows

    setup.consume(batches())


def decoding(setup: Setup) -> None:
    """Decode the frames of the same clips, and nothing else."""
    _afield_loop(setup, cut=False)


def plain(setup: Setup) -> None:
    """Decode and cut without Ray."""
    _afield_loop(setup, cut=True)


def stream(setup: Setup) -> None:
    """Take the project's stream, through Ray, in the process that asks for it."""
    from jobs.cluster import launch
    from jobs.setup.sections import ClusterConfig

    work = Ingest(
        order=setup.order(),
        shape=setup.shape(),
        block_rows=_BATCH,
        limits=Limits(),
        quarantine=None,
        run="clips",
        sampling=setup.sampling(),
    )
    with launch.session(ClusterConfig(address="local"), work="tasks"):
        blocks = dataset(work, [(0, _MANY)]).iter_batches(batch_size=None)
        setup.consume(len(block[schema.SAMPLE_ID]) for block in blocks)


def _starts(num_frames: int, clips: int) -> list[int]:
    """Draw the first frames of clips."""
    last = max(0, num_frames - (NUM_FRAMES - 1) * STRIDE - 1)
    return [random.randint(0, last) for _ in range(clips)]


def _wanted(starts: Sequence[int], num_frames: int) -> list[int]:
    """Number the frames of all clips; of a shorter video the last one again."""
    ahead = range(0, NUM_FRAMES * STRIDE, STRIDE)
    return [min(start + step, num_frames - 1) for start in starts for step in ahead]


def _pyav_clip(path: str, start: int) -> Tensor:
    """Seek to the key frame before a clip and decode up to its end, (T, 3, H, W) uint8."""
    with av.open(path) as container:
        video = container.streams.video[0]
        video.codec_context.thread_count = 1
        frame_s = 1 / float(video.average_rate or 25)
        container.seek(int(start * frame_s / float(video.time_base or 1)), stream=video)
        wanted = {start + step for step in range(0, NUM_FRAMES * STRIDE, STRIDE)}
        frames = list[np.ndarray]()
        for frame in container.decode(video):
            number = round(float((frame.pts or 0) * (video.time_base or 1)) / frame_s)
            if number in wanted:
                frames.append(frame.to_ndarray(format="rgb24"))
            if number >= max(wanted):
                break
    frames += [frames[-1]] * (NUM_FRAMES - len(frames))
    return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2)


def _by_pyav(path: str, clips: int) -> list[Tensor]:
    """Open a video for each of its clips, seek and decode; (T, 3, H, W) uint8 each."""
    with av.open(path) as container:
        num_frames = container.streams.video[0].frames
    return [_pyav_clip(path, start) for start in _starts(num_frames, clips)]


def _by_torchcodec(path: str, clips: int) -> Tensor:
    """Ask for the frames of all clips of a video at once, (N, T, 3, H, W) uint8."""
    from torchcodec.decoders import VideoDecoder

    video = VideoDecoder(path, num_ffmpeg_threads=1, seek_mode="approximate")
    num_frames = len(video)
    frames: Tensor = video.get_frames_at(_wanted(_starts(num_frames, clips), num_frames)).data
    return frames.unflatten(0, (clips, NUM_FRAMES))


def _endless(files: Sequence[str]) -> Iterator[str]:
    draw = random.Random(0)
    while True:
        yield from draw.sample(files, len(files))


def _loop(setup: Setup, read: Callable[[str, int], Iterable[Tensor]]) -> None:
    torch.set_num_threads(1)
    crop = v2.RandomResizedCrop(SIZE, scale=SCALE, antialias=True)

    def batches() -> Iterator[int]:
        for path in _endless(setup.files):
            for clip in read(path, setup.clips):
                crop(clip)
            yield 1

    setup.consume(batches())


def pyav_loop(setup: Setup) -> None:
    """A plain loop with PyAV: each clip opens its video, seeks and decodes."""
    _loop(setup, _by_pyav)


def torchcodec_loop(setup: Setup) -> None:
    """A plain loop with torchcodec: all clips of a video in one request."""
    _loop(setup, _by_torchcodec)


class _Videos(torch.utils.data.Dataset[Tensor]):
    """Videos as V-JEPA's data set reads them: one whole-file reader, the frames of all clips asked
    for at once, each clip cut, mirrored and normalised as floats.

    Its reader, decord, is no longer maintained: torchcodec stands in its place, or PyAV where that
    is not installed.
    """

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._transform = v2.Compose(
            [
                v2.ToDtype(torch.float32, scale=True),
                v2.RandomResizedCrop(SIZE, scale=SCALE, antialias=True),
                v2.RandomHorizontalFlip(),
                v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
            ]
        )

    def __len__(self) -> int:
        return _MANY

    def __getitem__(self, index: int) -> Tensor:
        torch.set_num_threads(1)
        path = self._setup.files[index % len(self._setup.files)]
        read = _by_torchcodec if find_spec("torchcodec") else _by_pyav
        return torch.stack([self._transform(clip) for clip in read(path, self._setup.clips)])


def vjepa_loader(setup: Setup) -> None:
    """torch's DataLoader over such a data set."""
    loader: Any = torch.utils.data.DataLoader(
        _Videos(setup),
        _BATCH,
        sampler=torch.utils.data.RandomSampler(range(_MANY), num_samples=_MANY, replacement=True),
        num_workers=NUM_WORKERS,
        multiprocessing_context="spawn",
    )
    setup.consume(len(batch) for batch in loader)


LOADERS: dict[str, Callable[[Setup], None]] = {
    "decoding alone": decoding,
    "Afield": stream,
    "Afield without Ray": plain,
    "torchcodec": torchcodec_loop,
    "PyAV": pyav_loop,
    "V-JEPA's DataLoader": vjepa_loader,
}
