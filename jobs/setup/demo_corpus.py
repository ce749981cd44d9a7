"""The demo's corpus: crops of the photographs inside scikit-image's wheel, so that nothing is
downloaded.

Fourteen of its pictures are photographs with something to see all over, of a scene each (of the
stereo pair, the left one). Left out are drawings and diagrams (chessboards, colour wheel, horse,
logo, phantom), writing (page, text), and photographs with too little on them for disjoint regions:
a single cell, a blurred clock face, a 102 px piece of retina, tiny files and 25 px faces.

A photograph is cut into upright strips, train | test | train | test | train, with gaps between
them; upright, because sky and ground then lie in both. Pretraining sees crops of the train strips
alone: unlabelled, in colour, in one folder. The probe asks from which photograph a crop comes. In
colour the palette alone would give most of that away, and in grey brightness and contrast half of
it; so the probe's crops are grey, each moved to a mean drawn for it and its contrast multiplied by
a drawn factor, for every kind of features alike. Crops of a photograph overlap: the intervals speak
of further crops, not of further photographs.
"""

import io
import json
import os
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jobs.setup.failures import InputError

PHOTOGRAPHS = (
    "astronaut.png",
    "brick.png",
    "camera.png",
    "chelsea.png",
    "coffee.png",
    "coins.png",
    "grass.png",
    "gravel.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "moon.png",
    "motorcycle_left.png",
    "retina.jpg",
    "rocket.jpg",
)
# larger photographs are reduced to it: a crop of some pixels then shows a like part of each
LONGEST_PX = 640
# shares of the width; gaps of 3 %, 11 px or more
STRIPS = {
    "train": ((0.0, 0.176), (0.412, 0.588), (0.824, 1.0)),
    "test": ((0.206, 0.382), (0.618, 0.794)),
}
# two views of such a crop are different parts of a photograph, as large as the probe's
PRETRAIN_SIDE_PX = (
    64,
    192,
)
PROBE_SIDE_PX = (48, 64)  # the narrowest strip has 67 px
JPEG_QUALITY = (60, 95)
# standard deviation, grey levels; below it lies empty sky, and there is nothing to learn or to ask
MIN_DETAIL = 8.0
PROBE_MEAN = (64, 192)  # grey levels, before values outside 0..255 are cut off
# contrast is multiplied by a factor between 1/3 and this; one spread for all would amplify mere
# noise
PROBE_GAIN = 3.0
# part of a local file's identity: made again, a corpus has the same sample ids
MTIME_S = 1_000_000_000
RECORD = "corpus.json"

Box = tuple[int, int, int, int]  # left, top, right, bottom, px


def make_corpus(
    root: Path, *, num_pretrain: int, num_probe_train: int, num_probe_test: int, seed: int = 0
) -> dict[str, Any]:
    """Write the corpus, or find it there from before.

    Args:
        root: New folder, or one that this function wrote: `pretrain/`, `probe/train/<photograph>/`
            and `probe/test/<photograph>/`, JPEG files.
        num_pretrain: Crops of each photograph to pretrain on.
        num_probe_train: Crops of each photograph that the probe learns from.
        num_probe_test: Crops of each photograph that the probe is judged on.
        seed: Of places, sizes, qualities and grey levels.

    Returns:
        What was asked for, with `made` false where it was there already.

    Raises:
        InputError: scikit-image is not installed, or the folder holds something else.
    """
    record = {
        "photographs": list(PHOTOGRAPHS),
        "num_pretrain": num_pretrain,
        "num_probe_train": num_probe_train,
        "num_probe_test": num_probe_test,
        "seed": seed,
    }
    if root.exists():
        _check_record(root, record)
        return {**record, "made": False}
    new = root.with_name(f"{root.name}.{os.getpid()}.tmp")
    shutil.rmtree(new, ignore_errors=True)
    for index, name in enumerate(PHOTOGRAPHS):
        photograph = read_photograph(name)
        label = Path(name).stem
        rng = np.random.default_rng([seed, index])
        _write_crops(new / "pretrain", label, photograph, "train", num_pretrain, rng, grey=False)
        _write_crops(
            new / "probe" / "train" / label,
            label,
            photograph,
            "train",
            num_probe_train,
            rng,
            grey=True,
        )
        _write_crops(
            new / "probe" / "test" / label,
            label,
            photograph,
            "test",
            num_probe_test,
            rng,
            grey=True,
        )
    (new / RECORD).write_text(json.dumps(record))
    new.rename(root)
    return {**record, "made": True}


