"""Images with their captions, read for a probe by the rules that training reads them by."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import ray.data

from jobs.adaptation.telling import say, told
from jobs.cluster import launch
from jobs.corpora.paired_source import place_of
from jobs.setup.failures import InputError, as_one_line
from jobs.setup.inputs import manifest_of
from jobs.setup.value_range import limits_for
from jobs.text_probes.text_probe_sections import CaptionedConfig
from models.artifact import Artifact
from pipelines import schema
from pipelines.captions.drawn_captions import read_told
from pipelines.corpus.manifest import Manifest
from pipelines.embeddings import embed
from pipelines.embeddings.features import Features
from pipelines.labels import labelled_stream
from pipelines.labels.labelled_rows import LeftOutNames
from pipelines.labels.labelled_stream import LabelledOrder
from pipelines.media.clips import Sampling
from pipelines.media.contract import BadSample, Limits
from pipelines.stream.ingest import Ingest
from pipelines.stream.stage_times import Stopwatch


@dataclass(frozen=True, eq=False)
class CaptionedSet:
    """Images with captions, N of them.

    Attributes:
        rows: Manifest rows with `schema.ROW`.
        captions: Of each, one or several.
        left_out: What has none.
        per_video: Clips that each video was listed as.
    """

    rows: pa.Table
    captions: tuple[tuple[str, ...], ...]
    left_out: LeftOutNames
    per_video: int

    @property
    def num_rows(self) -> int:
        """Return N."""
        return int(self.rows.num_rows)

    @property
    def owner(self) -> np.ndarray:
        """Return which image each caption is of, (M,) int64."""
        return np.repeat(np.arange(self.num_rows), [len(each) for each in self.captions])

    @property
    def texts(self) -> list[str]:
        """Return all captions, image by image."""
        return [text for each in self.captions for text in each]

    def keep(self, kept: np.ndarray) -> "CaptionedSet":
        """Return some of the images.

        Args:
            kept: (N,) bool.
        """
        rows = self.rows.filter(pa.array(kept)).drop_columns([schema.ROW])
        captions = tuple(one for one, is_kept in zip(self.captions, kept, strict=True) if is_kept)
        return CaptionedSet(_numbered(rows), captions, self.left_out, self.per_video)

    def stream(
        self, columns: Mapping[str, Features], encoders: list[Artifact], session: launch.Session
    ) -> ray.data.Dataset:
        """Stream features of all images, once."""
        frames = encoders[0].num_frames
        work = Ingest(
            order=LabelledOrder(self.rows),
            shape=embed.shape_for([one.image_size for one in encoders], num_frames=frames),
            block_rows=embed.BLOCK_ROWS,
            limits=limits_for(encoders[0], Limits()),
            quarantine=None,
            run="adapt",
            sampling=Sampling.seen_by(encoders[0], self.per_video),
            content=True,
        )
        wanted = embed.Encoders(columns, session.placed)
        return embed.embed(labelled_stream.blocks(work), wanted, num_actors=session.num_workers)


def read_captioned(config: CaptionedConfig, key: str) -> CaptionedSet:
    """List images and read their captions, in this process; say what is left out.

    Args:
        config: Of the set, with absolute places.
        key: What the command line calls it.

    Raises:
        InputError: no image has a caption, or the captions cannot be read.
    """
    with tempfile.TemporaryDirectory(prefix="afield-captioned-") as folder:
        manifest = manifest_of(config.uri, folder)
        rows = pa.concat_tables([_row_group(manifest, *one) for one in manifest.row_groups()])
        place = place_of(config.captions, config.caption_column, manifest, config.split)
        with as_one_line(source_key=f"{key}.captions"):
            found = list(read_told(place, iter([rows]), Limits(), Stopwatch()))
    left_out = LeftOutNames()
    kept = []
    for index, (one, uri) in enumerate(zip(found, rows[schema.URI].to_pylist(), strict=True)):
        if isinstance(one, BadSample):
            left_out.add(one.reason, uri)
        else:
            kept.append(index)
    if not kept:
        first = next((str(one) for one in found if isinstance(one, BadSample)), "")
        raise InputError(f"{key}.captions {config.captions}: no image has a caption ({first})")
    if left_out.counts:
        say(f"{key}.uri: {left_out.counts.total()} left out: {told(left_out)}")
    captions = tuple(found[index] for index in kept)
    texts = tuple(one for one in captions if not isinstance(one, BadSample))
    taken = _numbered(rows.take(pa.array(kept)))
    return CaptionedSet(taken, texts, left_out, max(1, manifest.per_video))


def _row_group(manifest: Manifest, part: int, row_group: int, _: int) -> pa.Table:
    table = manifest.read_row_group(part, row_group)
    return table.select(schema.MANIFEST.names)


def _numbered(rows: pa.Table) -> pa.Table:
    return rows.append_column(schema.ROW, pa.array(np.arange(rows.num_rows)))
