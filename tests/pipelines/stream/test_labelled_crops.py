"""Images with masks and boxes are learnt from as they are judged."""

from typing import cast

import numpy as np
import pytest

from augment.picture import Picture
from augment.recipe import CropGroup, Views
from pipelines import schema
from pipelines.stream.shapes import BoxFiller, Crops, Fitted, MaskFiller

REST = (200, 10, 60)


@pytest.mark.parametrize("reduction", [1, 2])
@pytest.mark.parametrize(("height", "width"), [(96, 128), (256, 128), (64, 64)])
def test_the_largest_crop_is_the_whole_image_as_it_is_judged(
    height: int, width: int, reduction: int
) -> None:
    views = Views(
        size=32, groups={"images": CropGroup(scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=0.0)}
    )
    crops = Crops(views, 0, photometric=False, masks=True, boxes=1, ignore=9, rest=REST)
    whole = Fitted(32, masks=True, ignore=9, rest=REST)
    rng = np.random.default_rng(0)
    smaller = (-(-height // reduction), -(-width // reduction))
    pixels = np.kron(rng.integers(0, 256, (40, 20, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    picture = Picture(
        np.ascontiguousarray(pixels[: smaller[0], : smaller[1]]), height, width, reduction
    )
    mask = rng.integers(0, 3, (height, width), np.uint8)
    keys = (np.zeros(1, np.int64), np.zeros(1, np.int64))
    cut, judged = crops.empty(1), whole.empty(1)
    for shape, columns in ((crops, cut), (whole, judged)):
        filler = shape.filler(columns, *keys)
        filler.fill(0, picture)
        cast(MaskFiller, filler).fill_mask(0, mask)
    box = np.array([[8, 4, 40, 30, 2]], np.float32)
    cast(BoxFiller, crops.filler(cut, *keys)).fill_boxes(0, box, height, width)
    scale = 32 / max(height, width)
    told = cut[schema.BOXES][0, 0]
    np.testing.assert_allclose(told, [8 * scale, 4 * scale, 48 * scale, 34 * scale, 2], rtol=1e-5)
    tall, wide = height * 32 // max(height, width), width * 32 // max(height, width)
    image, fitted = cut["images"][0, 0].astype(int), judged[schema.IMAGE][0].astype(int)
    within = np.s_[:, : tall - (tall < 32), : wide - (wide < 32)]  # an edge mixes with the rest
    assert np.abs(image - fitted)[within].max() <= 2
    assert (image[:, tall + 1 :] == fitted[:, tall + 1 :]).all()
    assert (image[:, :, wide + 1 :] == fitted[:, :, wide + 1 :]).all()
    np.testing.assert_array_equal(cut[schema.MASK], judged[schema.MASK])
