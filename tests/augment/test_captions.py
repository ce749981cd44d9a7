"""augment.captions: what stands below a view is what was drawn for it."""

import torch

from augment.captions import captions
from augment.generator import ViewGenerator
from augment.ops import ColorJitter, Cutout, GaussianBlur, GaussianNoise, Greyscale
from augment.recipe import CropGroup, Views
from augment.sample import sample_crops, sample_photometric

GROUP = CropGroup(
    color_jitter=ColorJitter(p=1, saturation=0),
    greyscale=Greyscale(p=0),
    blur=GaussianBlur(p=1),
    noise=GaussianNoise(p=1),
    cutout=Cutout(p=1),
)
KEYS = {
    "seed": 0,
    "epoch": torch.zeros(20, dtype=torch.int64),
    "sample_id": torch.arange(20),
    "view": 0,
}


def test_a_caption_names_the_box_and_each_change_that_is_applied_with_its_numbers() -> None:
    size = torch.full((20,), 100)
    crops = sample_crops(GROUP, **KEYS, image_height=size, image_width=size)
    draws = sample_photometric(GROUP, **KEYS)
    for index, (caption, box) in enumerate(
        zip(captions(GROUP, crops, draws), crops.boxes(), strict=True)
    ):
        top, left, height, width, flip = box
        place, *rest = caption.splitlines()
        assert place == f"{width}x{height}+{left}+{top}"
        assert (rest[0] == "flip") == flip
        first, second, blur, noise, cutout = rest[1:] if flip else rest
        jitter = f"{first} {second}"
        order = [op for op in draws["color_jitter.order"][index].tolist() if op != 2]
        assert [part[0] for part in jitter.split()] == ["bcsh"[op] for op in order]
        assert f"b{draws['color_jitter.brightness'][index]:.2f}" in jitter
        assert blur == f"blur {draws['blur.sigma'][index]:.3g}"
        assert noise == f"noise {draws['noise.std'][index]:.3g}"
        assert len(cutout.split()) == 5


def test_every_view_of_every_image_has_a_caption_of_its_own() -> None:
    views = Views(size=32, groups={"a": CropGroup(), "b": GROUP.model_copy(update={"count": 3})})
    size = torch.full((20,), 100)
    said = ViewGenerator(views, seed=0).describe("b", KEYS["epoch"], KEYS["sample_id"], size, size)
    assert [len(row) for row in said] == [3] * 20
    assert len({text for row in said for text in row}) == 60
