"""Pictures of what a segmentation tells of the first test samples."""

import numpy as np
import torch

from jobs.adaptation import judging
from jobs.adaptation.training_sections import TrainedAdaptConfig
from jobs.reporting import mask_sheet
from jobs.reporting.figures import Drawing
from jobs.setup import run_artifact
from jobs.setup.value_range import limits_for
from models import artifact
from pipelines import schema
from pipelines.labels import labelled_stream
from pipelines.labels.labelled_data import LabelledData
from pipelines.media.contract import Limits
from pipelines.predictions.answers import whole_images
from pipelines.storage import uris

NUM_SHOWN = 6


def first_masks(config: TrainedAdaptConfig, out: str, data: LabelledData) -> list[Drawing]:
    """Draw the first test samples by name, good or bad, as the artifact in `out` tells them.

    Args:
        config: Of the adaptation.
        out: Its folder.
        data: The samples that were judged, of which every one can be read.
    """
    test = data.keep(data.of("test"))
    every = test.rows[schema.NAME].to_pylist()
    first = sorted(range(test.num_rows), key=lambda index: every[index])[:NUM_SHOWN]
    test = test.keep(np.isin(np.arange(test.num_rows), first))
    adapted = artifact.load(uris.join(out, run_artifact.FOLDER))
    work = labelled_stream.work_of(
        test,
        whole_images(adapted, masks=True, ignore=test.ignore),
        limits_for(adapted, Limits()),
        run="adapt",
        block_rows=NUM_SHOWN,
    )
    names = (schema.IMAGE, schema.MASK)
    columns = judging.collected(labelled_stream.blocks(work), names)
    with torch.inference_mode():
        prepared = adapted.preprocess(torch.from_numpy(np.array(columns[schema.IMAGE])))
        told = adapted.predict(prepared).numpy()
    of = f"the first {test.num_rows} of {int(data.of('test').sum()):,} test samples by name"
    shown = [name.rpartition("/")[2] for name in test.rows[schema.NAME].to_pylist()]
    return [mask_sheet.sheet(columns[schema.IMAGE], columns[schema.MASK], told, shown, of)]
