"""Pictures of what a segmentation or a detection tells of some test samples."""

from collections.abc import Sequence

import numpy as np
import torch

from jobs.adaptation import judging
from jobs.adaptation.training_sections import TrainedAdaptConfig
from jobs.reporting import box_sheet, mask_sheet
from jobs.reporting.figures import Drawing
from jobs.setup import run_artifact
from jobs.setup.value_range import limits_for
from models import artifact
from models.artifact import Artifact
from pipelines import schema
from pipelines.labels import labelled_stream
from pipelines.labels.labelled_data import LabelledData
from pipelines.media.contract import Limits
from pipelines.predictions.answers import FOUND_BOXES, answered, whole_images
from pipelines.storage import uris

NUM_SHOWN = 6


def some_samples(config: TrainedAdaptConfig, out: str, data: LabelledData) -> list[Drawing]:
    """Draw a few test samples, good or bad, as the artifact in `out` tells them.

    They are spread evenly over the names: the first ones may all be frames of one second of a
    video.

    Args:
        config: Of the adaptation.
        out: Its folder.
        data: The samples that were judged, of which every one can be read.

    Returns:
        One picture where the task has something to draw.
    """
    if data.task not in ("mask", "boxes"):
        return []
    test = data.keep(data.of("test"))
    every = test.rows[schema.NAME].to_pylist()
    by_name = sorted(range(test.num_rows), key=lambda index: every[index])
    shown = spread(by_name, NUM_SHOWN)
    which = f"{len(shown)} of {test.num_rows:,} test samples, evenly by name"
    test = test.keep(np.isin(np.arange(test.num_rows), shown))
    adapted = artifact.load(uris.join(out, run_artifact.FOLDER))
    names = [name.rpartition("/")[2] for name in test.rows[schema.NAME].to_pylist()]
    draw = _masks if data.task == "mask" else _boxes
    return [draw(adapted, test, names, which)]


def spread(values: Sequence[int], count: int) -> list[int]:
    """Choose so many of a sequence, or all, at even distances from the first on."""
    count = min(count, len(values))
    return [values[index * len(values) // count] for index in range(count)]


def _shown(adapted: Artifact, data: LabelledData, *names: str) -> dict[str, np.ndarray]:
    """Return columns of samples as the artifact looks at them."""
    masks = data.task == "mask"
    work = labelled_stream.work_of(
        data,
        whole_images(adapted, masks=masks),
        limits_for(adapted, Limits()),
        run="adapt",
        block_rows=NUM_SHOWN,
    )
    return judging.collected(labelled_stream.blocks(work), (schema.IMAGE, *names))


def _masks(adapted: Artifact, data: LabelledData, names: list[str], which: str) -> Drawing:
    columns = _shown(adapted, data, schema.MASK)
    with torch.inference_mode():
        prepared = adapted.preprocess(torch.from_numpy(np.array(columns[schema.IMAGE])))
        told = adapted.predict(prepared).numpy()
    pictures = columns[schema.IMAGE], columns[schema.MASK], told
    return mask_sheet.sheet(*pictures, names, data.classes, which)


def _boxes(adapted: Artifact, data: LabelledData, names: list[str], which: str) -> Drawing:
    columns = _shown(adapted, data, schema.HEIGHT, schema.WIDTH)
    told = answered(adapted, dict(columns))[FOUND_BOXES].reshape(data.num_rows, -1, 6)
    samples = []
    for row, name in enumerate(names):
        corners, labels, crowd = data.boxes(row)
        samples.append(
            box_sheet.Sample(
                name=name,
                image=columns[schema.IMAGE][row],
                height=int(columns[schema.HEIGHT][row]),
                width=int(columns[schema.WIDTH][row]),
                known=np.column_stack([corners, labels])[~crowd],
                told=told[row][told[row][:, 5] >= box_sheet.LEAST_SCORE],
            )
        )
    return box_sheet.sheet(samples, data.classes, which)
