"""An image that must not be cut lies in a square, beside which is nothing to see."""

import numpy as np
import torch

from augment.picture import Picture
from models.preprocess import fitted_whole, neutral
from pipelines.stream.shapes import Fitted


def test_beside_a_whole_image_is_the_mean_in_a_block_as_in_an_artifact() -> None:
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    pixels = np.full((10, 20, 3), 7, np.uint8)
    shape = Fitted(8, rest=neutral(mean.flatten().tolist()))
    columns = shape.empty(1)
    shape.filler(columns, np.zeros(1), np.zeros(1)).fill(0, Picture.whole(pixels))
    block = torch.from_numpy(columns["image"][0])
    alone = fitted_whole(torch.from_numpy(pixels).permute(2, 0, 1)[None], 8, mean)[0]
    assert (
        block[:, :4].eq(7).all()
        and block[:, 4:].eq(torch.tensor([[[124]], [[116]], [[104]]])).all()
    )
    assert torch.allclose(alone, block / 255, atol=1 / 255)
