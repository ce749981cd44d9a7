"""Embed a corpus with an artifact and write Parquet; a rerun writes only the parts that are
missing.

The embedding of a video is that of the frame in the middle of each clip.
"""

import json
import math
import sys
from typing import Any, ClassVar, Literal

from pydantic import Field

from jobs.cluster import launch
from jobs.setup import run_artifact
from jobs.setup.bad_samples import BadSamples
from jobs.setup.claims import check_writable, claim, held
from jobs.setup.command_line import InputError, main
from jobs.setup.inputs import load_artifact, manifest_of
from jobs.setup.sections import (
    ORDER,
    TRAINING,
    ClusterConfig,
    JobConfig,
    PerVideoConfig,
    SourceConfig,
)
from jobs.setup.value_range import limits_for, settled, warn_of_flat
from models.artifact import Artifact
from pipelines import schema
from pipelines.corpus.manifest import Manifest
from pipelines.embeddings import embed, sinks
from pipelines.embeddings.features import Features
from pipelines.embeddings.provenance import Provenance, VectorColumn
from pipelines.media.clips import Sampling
from pipelines.storage import uris
from pipelines.storage.lease import Held
from pipelines.stream import ingest, quarantine, shapes
from pipelines.stream.orders import ManifestOrder

RECORD = "export.json"
FORMAT = 2  # of the parts: since 2 they name members of shards and times of frames


class ExportConfig(JobConfig):
    """An export of embeddings."""

    example: ClassVar[str] = "artifact=runs/a/artifact source.uri=photos out=runs/a-embeddings"
    most_used: ClassVar[tuple[str, ...]] = (
        "artifact",
        "source.uri",
        "out",
        "dtype",
        "cluster.num_workers",
        "cluster.use_gpu",
    )
    ignored: ClassVar[tuple[str, ...]] = (*ORDER, *TRAINING)

    artifact: str = Field(min_length=1, description="the encoder: a path or s3:// prefix")
    source: SourceConfig
    out: str = Field(
        min_length=1, description="folder of the Parquet parts; new, or holding the same export"
    )
    dtype: Literal["float32", "float16"] = Field("float32", description="of the vectors")
    part_rows: int = Field(8192, ge=16, description="rows of a Parquet part")
    clip: PerVideoConfig = PerVideoConfig()
    cluster: ClusterConfig = ClusterConfig()


def export(config: ExportConfig) -> dict[str, Any]:
    """Write the embeddings of every sample of a source that are not there yet."""
    out = launch.absolute_out(config.out)
    source = launch.user_uri("source.uri", config.source.uri)
    launch.check_reachable("source.uri", source)
    check_writable("out", out)
    uri = run_artifact.find(launch.user_uri("artifact", config.artifact))
    encoder = load_artifact(uri)
    with (
        held("export", out, "embeddings", "quarantine") as mine,
        launch.session(config.cluster, work="embed", paths=(out, source, uri)) as session,
    ):
        manifest = manifest_of(config.source, uris.join(out, "manifest"), config.clip.per_video)
        _claim(out, config, encoder, manifest)
        there = set(uris.list_names(uris.join(out, "embeddings")))
        wanted = sinks.parts(manifest.num_rows, config.part_rows)
        missing = [part for part in wanted if sinks.part_name(*part) not in there]
        counts = dict.fromkeys(("rows", "quarantined", "retries"), 0)
        if missing:
            with quarantine.compacting(uris.join(out, "quarantine")):
                counts = _write(config, mine, uri, encoder, manifest, missing, session)
    bad = _bad_samples(config, out, manifest.num_rows)
    bad.tell()
    bad.check(final=True)
    return {
        "rows": counts["rows"],
        "parts_written": len(missing),
        "parts_kept": len(wanted) - len(missing),
        "quarantined": counts["quarantined"],
        "reasons": dict(bad.reasons),
        "storage_retries": counts["retries"],
        "artifact_digest": encoder.digest,
        "result": uris.join(out, "embeddings"),
    }


def _claim(out: str, config: ExportConfig, encoder: Artifact, manifest: Manifest) -> None:
    """Take the folder for this export.

    Raises:
        InputError: it holds the embeddings of another artifact, corpus or type, or was begun by a
            version whose parts have fewer columns.
    """
    record = {
        "format": FORMAT,
        "artifact_digest": encoder.digest,
        "source": manifest.source,
        "manifest_version": manifest.version,
        "dtype": config.dtype,
        "part_rows": config.part_rows,
        **config.source.reading(),
    }
    _check_format(out)
    claim("export", out, RECORD, record)


def _check_format(out: str) -> None:
    """Refuse to write on an export whose parts have fewer columns.

    Raises:
        InputError: it was begun by an earlier version.
    """
    place = uris.join(out, RECORD)
    if uris.exists(place) and json.loads(uris.read_bytes(place)).get("format", 1) != FORMAT:
        raise InputError(
            f"out {out} holds an export of an earlier version, whose parts name neither members of"
            " shards nor times of frames: they stay readable, but choose another out to write on"
        )


def _bad_samples(config: ExportConfig, out: str, seen: int) -> BadSamples:
    """Count what the export could not use, of so many samples."""
    folder = uris.join(out, "quarantine")
    bad = BadSamples(config.source.max_bad_fraction, folder)
    bad.add(seen, quarantine.summarise(folder).reasons)
    return bad


def _write(
    config: ExportConfig,
    mine: Held,
    uri: str,
    encoder: Artifact,
    manifest: Manifest,
    missing: list[tuple[int, int]],
    session: launch.Session,
) -> dict[str, int]:
    out = mine.fence.uri
    order = ManifestOrder(manifest)
    limits = limits_for(encoder, settled(config.source, manifest).limits())
    warn_of_flat(manifest, limits)
    bad_samples = uris.join(out, "quarantine")
    block_rows = math.gcd(embed.BLOCK_ROWS, config.part_rows)  # whole blocks make whole parts
    work = ingest.Ingest(
        order=order,
        shape=shapes.Centre(encoder.image_size, times=True),
        block_rows=block_rows,
        limits=limits,
        verify=config.source.verify == "etag",
        quarantine=bad_samples,
        run=encoder.digest[:16],
        sampling=Sampling(per_video=manifest.per_video),
    )
    encoders = embed.Encoders({schema.EMBEDDING: Features(uri)}, session.placed)
    images = ingest.dataset(work, missing)
    embeddings = embed.embed(
        images, encoders, block_rows=block_rows, num_actors=session.num_workers
    )
    half = config.dtype == "float16"
    made = VectorColumn.of(Features(uri, half=half), encoder, (encoder.embed_dim,))
    columns = {schema.EMBEDDING: made}
    sink = sinks.EmbeddingSink(
        uris.join(out, "embeddings"),
        order,
        manifest.num_rows,
        config.part_rows,
        encoder.digest,
        half,
        Provenance(manifest.source, manifest.version, columns),
        mine.fence,
    )
    counts: dict[str, int] = {}
    for counts in sinks.write_embeddings(embeddings, sink):
        mine.check()
        seen = counts["rows"] + counts["quarantined"]
        if counts["quarantined"] > config.source.max_bad_fraction * seen:
            _bad_samples(config, out, seen).check()
    return counts


if __name__ == "__main__":
    sys.exit(main("export", __doc__ or "", lambda values: (ExportConfig, values), export))
