"""jobs.reporting.contact_sheet: every picture lies in its place, whatever sizes and captions it is
given."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from jobs.reporting.contact_sheet import Cell, grid, mosaic, to_jpeg

RED, GREEN, BLUE = (200, 20, 20), (20, 200, 20), (20, 20, 200)


def plain(colour: tuple[int, int, int], height: int = 32, width: int = 32) -> Tensor:
    return torch.tensor(colour, dtype=torch.uint8)[:, None, None].expand(3, height, width)


def boxes(sheet: Image.Image, colour: tuple[int, int, int]) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of everything in a colour, px."""
    rows, columns = np.nonzero((np.asarray(sheet) == colour).all(axis=-1))
    assert len(rows), f"nothing on the sheet is {colour}"
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


def test_every_picture_stands_in_its_row_and_column_and_fills_its_cell() -> None:
    sheet = grid(
        [[Cell(plain(RED)), Cell(plain(GREEN))], [Cell(None), Cell(plain(BLUE))]], cell_px=100
    )
    red, green, blue = (boxes(sheet, colour) for colour in (RED, GREEN, BLUE))
    assert all((box[2] - box[0], box[3] - box[1]) == (100, 100) for box in (red, green, blue))
    assert red[2] < green[0] and red[1] == green[1]
    assert green[3] < blue[1] and green[0] == blue[0]


def test_a_picture_keeps_its_proportions() -> None:
    left, top, right, bottom = boxes(grid([[Cell(plain(RED, 20, 80))]], cell_px=120), RED)
    assert (right - left, bottom - top) == (120, 30)


def test_blocks_put_later_rows_beside_the_first_ones_and_lose_none() -> None:
    rows = [[Cell(plain(colour))] for colour in (RED, GREEN, BLUE)]
    stacked, wrapped = grid(rows), grid(rows, blocks=2)
    red, green, blue = (boxes(wrapped, colour) for colour in (RED, GREEN, BLUE))
    assert red[0] == green[0] and blue[0] > red[2] and blue[1] == red[1]
    assert wrapped.height < stacked.height


def test_a_break_widens_the_gap_before_its_column() -> None:
    row = [Cell(plain(RED)), Cell(plain(GREEN)), Cell(plain(BLUE))]
    red, green, blue = (boxes(grid([row], breaks={1}), colour) for colour in (RED, GREEN, BLUE))
    assert green[0] - red[2] > blue[0] - green[2]


def test_words_are_drawn_and_a_long_caption_stays_below_its_own_picture() -> None:
    bare = grid([[Cell(plain(RED)), Cell(plain(GREEN))]])
    named = grid([[Cell(plain(RED), "a_very_long_name_" * 9 + ".jpg"), Cell(plain(GREEN))]])
    assert named.width == bare.width and named.height > bare.height
    left, _, right, bottom = boxes(named, RED)
    below = np.asarray(named.convert("L"))[bottom:]
    inked = np.nonzero((below < 200).any(axis=0))[0]
    assert len(inked) and left <= inked.min() and inked.max() < right + 2


def test_headings_and_title_make_room_for_themselves() -> None:
    rows = [[Cell(plain(RED))]]
    bare, titled = (
        grid(rows),
        grid(rows, headings=["original"], title="A title that is wider than the only picture"),
    )
    assert titled.width > bare.width
    assert boxes(titled, RED)[1] > boxes(bare, RED)[1]


@pytest.mark.parametrize("image", [torch.zeros(1, 8, 8, dtype=torch.uint8), torch.zeros(3, 8, 8)])
def test_what_is_no_rgb_picture_is_refused(image: Tensor) -> None:
    with pytest.raises(ValueError, match=r"must be \(3, H, W\) uint8"):
        grid([[Cell(image)]])


def test_a_sheet_without_pictures_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one picture"):
        grid([[Cell(None)], []])


def test_a_mosaic_fills_rows_without_gaps() -> None:
    sheet = mosaic([plain(RED), plain(GREEN), plain(BLUE)], num_columns=2, cell_px=50)
    red, green, blue = (boxes(sheet, colour) for colour in (RED, GREEN, BLUE))
    assert red[2] == green[0] and red[1] == green[1]
    assert blue[1] == red[3] and blue[0] == red[0]


def test_a_jpeg_keeps_size_and_colours() -> None:
    sheet = mosaic([plain(RED)], num_columns=1, cell_px=50)
    decoded = Image.open(io.BytesIO(to_jpeg(sheet)))
    assert decoded.format == "JPEG" and decoded.size == sheet.size
    assert np.abs(np.asarray(decoded)[40, 40] - np.array(RED)).max() <= 4
