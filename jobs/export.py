"""Embed a corpus with artifacts and write Parquet or Lance; a rerun writes only the parts that are
missing.

Onto a newer version of the manifest, only new samples are embedded, and the rows of those that are
gone are dropped. The embedding of a video is that of the frame in the middle of each clip.
"""

import json
import math
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import zip_longest
from typing import Any

import torch

from jobs.cluster import launch
from jobs.exporting import progress, remarks
from jobs.exporting.export_sections import ExportConfig
from jobs.setup import run_artifact
from jobs.setup.bad_samples import BadSamples
from jobs.setup.claims import check_writable, claim, held, recorded
from jobs.setup.command_line import main
from jobs.setup.failures import InputError
from jobs.setup.inputs import load_artifact, manifest_of
from jobs.setup.persistence import persist
from jobs.setup.value_range import limits_for, settled, warn_of_flat
from models.artifact import Artifact
from pipelines import schema
from pipelines.corpus.file_kinds import medium_of
from pipelines.corpus.manifest import Manifest
from pipelines.embeddings import embed, sinks, upkeep
from pipelines.embeddings.features import Extractor, Features
from pipelines.embeddings.part_files import FRAGMENTS, PartFiles, part_files
from pipelines.embeddings.parts import LiveRows, Range
from pipelines.embeddings.provenance import Provenance, VectorColumn
from pipelines.embeddings.stored import FOLDER, RECORD
from pipelines.media.clips import Sampling
from pipelines.media.contract import Limits
from pipelines.packing.carried import Carried
from pipelines.samples.of_views import seen_by
from pipelines.storage import uris
from pipelines.storage.lease import Held
from pipelines.stream import ingest, quarantine
from pipelines.stream.orders import ManifestOrder, Order

FORMAT = 3  # since 3 a part is named by stored rows of the manifest, and newer versions join
PART_BYTES = 256 << 20  # of vectors in a part, all of which one task holds


@dataclass(frozen=True)
class Encoded:
    """What is taken of each sample.

    Attributes:
        columns: Column to features.
        artifacts: Column to its artifact, loaded.
        made: Column to what files say of it.
    """

    columns: dict[str, Features]
    artifacts: dict[str, Artifact]
    made: dict[str, VectorColumn]

    @property
    def first(self) -> Artifact:
        """Return the first artifact."""
        return next(iter(self.artifacts.values()))

    @property
    def row_bytes(self) -> int:
        """Return the bytes of the vectors of a sample as they are computed."""
        return sum(4 * math.prod(column.shape) for column in self.made.values())


