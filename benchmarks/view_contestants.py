"""Who is measured by `benchmarks.views` on images: each turns JPEG files into the same kind of
views, in one process.

Peers have their own random numbers and filters (albumentations shrinks without antialiasing);
crops, probabilities and strengths are the recipe's.
"""

import io
import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import simplejpeg
import torch

from augment.recipe import ColorJitter, CropGroup, GaussianBlur, Greyscale, Views
from benchmarks.dali_view import dali_view
from pipelines.media.contract import Limits
from pipelines.media.decoder import Decoder
from pipelines.stream.shapes import Crops

Contestant = Callable[[Sequence[bytes]], Any]
_BLOCK = 64  # images whose draws are made together, as the decode task does
_DALI_BATCH = 25


def simclr_group(**crop: Any) -> CropGroup:
    jitter = ColorJitter(p=0.8, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)
    return CropGroup(
        **crop, color_jitter=jitter, greyscale=Greyscale(p=0.2), blur=GaussianBlur(p=0.5)
    )


WORKLOADS: dict[str, Views] = {
    "two views of 224 px": Views(
        size=224, groups={"global_crops": simclr_group(count=2, scale=(0.2, 1.0))}
    ),
    "two views of 96 px": Views(
        size=96, groups={"global_crops": simclr_group(count=2, scale=(0.2, 1.0))}
    ),
    "two of 224 px and six of 96 px": Views(
        size=224,
        groups={
            "global_crops": simclr_group(count=2, scale=(0.14, 1.0)),
            "local_crops": simclr_group(count=6, size=96, scale=(0.05, 0.14)),
        },
    ),
}


def _simplejpeg(_: Views) -> Contestant:
    def run(files: Sequence[bytes]) -> None:
        for data in files:
            simplejpeg.decode_jpeg(data, "RGB")

    return run


def _afield(views: Views, *, photometric: bool) -> Contestant:
    shape, decoder = Crops(views, 0, photometric=photometric), Decoder(Limits())

    def run(files: Sequence[bytes]) -> None:
        for start in range(0, len(files), _BLOCK):
            block = files[start : start + _BLOCK]
            sample_id = np.arange(start, start + len(block))
            filler = shape.filler(shape.empty(len(block)), np.zeros_like(sample_id), sample_id)
            for row, data in enumerate(block):
                filler.fill(row, decoder.image(data, partial(filler.reduction, row)))

    return run


def _each_view(
    views: Views,
    make: Callable[[CropGroup, int], Callable[[Any], Any]],
    load: Callable[[bytes], Any],
) -> Contestant:
    """A transform a group, called once a view on the decoded image."""
    transforms = [
        (make(group, views.group_size(name)), group.count) for name, group in views.groups.items()
    ]

    def run(files: Sequence[bytes]) -> None:
        for data in files:
            image = load(data)
            for transform, count in transforms:
                for _ in range(count):
                    transform(image)

    return run


def _load_array(data: bytes) -> np.ndarray:
    image: np.ndarray = simplejpeg.decode_jpeg(data, "RGB")
    return image


def _load_tensor(data: bytes) -> torch.Tensor:
    return torch.from_numpy(_load_array(data)).permute(2, 0, 1)


def settings_of(group: CropGroup) -> tuple[ColorJitter, Greyscale, GaussianBlur]:
    assert group.color_jitter is not None and group.greyscale is not None and group.blur is not None
    return group.color_jitter, group.greyscale, group.blur


def albumentations_chain(group: CropGroup, size: int) -> Callable[..., dict[str, Any]]:
    """albumentations' transform of a group."""
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    import albumentations as A
    import cv2

    cv2.setNumThreads(1)
    jitter, grey, blur = settings_of(group)
    chain: Callable[..., dict[str, Any]] = A.Compose(
        [
            A.RandomResizedCrop((size, size), scale=group.scale, ratio=group.ratio),
            A.HorizontalFlip(p=group.flip),
            A.ColorJitter(
                brightness=(1 - jitter.brightness, 1 + jitter.brightness),
                contrast=(1 - jitter.contrast, 1 + jitter.contrast),
                saturation=(1 - jitter.saturation, 1 + jitter.saturation),
                hue=(-jitter.hue, jitter.hue),
                p=jitter.p,
            ),
            A.ToGray(p=grey.p),
            A.GaussianBlur(blur_limit=0, sigma_limit=blur.sigma, p=blur.p),
        ]
    )
    return chain