def _check_record(root: Path, record: dict[str, Any]) -> None:
    path = root / RECORD
    if not path.is_file():
        raise InputError(f"{root} is not the demo's corpus: choose another out")
    if json.loads(path.read_text()) != record:
        raise InputError(f"{root} holds a corpus made with other settings: choose another out")


def read_photograph(name: str) -> Image.Image:
    """Read one of `PHOTOGRAPHS` as RGB, at most `LONGEST_PX` on its longer side.

    Raises:
        InputError: scikit-image is not installed.
    """
    package = find_spec("skimage")
    if package is None or package.origin is None:
        raise InputError(
            "the demo's photographs lie in scikit-image: install it with pip install"
            ' "afield[demo]"'
        )
    with Image.open(Path(package.origin).parent / "data" / name) as file:
        photograph = file.convert("RGB")
    photograph.thumbnail((LONGEST_PX, LONGEST_PX), Image.Resampling.LANCZOS)
    return photograph


def strips(width: int, split: str) -> list[tuple[int, int]]:
    """Return the columns [first, end) of a split's strips in a photograph of `width` px."""
    return [(round(low * width), round(high * width)) for low, high in STRIPS[split]]


def draw_box(
    size: tuple[int, int], split: str, sides: tuple[int, int], rng: np.random.Generator
) -> Box:
    """Draw a crop that lies in one strip of a split.

    Args:
        size: Width and height of the photograph, px.
        split: `train` or `test`.
        sides: Shortest and longest side of the crop, px; a strip may be narrower than the latter.
        rng: Where draws come from.
    """
    choices = strips(size[0], split)
    first, end = choices[int(rng.integers(len(choices)))]
    width, height = (
        int(rng.integers(sides[0], min(sides[1], most) + 1)) for most in (end - first, size[1])
    )
    left = int(rng.integers(first, end - width + 1))
    top = int(rng.integers(0, size[1] - height + 1))
    return left, top, left + width, top + height


def _write_crops(
    folder: Path,
    label: str,
    photograph: Image.Image,
    split: str,
    count: int,
    rng: np.random.Generator,
    *,
    grey: bool,
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    written = 0
    while written < count:
        crop = photograph.crop(
            draw_box(photograph.size, split, PROBE_SIDE_PX if grey else PRETRAIN_SIDE_PX, rng)
        )
        if np.asarray(crop.convert("L")).std() < MIN_DETAIL:
            continue
        if grey:
            crop = relevelled(crop, rng)
        path = folder / f"{label}-{written:04d}.jpg"
        path.write_bytes(_jpeg(crop, int(rng.integers(JPEG_QUALITY[0], JPEG_QUALITY[1] + 1))))
        os.utime(path, (MTIME_S, MTIME_S))
        written += 1


def relevelled(crop: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Take the colour away, draw a new mean, and multiply the contrast, so that neither says much
    about the place."""
    luma = np.asarray(crop.convert("L"), dtype=np.float64)
    mean = rng.uniform(*PROBE_MEAN)
    gain = PROBE_GAIN ** rng.uniform(-1, 1)
    levels = (luma - luma.mean()) * gain + mean
    return Image.fromarray(np.clip(levels.round(), 0, 255).astype(np.uint8))


def _jpeg(image: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()
