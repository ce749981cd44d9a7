"""Look once at every frame of the videos of a manifest version, in Ray Data tasks.

A task's videos are written as one file, named by which they are: what lies there already is not
looked at again, after an interruption as for a later version.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import cast

import numpy as np
import pyarrow as pa
import ray.data
import torch

from pipelines import schema
from pipelines.corpus.manifest import Manifest
from pipelines.corpus.manifest_writer import cut_by_bytes
from pipelines.media.contract import BadSample, Limits
from pipelines.media.decoder import PROCESS, kept_decoder
from pipelines.motion import curve_files
from pipelines.motion.curve_files import CHANGES, INDEX, VIDEO, Curves, entries, video_ids
from pipelines.motion.optical_flow import FlowKind
from pipelines.ray_tasks import map_in_tasks, said_to
from pipelines.storage import uris
from pipelines.storage.parquet_files import read_table, write_table
from pipelines.stream import quarantine
from pipelines.stream.payload import payloads
from pipelines.stream.sealed import seal
from pipelines.stream.stage_times import Stopwatch

TASK_VIDEOS = 32
TASK_BYTES = 256 << 20
ROUND_TASKS = 256  # that are known to the driver at a time
RUN = "motion"


@dataclass(frozen=True)
class MotionSurvey:
    """What a task needs to know.

    Attributes:
        manifest: URI of the manifest.
        limits: What a video may cost.
        flow: How motion is looked for as well; None: not at all.
    """

    manifest: str
    limits: Limits
    flow: FlowKind | None = None

    def found(self, manifest: Manifest) -> Iterator[pa.Table]:
        """Look at all videos of a version that were not looked at for an earlier one.

        Yields:
            Rows of schema `INDEX`, as they come; of earlier versions first.
        """
        newest = Curves.newest(manifest.uri, self.flow)
        known = newest.index() if newest else INDEX.empty_table()
        yield known
        items = _items(manifest, set(known[VIDEO].to_pylist()))
        there = set(uris.list_names(curve_files.folder_of(manifest.uri)))
        while some := list(islice(items, ROUND_TASKS)):
            done = [self._name(rows) for rows in some if self._name(rows) in there]
            for name in done:
                uri = uris.join(curve_files.folder_of(manifest.uri), name)
                yield entries(read_table(uri), name)
            if missing := [rows for rows in some if self._name(rows) not in there]:
                yield from self._stream(missing)

    def _stream(self, items: list[pa.Table]) -> Iterator[pa.Table]:
        work = seal(partial(_task, survey=self))
        options = {"batch_size": None, "batch_format": "pyarrow", "num_cpus": 1}
        stream = map_in_tasks(ray.data.from_blocks(items), work, **options)
        total = sum(rows.num_rows for rows in items)
        said_to(stream, "looking at videos", total)
        for batch in stream.iter_batches(batch_size=None, batch_format="pyarrow"):
            yield cast(pa.Table, batch).cast(INDEX)

    def look(self, rows: pa.Table) -> pa.Table:
        """Look at the videos of some rows, a row a video, and write what was found."""
        decoder = kept_decoder(self.limits, PROCESS)
        found: list[dict[str, object]] = []
        bad: list[dict[str, object]] = []
        name = self._name(rows)
        coming = payloads(iter([rows]), self.limits, Stopwatch())
        for row, payload in zip(rows.to_pylist(), coming, strict=True):
            stage = "decode"
            try:
                if isinstance(payload, BadSample):
                    stage = "fetch"
                    raise payload
                found.append(curve_files.row_of(row[VIDEO], decoder.changes(payload, self.flow)))
            except BadSample as problem:
                found.append({VIDEO: row[VIDEO], schema.REASON: problem.reason})
                bad.append(quarantine.bad_row(row, problem, stage=stage, epoch=0, run=RUN))
        table = pa.Table.from_pylist(found, schema=CHANGES)
        folder = curve_files.folder_of(self.manifest)
        quarantine.write(bad_videos(self.manifest), name.removesuffix(".parquet"), bad)
        write_table(uris.join(folder, name), table)
        return entries(table, name)

    def _name(self, rows: pa.Table) -> str:
        """Name a file by the videos in it."""
        ids = rows[VIDEO].to_numpy().tobytes()
        named = hashlib.blake2b(ids, digest_size=8).hexdigest()
        return f"{named}{curve_files.suffix_of(self.flow)}.parquet"


def bad_videos(manifest: str) -> str:
    """Return the folder of the quarantine table of videos that could not be looked at."""
    return uris.join(curve_files.folder_of(manifest), "bad")


def _task(rows: pa.Table, *, survey: MotionSurvey) -> pa.Table:
    torch.set_num_threads(1)  # the parallelism is Ray's: one task a logical CPU
    return survey.look(rows)


def _items(manifest: Manifest, known: set[int]) -> Iterator[pa.Table]:
    """Cut the videos of a version that are not known into tasks, a row a video."""
    known = set(known)
    waiting = list[pa.Table]()
    for part, row_group, num_rows in manifest.row_groups():
        if not num_rows:
            continue
        table = manifest.read_row_group(part, row_group, schema.MANIFEST.names)
        table = table.filter(np.array(table[schema.MEDIA]) == schema.VIDEO)
        ids = video_ids(table)
        new = [index for index, video in enumerate(ids.tolist()) if _is_new(video, known)]
        table = table.append_column(VIDEO, pa.array(ids)).take(pa.array(new, pa.int64()))
        waiting.append(table)
        if sum(rows.num_rows for rows in waiting) >= TASK_VIDEOS:
            *whole, rest = _cut(pa.concat_tables(waiting))
            yield from whole
            waiting = [rest]
    if any(rows.num_rows for rows in waiting):
        yield from _cut(pa.concat_tables(waiting))


def _cut(rows: pa.Table) -> Iterator[pa.Table]:
    for start in range(0, rows.num_rows, TASK_VIDEOS):
        yield from cut_by_bytes(rows.slice(start, TASK_VIDEOS), TASK_BYTES)


def _is_new(video: int, known: set[int]) -> bool:
    """Tell whether a video was not met before, and remember it."""
    if video in known:
        return False
    known.add(video)
    return True
