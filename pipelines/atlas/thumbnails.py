"""Small pictures of the samples of a map: streamed through the same decoding as everything, and
written by the tasks that made them, some together in a file.

A picture that cannot be read is an empty text; the page draws a grey square for it.
"""

import base64
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import simplejpeg

from augment.execution.boxes import fitted
from pipelines import schema
from pipelines.atlas import script_files
from pipelines.corpus.manifest import Manifest
from pipelines.media.clips import Sampling
from pipelines.media.contract import Limits
from pipelines.ray_tasks import map_in_tasks, said_to
from pipelines.storage import uris
from pipelines.storage.parquet_files import open_parquet
from pipelines.stream import ingest
from pipelines.stream.orders import keyed
from pipelines.stream.sealed import DECODE_CPUS, seal
from pipelines.stream.shapes import Fitted

FILE_ROWS = 64  # pictures of a file: about 200 kB at 64 px
QUALITY = 82
FUNCTION = "pictures"
_NAME = re.compile(r"(\d{6})\.js")
_COLUMNS = [*schema.MANIFEST.names, schema.ROW]


@dataclass(frozen=True)
class PickedRows:
    """Rows of a manifest that lie in a Parquet file, in their order there.

    Attributes:
        uri: The file; its row groups have `FILE_ROWS` rows.
    """

    uri: str

    def rows(self, start: int, stop: int) -> Iterator[pa.Table]:
        """Yield the rows [start, stop)."""
        with open_parquet(self.uri) as file:
            for group in range(start // FILE_ROWS, -(-stop // FILE_ROWS)):
                first = group * FILE_ROWS
                table = file.read_row_group(group)
                low = max(start - first, 0)
                yield keyed(table.slice(low, stop - first - low), epoch=0, start=first + low)


def pick(manifest: Manifest, ids: np.ndarray, uri: str) -> np.ndarray:
    """Look samples up in a manifest and write their rows in the order in which they are given.

    Args:
        manifest: The corpus.
        ids: (n,) int64, each once.
        uri: Of the file.

    Returns:
        Which of them are there, (n,) bool.
    """
    wanted = pa.array(ids)
    found = [schema.MANIFEST.append(pa.field(schema.ROW, pa.int64())).empty_table()]
    for part, row_group, rows in manifest.row_groups():
        if rows:
            table = manifest.read_row_group(part, row_group, schema.MANIFEST.names)
            among = pc.is_in(table[schema.SAMPLE_ID], value_set=wanted)
            found.append(table.filter(among).select(_COLUMNS).cast(found[0].schema))
    table = pa.concat_tables(found).combine_chunks()
    place = pc.index_in(wanted, value_set=table[schema.SAMPLE_ID].combine_chunks())
    there = pc.is_valid(place)
    with uris.open_atomic(uri) as file:
        pq.write_table(table.take(place.filter(there)), file, row_group_size=FILE_ROWS)
    found_them: np.ndarray = there.to_numpy(zero_copy_only=False)
    return found_them


@dataclass(frozen=True)
class Thumbnails:
    """What a task needs to know.

    Attributes:
        manifest: The corpus.
        picked: File of the rows, from `pick`.
        num_rows: Of it.
        folder: Where the files go.
        side: Longer side of a picture, px.
        limits: What a sample's file may cost.
    """

    manifest: Manifest
    picked: str
    num_rows: int
    folder: str
    side: int
    limits: Limits

    def missing(self) -> list[int]:
        """List the numbers of the files that are not there yet."""
        found = (_NAME.fullmatch(name) for name in uris.list_names(self.folder))
        there = {int(name[1]) for name in found if name}
        return [number for number in range(-(-self.num_rows // FILE_ROWS)) if number not in there]

    def write(self, missing: list[int]) -> Iterator[int]:
        """Write files; yields how many pictures are done, as they are."""
        if not missing:
            return
        work = ingest.Ingest(
            order=PickedRows(self.picked),
            shape=Fitted(self.side),
            block_rows=FILE_ROWS,
            limits=self.limits,
            quarantine=None,
            run="atlas",
            sampling=Sampling(per_video=self.manifest.per_video, as_frames=True),
        )
        ranges = [
            (first * FILE_ROWS, min(self.num_rows, (last + 1) * FILE_ROWS))
            for first, last in _runs(missing)
        ]
        blocks = ingest.dataset(work, ranges)
        # as much of a CPU as decoding takes: Ray then does both in one task, and pixels stay there
        done = map_in_tasks(
            blocks,
            seal(partial(_write, work=self)),
            batch_size=None,
            num_cpus=DECODE_CPUS,
        )
        said_to(done, "making thumbnails", sum(stop - start for start, stop in ranges))
        for batch in done.iter_batches(batch_size=None):
            yield int(batch["done"].sum())


def _runs(numbers: list[int]) -> list[tuple[int, int]]:
    """Join ascending numbers that follow each other, as (first, last)."""
    runs = list[tuple[int, int]]()
    for number in numbers:
        if runs and runs[-1][1] == number - 1:
            runs[-1] = (runs[-1][0], number)
        else:
            runs.append((number, number))
    return runs


def _write(batch: dict[str, np.ndarray], work: Thumbnails) -> dict[str, np.ndarray]:
    """Write the files of one block."""
    position = batch[schema.POSITION]
    pictures = [
        base64.b64encode(_jpeg(batch, row, work.side)).decode() if valid else ""
        for row, valid in enumerate(batch[schema.VALID].tolist())
    ]
    for first in range(0, len(pictures), FILE_ROWS):
        number, rest = divmod(int(position[first]), FILE_ROWS)
        some = pictures[first : first + FILE_ROWS]
        if rest or len(some) != min(FILE_ROWS, work.num_rows - number * FILE_ROWS):
            raise RuntimeError(f"{len(some)} pictures do not make one file: please report this")
        script_files.write(file_uri(work.folder, number), FUNCTION, number, some)
    return {"done": np.array([len(pictures)])}


def _jpeg(batch: dict[str, np.ndarray], row: int, side: int) -> bytes:
    sides = batch[schema.HEIGHT][row], batch[schema.WIDTH][row]
    height, width = fitted(int(sides[0]), int(sides[1]), side)
    pixels = batch[schema.IMAGE][row][:, :height, :width].transpose(1, 2, 0)
    encoded: bytes = simplejpeg.encode_jpeg(
        np.ascontiguousarray(pixels), QUALITY, colorsubsampling="420"
    )
    return encoded


def file_uri(folder: str, number: int) -> str:
    """Return the URI of one file."""
    return uris.join(folder, f"{number:06d}.js")


def read(folder: str, number: int) -> list[bytes]:
    """Read the pictures of one file; empty for those that could not be read."""
    _, pictures = script_files.read(file_uri(folder, number), FUNCTION)
    return [base64.b64decode(one) for one in pictures]