def _albumentations(views: Views) -> Contestant:
    def make(group: CropGroup, size: int) -> Callable[[Any], Any]:
        chain = albumentations_chain(group, size)
        return lambda image: chain(image=image)["image"]

    return _each_view(views, make, _load_array)


def torchvision_chain(group: CropGroup, size: int) -> Callable[[Any], Any]:
    """torchvision's transform of a group."""
    from torchvision.transforms import v2

    jitter, grey, blur = settings_of(group)
    changes = v2.ColorJitter(jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue)
    chain: Callable[[Any], Any] = v2.Compose(
        [
            v2.RandomResizedCrop(size, scale=group.scale, ratio=group.ratio, antialias=True),
            v2.RandomHorizontalFlip(group.flip),
            v2.RandomApply([changes], jitter.p),
            v2.RandomGrayscale(grey.p),
            v2.RandomApply([v2.GaussianBlur(blur.taps(size), blur.sigma)], blur.p),
        ]
    )
    return chain


def _torchvision(views: Views) -> Contestant:
    return _each_view(views, torchvision_chain, _load_tensor)


def kornia_operators(group: CropGroup, size: int) -> list[Any]:
    """Kornia's augmentations of a group."""
    from kornia import augmentation as K

    jitter, grey, blur = settings_of(group)
    taps = blur.taps(size)
    return [
        K.RandomResizedCrop((size, size), scale=group.scale, ratio=group.ratio),
        K.RandomHorizontalFlip(group.flip),
        K.ColorJitter(
            jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue, p=jitter.p
        ),
        K.RandomGrayscale(p=grey.p),
        K.RandomGaussianBlur((taps, taps), blur.sigma, p=blur.p),
    ]


def _kornia(views: Views) -> Contestant:
    def make(group: CropGroup, size: int) -> Callable[[Any], Any]:
        chain = torch.nn.Sequential(*kornia_operators(group, size))
        return lambda image: chain(image[None] / 255)

    return _each_view(views, make, _load_tensor)


def _lightly(views: Views) -> Contestant:
    from lightly.transforms import SimCLRTransform
    from PIL import Image

    def make(group: CropGroup, size: int) -> Callable[[Any], Any]:
        jitter, grey, blur = settings_of(group)
        both = SimCLRTransform(
            input_size=size,
            cj_prob=jitter.p,
            cj_strength=1.0,
            cj_bright=jitter.brightness,
            cj_contrast=jitter.contrast,
            cj_sat=jitter.saturation,
            cj_hue=jitter.hue,
            min_scale=group.scale[0],
            random_gray_scale=grey.p,
            gaussian_blur=blur.p,
            sigmas=blur.sigma,
        )
        transform: Callable[[Any], Any] = both.transforms[0]
        return transform

    return _each_view(views, make, lambda data: Image.open(io.BytesIO(data)).convert("RGB"))


def _dali(views: Views) -> Contestant:
    """Its CPU pipeline, of one thread a process as everyone's; batch by batch, which is how it
    works."""
    from nvidia.dali import pipeline_def

    @pipeline_def(
        batch_size=_DALI_BATCH,
        num_threads=1,
        device_id=None,
        prefetch_queue_depth=1,
        enable_conditionals=True,
        seed=0,
    )
    def graph() -> tuple[Any, ...]:
        from nvidia.dali import fn, types

        image = fn.decoders.image(fn.external_source(name="files"), output_type=types.RGB)
        groups = [(group, views.group_size(name)) for name, group in views.groups.items()]
        return tuple(
            dali_view(image, group, size) for group, size in groups for _ in range(group.count)
        )

    pipeline = graph()
    pipeline.build()

    def run(files: Sequence[bytes]) -> None:
        for start in range(0, len(files), _DALI_BATCH):
            batch = files[start : start + _DALI_BATCH]
            pipeline.feed_input("files", [np.frombuffer(data, np.uint8) for data in batch])
            pipeline.run()

    return run


CONTESTANTS: dict[str, Callable[[Views], Contestant]] = {
    "simplejpeg, decoding alone": _simplejpeg,
    "Afield, crops": lambda views: _afield(views, photometric=False),
    "Afield, crops and colours": lambda views: _afield(views, photometric=True),
    "albumentations": _albumentations,
    "torchvision v2": _torchvision,
    "Kornia, op by op": _kornia,
    "lightly": _lightly,
    "DALI, CPU": _dali,
}