def export(config: ExportConfig) -> dict[str, Any]:
    """Write the embeddings of every sample of a source that are not there yet."""
    out = launch.absolute_out(config.out)
    source = launch.user_uri("source.uri", config.source.uri)
    launch.check_reachable("source.uri", source)
    check_writable("out", out)
    found = places(config, out)
    encoded = _encoded(config, found)
    try:
        files = part_files(out, config.format)
    except ValueError as error:
        raise InputError(str(error)) from None
    with (
        held("export", out, FOLDER, FRAGMENTS, "quarantine") as mine,
        launch.session(config.cluster, work="embed", paths=(out, source, *found)) as session,
    ):
        medium = medium_of(encoded.first.encoder.media)
        listing = uris.join(out, "manifest")
        manifest = manifest_of(config.source, listing, config.clip.per_video, medium)
        frames = config.clip.num_frames if config.clip.each_frame else 1
        part_rows = max(16, min(config.part_rows, PART_BYTES // (encoded.row_bytes * frames)))
        job = _Job(config, mine, encoded, manifest, files, part_rows, session)
        return job.run()


def places(config: ExportConfig, out: str) -> list[str]:
    """Find the artifacts, those that the export was begun with where aliases have moved since."""
    began = recorded(out, RECORD)
    digests = began if isinstance(began, list) else [began]
    given = [launch.user_uri("artifact", uri) for uri in config.artifact]
    pairs = zip_longest(given, digests[: len(given)])
    return [run_artifact.find(uri, began=digest) for uri, digest in pairs]


def _frames_of(config: ExportConfig, artifacts: Iterable[Artifact]) -> tuple[int, ...]:
    """Return the shape of a sample before that of an image: (T,) of encoders of clips.

    Raises:
        InputError: encoders take other clips, or those that take clips are told of which frames.
    """
    artifacts = list(artifacts)
    media = {artifact.encoder.media for artifact in artifacts}
    if "audio" in media:
        if len({artifact.prepared for artifact in artifacts}) > 1:
            raise InputError(
                "artifact: they hear other windows of a sound: export them one by one, each to its"
                " own out"
            )
        return ()
    taken = {Sampling.seen_by(artifact) for artifact in artifacts}
    if len(taken) > 1:
        raise InputError(
            "artifact: they see other frames of a video: export them one by one, each to its own"
            " out"
        )
    (sampling,) = taken
    if sampling.as_frames:
        return ()
    if config.clip.num_frames > 1:
        raise InputError(
            f"clip.num_frames {config.clip.num_frames}: the artifact sees clips of"
            f" {sampling.num_frames} frames, leave it out"
        )
    return (sampling.num_frames,)


def _encoded(config: ExportConfig, places: list[str]) -> Encoded:
    """Load the artifacts, and try the features on a blank image.

    Raises:
        InputError: an artifact cannot be loaded, or does not give what is asked for.
    """
    columns = config.columns(places)
    artifacts = {name: load_artifact(features.artifact) for name, features in columns.items()}
    frames = _frames_of(config, artifacts.values())
    try:
        extract = Extractor(
            columns, loaded={one.artifact: artifacts[name] for name, one in columns.items()}
        )
        sizes = extract.sizes
        blank = {size: _blank(next(iter(artifacts.values())), frames, size) for size in sizes}
        found = extract(blank)
    except ValueError as error:
        raise InputError(str(error)) from None
    half = config.dtype == "float16"
    made = {
        name: VectorColumn.of(
            replace(features, half=half),
            artifacts[name],
            tuple(found[name].shape[1:]),
            _taken(config, artifacts[name]),
            each_frame=config.clip.each_frame,
        )
        for name, features in columns.items()
    }
    return Encoded(columns, artifacts, made)


def _taken(config: ExportConfig, artifact: Artifact, per_video: int = 1) -> Sampling | None:
    """Return what is taken of videos, which encoders of clips choose themselves; None of others."""
    if seen_by(artifact) is not None:
        return None
    if artifact.num_frames is not None:
        return Sampling.seen_by(artifact, per_video)
    return config.clip.sampling(per_video)


def _blank(artifact: Artifact, frames: tuple[int, ...], size: int) -> torch.Tensor:
    """Return a batch of one sample in which there is nothing."""
    if (numbers := seen_by(artifact)) is not None:
        return torch.from_numpy(numbers[1].empty(1)[schema.IMAGE]).zero_()
    return torch.zeros(1, *frames, 3, size, size, dtype=torch.uint8)


@dataclass(frozen=True)
class _Job:
    config: ExportConfig
    mine: Held
    encoded: Encoded
    manifest: Manifest
    files: PartFiles
    part_rows: int
    session: launch.Session

    @property
    def out(self) -> str:
        return self.mine.fence.uri

    def run(self) -> dict[str, Any]:
        self._claim()
        fence = self.mine.fence
        now = progress.begin(self.out, self.manifest, self.files, fence)
        kept = len(self.files.there())
        counts, written = self._write(now)
        gone = 0 if now.is_complete else progress.drop_gone(now, self.files, self.manifest, fence)
        bad = self._bad_samples(self.manifest.num_rows)
        bad.tell()
        bad.check(final=True)
        if written or not now.is_complete:
            self._finish(now)
        remarks.tell_of_carried(self.config.carry, counts)
        remarks.tell_of_longer(self.config.clip, counts)
        digests = [one.digest for one in self.encoded.artifacts.values()]
        return {
            "rows": counts["rows"],
            "samples": counts["samples"],
            "gone": gone,
            "parts_written": written,
            "parts_kept": kept,
            "quarantined": counts["quarantined"],
            "reasons": dict(bad.reasons),
            "carried": {name: counts[sinks.in_column(name)] for name in self.config.carry},
            sinks.CUT: counts[sinks.CUT],
            sinks.LONGEST: counts[sinks.LONGEST],
            "storage_retries": counts["retries"],
            "manifest_version": self.manifest.version,
            "artifact_digest": digests[0],
            "artifact_digests": digests,
            "result": self.files.place,
        }

    def _claim(self) -> None:
        """Take the folder for this export.

        Raises:
            InputError: it holds the embeddings of another artifact, corpus or kind, or was begun
                by an earlier version.
        """
        digests = [one.digest for one in self.encoded.artifacts.values()]
        record = {
            "format": FORMAT,
            "artifact_digest": digests[0] if len(digests) == 1 else digests,
            "source": self.manifest.source,
            "manifest": self.manifest.uri,
            "dtype": self.config.dtype,
            "part_rows": self.part_rows,
            **self.config.made(),
            **self.config.source.reading(),
        }
        _check_format(self.out)
        claim("export", self.out, RECORD, record)

    def _bad_samples(self, seen: int) -> BadSamples:
        folder = uris.join(self.out, "quarantine")
        return BadSamples.of_quarantine(self.config.source.max_bad_fraction, folder, seen)

    def _write(self, now: progress.Progress) -> tuple[Counter[str], int]:
        """Write the parts that are missing; returns what was counted, and how many."""
        begun = len(self.files.there())
        live = LiveRows(self.manifest)
        counts = Counter[str]()
        for rows in now.ranges:
            parts = dict(live.parts(rows, self.part_rows))
            if self._missing(parts):
                added = Counter[str]()
                with quarantine.compacting(uris.join(self.out, "quarantine")):
                    persist(partial(self._missing, parts), partial(self._embed, added))
                sinks.add(counts, added)
        return counts, len(self.files.there()) - begun

    def _missing(self, parts: dict[Range, Range]) -> dict[Range, Range]:
        there = set(self.files.there())
        return {positions: rows for positions, rows in parts.items() if rows not in there}

    def _embed(self, counts: Counter[str], missing: dict[Range, Range]) -> None:
        """Embed parts, by the positions of each and the stored rows that it answers for."""
        work = self._work
        each_frame = self.config.clip.each_frame
        encoders = embed.Encoders(self.encoded.columns, self.session.placed, each_frame)
        stream = embed.embed(
            ingest.dataset(work, list(missing)),
            encoders,
            block_rows=work.block_rows,
            num_actors=self.session.num_workers,
        )
        sink = self._sink(
            work.order, {start: (stop, answers) for (start, stop), answers in missing.items()}
        )
        rows = sum(stop - start for start, stop in missing)
        for added in sinks.write_parts(stream, sink, self.part_rows, "embedding samples", rows):
            sinks.add(counts, added)
            self.mine.check()
            seen = counts["samples"] + counts["quarantined"]
            if counts["quarantined"] > self.config.source.max_bad_fraction * seen:
                self._bad_samples(seen).check()

    def _sink(self, order: Order, parts: dict[int, tuple[int, Range]]) -> sinks.EmbeddingSink:
        made = Provenance(self.manifest.source, self.manifest.version, self.encoded.made)
        fps = self.config.clip.fps if self.config.clip.each_frame else None
        return sinks.EmbeddingSink(
            self.files, order, parts, made, self._carried, fps, self.mine.fence
        )

    @cached_property
    def _work(self) -> ingest.Ingest:
        limits = self._limits()
        warn_of_flat(self.manifest, limits)
        sizes = [one.image_size for one in self.encoded.artifacts.values()]
        numbers = seen_by(self.encoded.first, times=True)
        pictures = embed.shape_for(sizes, times=True, num_frames=self._num_frames)
        shape = numbers[1] if numbers else pictures
        taken = _taken(self.config, self.encoded.first, self.manifest.per_video)
        return ingest.Ingest(
            order=ManifestOrder(self.manifest),
            shape=shape,
            series=numbers[0] if numbers else None,
            block_rows=embed.block_rows(shape, self.part_rows),
            limits=limits,
            verify=self.config.source.verify == "etag",
            quarantine=uris.join(self.out, "quarantine"),
            run=self.encoded.first.digest[:16],
            sampling=taken or ingest.MIDDLE_FRAME,
        )

    @property
    def _num_frames(self) -> int | None:
        """Return the frames of a clip, which encoders of clips choose themselves; None: images."""
        asked = self.config.clip.num_frames
        return self.encoded.first.num_frames or (asked if asked > 1 else None)

    def _limits(self) -> Limits:
        """Say how files are read: alike for all artifacts, as there is one decode.

        Raises:
            InputError: they were trained on deep images that were read differently.
        """
        asked = settled(self.config.source, self.manifest).limits()
        wanted = {name: limits_for(one, asked) for name, one in self.encoded.artifacts.items()}
        first, *others = wanted.values()
        if any(other != first for other in others):
            raise InputError(
                "artifact: they read images of more than 8 bits differently: give"
                " source.value_range and source.bands, or export them one by one"
            )
        return first

    @cached_property
    def _carried(self) -> Carried | None:
        """Return the columns that come along.

        Raises:
            InputError: one of them is nowhere.
        """
        if not self.config.carry:
            return None
        possible = Carried.possible(self.manifest)
        if unknown := [name for name in self.config.carry if name not in possible]:
            raise InputError(f"carry {unknown[0]} is none of {', '.join(possible)}")
        return Carried.of_manifest(self.config.carry, self.manifest)

    def _finish(self, now: progress.Progress) -> None:
        """Check that every sample is there, and say that the export is whole."""
        folder = uris.join(self.out, "quarantine")
        kept = upkeep.Upkeep(
            self.files, self.manifest, self.mine.fence, self.config.clip.each_frame
        )
        upkeep.check(kept, quarantine.sample_ids(folder))
        self.mine.fence.check()
        self.files.finish(self._sink(ManifestOrder(self.manifest), {}).schema)
        now.completed().write(self.out, self.mine.fence)


def _check_format(out: str) -> None:
    """Refuse to write on an export of which the parts are of another kind.

    Raises:
        InputError: it was begun by an earlier version.
    """
    place = uris.join(out, RECORD)
    if uris.exists(place) and json.loads(uris.read_bytes(place)).get("format", 1) != FORMAT:
        raise InputError(
            f"out {out} holds an export of an earlier version, whose files do not say what made"
            " them: they stay readable, but choose another out to write on"
        )


if __name__ == "__main__":
    sys.exit(main("export", __doc__ or "", lambda values: (ExportConfig, values), export))
