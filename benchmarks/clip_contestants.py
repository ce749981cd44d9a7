"""Who is measured by `benchmarks.views` on videos: each turns a file into two clips of the same
frames, in one process.

The frames of a clip are cut and coloured alike. Peers get the frames that Afield's decoder found.
lightly has no transforms of clips, and DALI decodes videos of few kinds without a GPU.
"""

import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from augment.picture import Picture
from augment.recipe import Views
from benchmarks.view_contestants import (
    Contestant,
    albumentations_chain,
    kornia_operators,
    simclr_group,
    torchvision_chain,
)
from pipelines.media.contract import Clip, Limits
from pipelines.media.video import decode_clip
from pipelines.stream.shapes import Clips, Crops

NUM_FRAMES = 16
_CLIP = Clip(NUM_FRAMES, frame_stride=4, fps=None, position=0.5)
_LIMITS = Limits()

CLIP_WORKLOADS: dict[str, Views] = {
    "two clips of 16 frames of 112 px": Views(
        size=112, groups={"global_crops": simclr_group(count=2, scale=(0.2, 1.0))}
    ),
}


def frames_of(data: bytes) -> np.ndarray:
    """Decode the clip in the middle of a video, (T, H, W, 3) uint8.

    Raises:
        BadSample: there is none.
    """
    return decode_clip(io.BytesIO(data), _CLIP, _LIMITS).frames


def _decoding(_: Views) -> Contestant:
    def run(files: Sequence[bytes]) -> None:
        for data in files:
            frames_of(data)

    return run


def _afield(views: Views, *, photometric: bool) -> Contestant:
    shape = Clips(Crops(views, 0, photometric=photometric), NUM_FRAMES)

    def run(files: Sequence[bytes]) -> None:
        sample_id = np.arange(len(files))
        filler = shape.filler(shape.empty(len(files)), np.zeros_like(sample_id), sample_id)
        for row, data in enumerate(files):
            filler.fill(row, Picture.whole(frames_of(data)))

    return run


def _each_clip(views: Views, make: Callable[[Views], Callable[[np.ndarray], Any]]) -> Contestant:
    (group,) = views.groups.values()
    transform = make(views)

    def run(files: Sequence[bytes]) -> None:
        for data in files:
            frames = frames_of(data)
            for _ in range(group.count):
                transform(frames)

    return run


def _albumentations(views: Views) -> Callable[[np.ndarray], Any]:
    (group,) = views.groups.values()
    chain = albumentations_chain(group, views.size)
    return lambda frames: chain(images=frames)["images"]


def _torchvision(views: Views) -> Callable[[np.ndarray], Any]:
    (group,) = views.groups.values()
    chain = torchvision_chain(group, views.size)
    return lambda frames: chain(torch.from_numpy(frames).permute(0, 3, 1, 2))


def _kornia(views: Views) -> Callable[[np.ndarray], Any]:
    from kornia.augmentation import VideoSequential

    (group,) = views.groups.values()
    chain = VideoSequential(
        *kornia_operators(group, views.size), data_format="BTCHW", same_on_frame=True
    )
    return lambda frames: chain(torch.from_numpy(frames).permute(0, 3, 1, 2)[None] / 255)


CLIP_CONTESTANTS: dict[str, Callable[[Views], Contestant]] = {
    "PyAV, decoding alone": _decoding,
    "Afield, crops": lambda views: _afield(views, photometric=False),
    "Afield, crops and colours": lambda views: _afield(views, photometric=True),
    "albumentations": lambda views: _each_clip(views, _albumentations),
    "torchvision v2": lambda views: _each_clip(views, _torchvision),
    "Kornia, op by op": lambda views: _each_clip(views, _kornia),
}
