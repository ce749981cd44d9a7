"""The palette of what is decoded stands beside its pixels."""

import numpy as np
import pytest
import torch

from augment.picture import Picture
from models.probes import colour_statistics
from pipelines import schema
from pipelines.samples.with_colours import COLOURS, WithColours
from pipelines.stream.shapes import Centre, of_media


@pytest.mark.parametrize("num_frames", [None, 3])
def test_colours_are_those_of_the_pixels_beside_them(num_frames: int | None) -> None:
    size = (20, 30, 3) if num_frames is None else (3, 20, 30, 3)
    pixels = np.random.default_rng(0).integers(0, 255, size).astype(np.uint8)
    shape = WithColours(of_media(Centre(8), num_frames))
    columns = shape.empty(2)
    shape.filler(columns, np.zeros(2, np.int64), np.arange(2)).fill(1, Picture(pixels, 20, 30))
    frames = torch.from_numpy(columns[schema.IMAGE][1].reshape(-1, 3, 8, 8))
    expected = torch.stack([colour_statistics(frame[None])[0] for frame in frames]).mean(0)
    torch.testing.assert_close(torch.from_numpy(columns[COLOURS][1]), expected)
    assert (columns[COLOURS][0] == 0).all()
