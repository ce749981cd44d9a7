"""pipelines.labels.near_duplicates: the same picture in another file is found, another one is
not."""

import io

import numpy as np
from PIL import Image

from pipelines.labels.near_duplicates import perceptual_hashes


def hash_of(picture: Image.Image) -> np.ndarray:
    square = np.asarray(picture.resize((64, 64), Image.Resampling.BILINEAR))
    return np.unpackbits(perceptual_hashes(square.transpose(2, 0, 1)[None])[0])


def again(picture: Image.Image, quality: int, scale: float) -> Image.Image:
    file = io.BytesIO()
    size = (round(picture.width * scale), round(picture.height * scale))
    picture.resize(size).save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def test_another_size_and_quality_changes_few_bits_another_picture_many(
    photographs: list[np.ndarray],
) -> None:
    pictures = [Image.fromarray(one) for one in photographs]
    hashes = np.stack([hash_of(one) for one in pictures])
    copies = np.stack([hash_of(again(one, 40, 0.4)) for one in pictures])
    assert (hashes != copies).sum(1).max() <= 32
    apart = (hashes[:, None] != hashes[None]).sum(-1)[~np.eye(len(pictures), dtype=bool)]
    assert apart.min() > 64
