"""Masks beside images: a class index for each pixel, in PNG files paired with the images by
path."""

import numpy as np
import pyarrow as pa
import ray.data

from pipelines import schema
from pipelines.corpus.listed_rows import LEFT_OUT
from pipelines.labels.class_folders import list_files, names_below, root_of_names
from pipelines.labels.labelled_data import Split
from pipelines.labels.labelled_rows import LabelledRows, LeftOutNames, with_column
from pipelines.labels.paired_paths import NONE, SEVERAL, pair_paths, stem
from pipelines.media.contract import BadSample, Limits
from pipelines.media.decoder import PROCESS, kept_decoder
from pipelines.ray_tasks import map_in_tasks, said_to
from pipelines.storage import uris
from pipelines.stream.fetch import fetch

NO_MASK = "image without a mask"
NO_IMAGE = "mask without an image"
AMBIGUOUS = "image whose path does not tell which mask is its own"
NO_INDICES = "mask that cannot be used"
TASK_MASKS = 64
_PLACE = (schema.MASK_URI, schema.MASK_OFFSET, schema.MASK_LENGTH)
_COUNTED = pa.schema(
    [
        pa.field("index", pa.int64()),
        pa.field("values", pa.list_(pa.int32())),  # class indices that occur
        pa.field("problem", pa.string()),
    ]
)


class MaskFolder:
    """The masks below a folder, found by the path of an image.

    Args:
        uri: The folder, a glob or shards.

    Raises:
        ValueError: it is missing or refused.
    """

    def __init__(self, uri: str) -> None:
        uri = uris.absolute(uri)
        listed = list_files(uri)
        listed = listed.filter(listed[LEFT_OUT.name].is_null())
        self._names = names_below(listed, root_of_names(uri))
        self._places = [
            tuple(row.values())
            for row in listed.select([schema.URI, schema.OFFSET, schema.LENGTH]).to_pylist()
        ]
        self._used: set[int] = set()

    def pair(self, sets: dict[Split, LabelledRows]) -> dict[Split, LabelledRows]:
        """Give the samples of all sets their masks; leave out those without one.

        A mask belongs to an image as `pair_paths` says, suffixes left aside; one that a table names
        is kept.
        """
        names = [stem(name) for one in sets.values() for name in one.names]
        ids = [i for one in sets.values() for i in one.rows[schema.SAMPLE_ID].to_pylist()]
        found = pair_paths(names, ids, [stem(name) for name in self._names])
        paired = {}
        start = 0
        for split, one in sets.items():
            paired[split] = self._give(one, found[start : start + one.rows.num_rows])
            start += one.rows.num_rows
        return paired

    def _give(self, found: LabelledRows, index: np.ndarray) -> LabelledRows:
        given = ~np.asarray(found.rows[schema.MASK_URI].is_null())
        self._used |= set(index[(index >= 0) & ~given].tolist())
        rows = found.rows
        for column, name in enumerate(_PLACE):
            own = rows[name].to_pylist()
            values = [
                self._places[at][column] if at >= 0 and not has else value
                for value, at, has in zip(own, index.tolist(), given.tolist(), strict=True)
            ]
            rows = with_column(rows, name, values)
        paired = LabelledRows(rows, found.left_out, found.empty)
        none = (index == NONE) & ~given
        several = (index == SEVERAL) & ~given
        return paired.without(none, NO_MASK).without(several[~none], AMBIGUOUS)

    def unused(self) -> LeftOutNames:
        """Return the masks that no image of any set had."""
        left_out = LeftOutNames()
        names = enumerate(self._names)
        left_out.add_all(NO_IMAGE, [name for index, name in names if index not in self._used])
        return left_out


def without_masks(found: LabelledRows) -> LabelledRows:
    """Leave out samples of a table that names no mask of theirs."""
    return found.without(np.asarray(found.rows[schema.MASK_URI].is_null()), NO_MASK)


def survey_masks(rows: pa.Table) -> tuple[list[set[int]], list[str | None]]:
    """Read every mask once, by Ray tasks.

    Args:
        rows: Schema `schema.NAMED`, each with a mask.

    Returns:
        The class indices in each, and what is wrong with it, None for nothing.
    """
    places = rows.select(_PLACE).rename_columns([schema.URI, schema.OFFSET, schema.LENGTH])
    places = places.append_column("etag", pa.array([""] * rows.num_rows, pa.string()))
    places = places.append_column(schema.MEMBER, pa.nulls(rows.num_rows, pa.string()))
    places = places.append_column("index", pa.array(np.arange(rows.num_rows)))
    parts = [places.slice(at, TASK_MASKS) for at in range(0, rows.num_rows, TASK_MASKS)]
    values: list[set[int]] = [set()] * rows.num_rows
    problems: list[str | None] = [None] * rows.num_rows
    if parts:
        dataset = ray.data.from_blocks(parts)
        dataset.context.execution_no_progress_timeout_s = -1
        counted = map_in_tasks(dataset, _count_part, batch_size=None, batch_format="pyarrow")
        said_to(counted, "reading masks", rows.num_rows)
        for batch in counted.iter_batches(batch_size=None, batch_format="pyarrow"):
            assert isinstance(batch, pa.Table)
            for row in batch.to_pylist():
                values[row["index"]] = set(row["values"] or ())
                problems[row["index"]] = row["problem"]
    return values, problems


def _count_part(places: pa.Table) -> pa.Table:
    rows = []
    for place, payload in zip(places["index"].to_pylist(), fetch(places), strict=True):
        try:
            if isinstance(payload, BadSample):
                raise payload
            found = np.unique(kept_decoder(Limits(), PROCESS).indices(payload)).tolist()
            rows.append({"index": place, "values": found, "problem": None})
        except BadSample as problem:
            rows.append({"index": place, "values": [], "problem": problem.message})
    return pa.Table.from_pylist(rows, schema=_COUNTED)
