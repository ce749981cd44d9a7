import numpy as np
from PIL import Image, ImageFilter, ImageOps

from pipelines.curation.alignment import SIDE, alike

LEAST = 0.6


def small(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX))


def test_copies_are_told_from_other_pictures(photographs: list[np.ndarray]) -> None:
    images = [Image.fromarray(pixels) for pixels in photographs]
    originals = np.stack([small(image) for image in images])
    for change in (
        lambda image: image.crop((image.width // 20, 0, image.width, image.height)),
        lambda image: image.crop((0, 0, image.width * 19 // 20, image.height * 19 // 20)),
        lambda image: image.resize((150, 100)),
        ImageOps.mirror,
        lambda image: ImageOps.mirror(image.filter(ImageFilter.GaussianBlur(1))),
    ):
        copies = np.stack([small(change(image)) for image in images])
        assert alike(originals, copies).min() >= LEAST
        assert alike(copies, np.roll(originals, 1, axis=0)).max() < LEAST


def test_only_equal_blank_pictures_are_alike() -> None:
    black, grey = (np.full((1, SIDE, SIDE), level, np.uint8) for level in (0, 90))
    noise = np.random.default_rng(0).integers(0, 255, (1, SIDE, SIDE)).astype(np.uint8)
    assert alike(black, black + 1)[0] == 1
    assert alike(black, grey)[0] == alike(black, noise)[0] == 0
