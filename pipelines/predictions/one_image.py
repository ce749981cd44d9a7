"""What an adapted artifact tells of one image, in this process and without Ray."""

import os
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image, ImageOps

from augment.picture import Picture
from models.artifact import Artifact
from pipelines import schema
from pipelines.media.contract import BadSample, Limits
from pipelines.media.decoder import PROCESS, kept_decoder
from pipelines.predictions.answers import TOLD_MASK, answered, looked_at
from pipelines.predictions.told_columns import BoxColumns, ClassColumns, Samples, of_file_size
from pipelines.storage import uris
from pipelines.stream.shapes import Filler

Source = str | os.PathLike[str] | bytes | Image.Image | np.ndarray
_FIRST = np.zeros(1, np.int64)
_ALONE = Samples(rows=pa.table({}), first=_FIRST, owner=_FIRST, clips=_FIRST, names=[""])


def tell(
    adapted: Artifact,
    image: Source,
    *,
    top_k: int = 5,
    threshold: float = 0.5,
    min_score: float = 0.05,
) -> dict[str, Any]:
    """Tell of one image what `jobs.predict` would write of it.

    Args:
        adapted: An artifact with a head.
        image: A path, a URI or the bytes of an image file; an image of Pillow; or RGB pixels
            (H, W, 3) uint8.
        top_k: Classes: how many, the likeliest first.
        threshold: Several classes an image: those of at least this probability.
        min_score: Boxes: those of a lower score are left out.

    Returns:
        Of classes `label` and `probability`, or `labels` where an image may have several, and
        `top_labels` and `top_probabilities`. Of masks `mask`, class indices (H, W) uint8, and
        `classes`. Of boxes `height`, `width` and `boxes`, each with `label`, `x`, `y`, `width`,
        `height` in px and `score`.

    Raises:
        ValueError: the artifact has no head, or the image cannot be read.
        OSError: the storage failed.
    """
    if adapted.head is None:
        raise ValueError("the artifact has no head: adapt it first, with jobs.adapt")
    head = adapted.head.config
    shape = looked_at(adapted)
    columns = shape.empty(1)
    filler = shape.filler(columns, _FIRST, _FIRST)
    picture = _picture(image, adapted, filler)
    filler.fill(0, picture)
    batch = answered(adapted, columns)
    if head.task == "mask":
        mask = of_file_size(batch[TOLD_MASK][0], picture.height, picture.width)
        return {schema.MASK: mask, "classes": list(head.classes)}
    told: BoxColumns | ClassColumns = BoxColumns(head.classes, min_score)
    if head.task != "boxes":
        several = head.task == "classes"
        told = ClassColumns(head.classes, several, top_k, threshold, every=False)
    found = told.columns(batch, _ALONE, None)
    return {name: values[0].as_py() for name, values in found.items()}


def _picture(image: Source, adapted: Artifact, filler: Filler) -> Picture:
    if isinstance(image, Image.Image):
        return Picture.whole(np.array(ImageOps.exif_transpose(image).convert("RGB")))
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f"pixels must be (H, W, 3) uint8, got {image.shape} {image.dtype}")
        return Picture.whole(np.ascontiguousarray(image))
    data = image if isinstance(image, bytes) else uris.read_bytes(os.fspath(image))
    limits = replace(
        Limits(), value_range=adapted.of_images.value_range, bands=adapted.of_images.bands
    )
    try:
        decoder = kept_decoder(limits, PROCESS)
        return decoder.image(data, lambda *size: filler.reduction(0, *size))
    except BadSample as problem:
        name = f"{len(data)} bytes" if isinstance(image, bytes) else os.fspath(image)
        raise ValueError(f"{name}: {problem}") from problem
