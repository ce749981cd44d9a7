"""Contact sheets: pictures side by side with small captions, for a person to look at."""

import io
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache

import matplotlib
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

_PAPER = (255, 255, 255)
_INK = (32, 36, 42)
_PALE_INK = (106, 114, 124)
_MARGIN = 20
_GAP = 6
_WIDE_GAP = 20
_BLOCK_GAP = 52
_HEADING_PX = 13
_CAPTION_PX = 11
_LINE_PX = 14
_TITLE_PX = 17
_SWATCH_PX = _HEADING_PX + 6

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Cell:
    """One picture of a sheet.

    Attributes:
        image: (3, H, W) uint8 RGB; None leaves the place empty.
        caption: Short lines below it; each is cut to the cell's width.
    """

    image: Tensor | None
    caption: str = ""


def grid(
    rows: Sequence[Sequence[Cell]],
    *,
    headings: Sequence[str] = (),
    title: str = "",
    legend: Sequence[tuple[Colour | None, str]] = (),
    breaks: Collection[int] = (),
    blocks: int = 1,
    cell_px: int = 112,
) -> Image.Image:
    """Lay pictures out as a sheet.

    Args:
        rows: The pictures, each row from left to right; rows may differ in length.
        headings: A line above each column; may be left out.
        title: A line above the sheet; may be left out.
        legend: A line below the title: words, each behind a square of its colour if it has one.
        breaks: Columns that stand apart from the one to their left.
        blocks: Parts that the rows are cut into, shown side by side: a few narrow rows fill a page
            better.
        cell_px: Side of the square that each picture is fitted into, px.

    Raises:
        ValueError: there is no picture, or one is not (3, H, W) uint8.
    """
    if not any(cell.image is not None for row in rows for cell in row):
        raise ValueError("a contact sheet needs at least one picture")
    num_columns = max(map(len, rows))
    height = -(-len(rows) // blocks)
    lefts = _lefts(num_columns, -(-len(rows) // height), breaks, cell_px)
    under_title = _MARGIN + (_TITLE_PX + 15 if title else 0)
    top = under_title + sum(_HEADING_PX + 9 for line in (legend, headings) if line)
    num_lines = max(len(cell.caption.splitlines()) for row in rows for cell in row)
    pitch = cell_px + _GAP + (_LINE_PX * num_lines + 4 if num_lines else 0)
    title_px = int(_font(_TITLE_PX, bold=True).getlength(title))
    width = max(lefts[-1] + cell_px, _MARGIN + title_px, _legend_width(legend)) + _MARGIN
    sheet = Image.new("RGB", (width, top + pitch * height - _GAP + _MARGIN), _PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((_MARGIN, _MARGIN - 3), title, fill=_INK, font=_font(_TITLE_PX, bold=True))
    _draw_legend(draw, legend, under_title - 6)
    for index, left in enumerate(lefts):
        heading = headings[index % num_columns] if headings else ""
        text = _shortened(heading, _font(_HEADING_PX), cell_px + _GAP)
        draw.text((left, top - _HEADING_PX - 9), text, fill=_INK, font=_font(_HEADING_PX))
    for number, row in enumerate(rows):
        block, line = divmod(number, height)
        for left, cell in zip(lefts[block * num_columns :], row, strict=False):
            _paste(sheet, draw, cell, left, top + line * pitch, cell_px)
    return sheet


def mosaic(
    images: Sequence[Tensor], *, num_columns: int, title: str = "", cell_px: int = 48
) -> Image.Image:
    """Lay pictures out without gaps, row by row.

    Args:
        images: (3, H, W) uint8 RGB each.
        num_columns: Pictures of a row.
        title: A line above; may be left out.
        cell_px: Side of the square that each picture is fitted into, px.
    """
    top = _MARGIN + (_TITLE_PX + 15 if title else 0)
    size = num_columns * cell_px, -(-len(images) // num_columns) * cell_px
    title_px = int(_font(_TITLE_PX, bold=True).getlength(title))
    width = max(size[0], title_px) + 2 * _MARGIN
    sheet = Image.new("RGB", (width, top + size[1] + _MARGIN), _PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((_MARGIN, _MARGIN - 3), title, fill=_INK, font=_font(_TITLE_PX, bold=True))
    for index, image in enumerate(images):
        row, column = divmod(index, num_columns)
        place = _MARGIN + column * cell_px, top + row * cell_px
        sheet.paste(_fitted(image, cell_px), place)
    return sheet


def to_jpeg(sheet: Image.Image) -> bytes:
    """Encode a sheet of many photographs: a quarter of a PNG's bytes, its letters still sharp."""
    buffer = io.BytesIO()
    sheet.save(buffer, "JPEG", quality=85, subsampling=0, optimize=True)
    return buffer.getvalue()


def tag(
    draw: ImageDraw.ImageDraw, text: str, place: tuple[float, float], colour: Colour, size: int
) -> None:
    """Write a few letters on a ground of a colour, at the upper left corner of a box."""
    font = _font(size, bold=True)
    left, top = place
    draw.rectangle((left, top, left + font.getlength(text) + 3, top + size + 2), fill=colour)
    draw.text((left + 2, top), text, fill=_PAPER, font=font)


def _legend_width(legend: Sequence[tuple[Colour | None, str]]) -> int:
    """Return where a legend ends, px."""
    font = _font(_HEADING_PX)
    lengths = [font.getlength(text) + (_SWATCH_PX if colour else 0) for colour, text in legend]
    return _MARGIN + int(sum(lengths)) + _WIDE_GAP * max(0, len(legend) - 1)


def _draw_legend(
    draw: ImageDraw.ImageDraw, legend: Sequence[tuple[Colour | None, str]], top: int
) -> None:
    left = float(_MARGIN)
    for colour, text in legend:
        if colour:
            draw.rectangle((left, top + 2, left + _HEADING_PX, top + 2 + _HEADING_PX), fill=colour)
            left += _SWATCH_PX
        draw.text((left, top), text, fill=_INK, font=_font(_HEADING_PX))
        left += _font(_HEADING_PX).getlength(text) + _WIDE_GAP


def _lefts(num_columns: int, blocks: int, breaks: Collection[int], cell_px: int) -> list[int]:
    """Return the left edge of every column of every block, px."""
    lefts = [_MARGIN]
    for column in range(1, num_columns * blocks):
        gap = _WIDE_GAP if column % num_columns in breaks else _GAP
        lefts.append(lefts[-1] + cell_px + (_BLOCK_GAP if column % num_columns == 0 else gap))
    return lefts


def _paste(
    sheet: Image.Image, draw: ImageDraw.ImageDraw, cell: Cell, left: int, top: int, cell_px: int
) -> None:
    if cell.image is None:
        return
    picture = _fitted(cell.image, cell_px)
    sheet.paste(
        picture, (left + (cell_px - picture.width) // 2, top + (cell_px - picture.height) // 2)
    )
    for number, line in enumerate(cell.caption.splitlines()):
        text = _shortened(line, _font(_CAPTION_PX), cell_px)
        draw.text(
            (left, top + cell_px + 3 + number * _LINE_PX),
            text,
            fill=_PALE_INK,
            font=_font(_CAPTION_PX),
        )


def _fitted(image: Tensor, side: int) -> Image.Image:
    """Scale a picture so that its longer side fills the cell."""
    if image.ndim != 3 or image.shape[0] != 3 or image.dtype != torch.uint8:
        raise ValueError(
            f"a picture must be (3, H, W) uint8, got {tuple(image.shape)} {image.dtype}"
        )
    picture = Image.fromarray(np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy()))
    scale = side / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    # Lanczos, also upwards: blocks of 4 px hide from the eye what 32 px views show.
    return picture.resize(size, Image.Resampling.LANCZOS)


def _shortened(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """Cut the middle out of a text that is too wide: the end of a file's name tells files apart."""
    if font.getlength(text) <= width:
        return text
    keep = len(text) - 1
    while keep > 2 and font.getlength(_without_middle(text, keep)) > width:
        keep -= 1
    return _without_middle(text, keep)


def _without_middle(text: str, keep: int) -> str:
    return f"{text[: keep // 2]}…{text[len(text) - (keep - keep // 2) :]}"


@lru_cache(maxsize=8)
def _font(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    """Load DejaVu Sans as matplotlib ships it: the same letters in sheets and figures."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(os.path.join(matplotlib.get_data_path(), "fonts", "ttf", name), size)
