"""The answer as a contact sheet: each query, and beside it what is nearest."""

import textwrap
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from jobs.reporting.contact_sheet import Cell, grid
from jobs.searching.sample_rows import Read, Sample, read
from pipelines import schema
from pipelines.corpus.manifest import Manifest
from pipelines.media.clips import Sampling
from pipelines.media.contract import Limits
from pipelines.stream.shapes import Fitted, fitted

CELL_PX = 112
PER_LINE = 10
SHAPE = Fitted(CELL_PX)
_BLANK = 236  # grey in place of a picture that cannot be read
_WORDS_PX = 12
_PER_LINE = 17  # characters


def read_pictures(samples: Sequence[Sample], manifest: Manifest | None, per_video: int) -> Read:
    """Read whole pictures; of a video that is no sample of the corpus, the frame in its middle."""
    per_video = 1 if all(sample.clip is None for sample in samples) else per_video
    sampling = Sampling(per_video=per_video)
    return read(samples, SHAPE, Limits(), manifest=manifest, sampling=sampling)


def cells(samples: Sequence[Sample], captions: Sequence[str], seen: Read) -> list[Cell]:
    """Make a cell of each sample; in place of one that cannot be read, a grey one that says why."""
    made = []
    for row, (sample, caption) in enumerate(zip(samples, captions, strict=True)):
        problem = seen.problems[row]
        said = [caption, f"unreadable: {problem}" if problem else "", sample.name]
        text = "\n".join(line for line in said if line)
        made.append(Cell(_blank() if problem else _picture(seen, row), text))
    return made


def words(text: str) -> Cell:
    """Make a cell of a text in place of a picture."""
    paper = Image.new("RGB", (CELL_PX, CELL_PX), (_BLANK,) * 3)
    lines = "\n".join(textwrap.wrap(text, _PER_LINE))
    font = ImageFont.load_default(_WORDS_PX)
    ImageDraw.Draw(paper).multiline_text((6, 6), lines, fill=(32, 36, 42), font=font)
    return Cell(torch.from_numpy(np.array(paper)).permute(2, 0, 1).contiguous(), "text")


def _picture(seen: Read, row: int) -> Tensor:
    """Cut the whole picture out of its square."""
    sides = seen.columns[schema.HEIGHT][row], seen.columns[schema.WIDTH][row]
    height, width = fitted(int(sides[0]), int(sides[1]), CELL_PX)
    return torch.from_numpy(seen.columns[schema.IMAGE][row][:, :height, :width])


def _blank() -> Tensor:
    return torch.full((3, CELL_PX, CELL_PX), _BLANK, dtype=torch.uint8)


def draw(answers: Sequence[tuple[Cell, Sequence[Cell]]], title: str) -> Image.Image:
    """Lay answers out, the query first; long ones go on below.

    Args:
        answers: A query and its neighbours, the nearest first.
        title: A line above.
    """
    rows = []
    for query, neighbours in answers:
        for start in range(0, max(1, len(neighbours)), PER_LINE):
            first = query if start == 0 else Cell(None)
            rows.append([first, *neighbours[start : start + PER_LINE]])
    most = max(map(len, rows)) - 1
    headings = ["query", "nearest"] if most <= PER_LINE else []
    headings += [""] * (most + 1 - len(headings))
    return grid(rows, headings=headings, title=title, breaks={1}, cell_px=CELL_PX)
