"""A picture of what a probe with captions compares: some images beside their captions, and how
alike each pair is."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import torch
from matplotlib.offsetbox import AnnotationBbox, OffsetImage

from jobs.adaptation.sample_pictures import spread
from jobs.reporting.figures import INK, Drawing, open_figure, png
from jobs.searching.answer_sheet import read_pictures
from jobs.searching.sample_rows import Sample
from pipelines import schema

NUM_SHOWN = 12
_LONGEST = 44  # characters of a caption
_ZOOM = 0.42


def draw(
    rows: pa.Table,
    captions: Sequence[Sequence[str]],
    similarity: torch.Tensor,
    owner: np.ndarray,
) -> Drawing:
    """Draw the similarities of some test images with the first caption of each.

    Args:
        rows: Manifest rows of the N images.
        captions: Of each image.
        similarity: (N, M), with all captions, image by image.
        owner: Which image each caption is of, (M,).
    """
    chosen = spread(range(rows.num_rows), NUM_SHOWN)
    first = np.searchsorted(owner, chosen)
    shown = similarity[chosen][:, torch.from_numpy(first)].numpy().T  # captions down, images across
    right = int((shown.argmax(axis=1) == np.arange(len(chosen))).sum())
    finding = f"{right} of {len(chosen)} captions are most alike their own image of these"
    some = rows.take(pa.array(chosen)).to_pylist()
    samples = [Sample(row[schema.URI], row[schema.MEMBER], row[schema.CLIP]) for row in some]
    seen = read_pictures(samples, None, 1)
    side = 0.62 * len(chosen)
    with open_figure(finding, size=(side + 4.6, side + 1.9)) as (figure, axes):
        axes.grid(visible=False)
        axes.imshow(shown, cmap="Blues", aspect="equal")
        axes.plot(range(len(chosen)), range(len(chosen)), "s", mfc="none", mec=INK, markersize=15)
        axes.set_yticks(range(len(chosen)), [_short(captions[index][0]) for index in chosen])
        axes.set_xticks([])
        for place in range(len(chosen)):
            if seen.problems[place]:
                continue
            pixels = seen.columns[schema.IMAGE][place].transpose(1, 2, 0)
            box = AnnotationBbox(
                OffsetImage(pixels, zoom=_ZOOM),
                (place, -0.6),
                box_alignment=(0.5, 0),
                frameon=False,
                annotation_clip=False,
                pad=0,
            )
            axes.add_artist(box)
        axes.set_xlabel("images, above; framed: an image's own caption; darker: more alike")
    return Drawing("captions.png", finding, png(figure))


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
