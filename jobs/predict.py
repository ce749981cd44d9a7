"""Tell what an adapted artifact makes of a corpus: classes with probabilities, masks or
boxes; a rerun writes only the parts that are missing.

A row a sample, in Parquet; masks as PNG files of the size of their images, and all boxes in one
COCO file as well.
"""

import sys
from collections import Counter
from typing import Any, ClassVar

from pydantic import Field

from jobs.cluster import launch
from jobs.setup import run_artifact
from jobs.setup.bad_samples import BadSamples
from jobs.setup.claims import check_writable, claim, held, recorded
from jobs.setup.command_line import InputError, main
from jobs.setup.inputs import load_artifact, manifest_of
from jobs.setup.persistence import persist
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
from pipelines.corpus.manifest import Manifest, versions
from pipelines.embeddings import embed, sinks
from pipelines.embeddings.parts import part_name
from pipelines.labels.class_folders import root_of_names
from pipelines.media.clips import Sampling
from pipelines.predictions import predictor
from pipelines.predictions.answers import looked_at
from pipelines.predictions.coco_file import write_coco
from pipelines.predictions.prediction_sink import PredictionSink, metadata_of
from pipelines.predictions.told_columns import BoxColumns, ClassColumns, MaskColumns, Told
from pipelines.predictions.whole_videos import WholeVideos
from pipelines.storage import uris
from pipelines.storage.lease import Held
from pipelines.stream import ingest, quarantine

RECORD = "predict.json"
ROWS = "predictions"
MASKS = "masks"
BAD = "quarantine"
COCO = "coco.json"  # of boxes
FORMAT = 1
# by what a head tells: the settings that say how
_SETTINGS = {
    "class": {"top_k", "probabilities"},
    "classes": {"top_k", "probabilities", "threshold"},
    "mask": set[str](),
    "boxes": {"min_score"},
}


class PredictConfig(JobConfig):
    """Predictions for a corpus."""

    example: ClassVar[str] = "artifact=runs/finetuned source.uri=photos out=runs/told"
    most_used: ClassVar[tuple[str, ...]] = (
        "artifact",
        "source.uri",
        "out",
        "top_k",
        "cluster.num_workers",
        "cluster.use_gpu",
    )
    ignored: ClassVar[tuple[str, ...]] = (*ORDER, *TRAINING)

    artifact: str = Field(
        min_length=1,
        description=(
            "of an adaptation: a path or s3:// prefix, or NAME@ALIAS in a registry, with its head"
        ),
    )
    source: SourceConfig
    out: str = Field(
        min_length=1, description="folder of the results; new, or holding the same predictions"
    )
    top_k: int = Field(5, ge=1, description="classes a row, the likeliest first")
    probabilities: bool = Field(False, description="a column of the probabilities of all classes")
    threshold: float = Field(
        0.5, gt=0, lt=1, description="several labels a sample: those of at least this probability"
    )
    min_score: float = Field(
        0.05, ge=0, lt=1, description="boxes: those of a lower score are left out"
    )
    part_rows: int = Field(8192, ge=16, description="rows of a Parquet part")
    clip: PerVideoConfig = PerVideoConfig()
    cluster: ClusterConfig = ClusterConfig()


def predict_source(config: PredictConfig) -> dict[str, Any]:
    """Write what an artifact tells of every sample of a source that is not there yet.

    Raises:
        InputError: the artifact has no head, a place is missing or refused, or `out` holds
            something else.
    """
    out = launch.absolute_out(config.out)
    source = launch.user_uri("source.uri", config.source.uri)
    launch.check_reachable("source.uri", source)
    check_writable("out", out)
    given = launch.user_uri("artifact", config.artifact)
    uri = run_artifact.find(given, began=recorded(out, RECORD))
    adapted = load_artifact(uri)
    told = _told(config, adapted, uri, out)
    with (
        held("predict", out, ROWS, MASKS, BAD) as mine,
        launch.session(config.cluster, work="embed", paths=(out, source, uri)) as session,
    ):
        manifest = manifest_of(config.source, uris.join(out, "manifest"), _listed(config, source))
        order = _order(config, adapted, manifest)
        _claim(out, config, adapted, order)
        missing = _missing(out, order)
        counts = Counter[str]()
        if missing:
            with quarantine.compacting(uris.join(out, BAD)):
                counts = _write(config, mine, uri, adapted, order, told, session)
        if isinstance(told, BoxColumns):
            _write_coco(mine, order, told)
    bad = BadSamples.of_quarantine(
        config.source.max_bad_fraction, uris.join(out, BAD), manifest.num_rows
    )
    bad.tell()
    bad.check(final=True)
    return {
        "rows": counts["rows"],
        "parts_written": len(missing),
        "parts_kept": len(order.parts()) - len(missing),
        "quarantined": counts["quarantined"],
        "reasons": dict(bad.reasons),
        "storage_retries": counts["retries"],
        "artifact_digest": adapted.digest,
        "result": uris.join(out, ROWS),
    }


def _listed(config: PredictConfig, source: str) -> int | None:
    """Say how often a video is listed: once, however many clips of it are looked at; None: as a
    manifest that is given has it."""
    if config.clip.per_video is None or versions(source):
        return None
    return min(config.clip.per_video, 1)


def _told(config: PredictConfig, adapted: Artifact, uri: str, out: str) -> Told:
    """Choose the columns by what the head tells.

    Raises:
        InputError: there is no head, or a setting has no effect on what it tells.
    """
    if adapted.head is None:
        raise InputError(
            f"artifact {uri} has no head: adapt it first, with python -m jobs.adapt artifact={uri}"
            " probe.name=finetune, attentive, segment or detect, and give that one's out"
        )
    head = adapted.head.config
    for name in sorted(config.model_fields_set & set().union(*_SETTINGS.values())):
        if name not in _SETTINGS[head.task]:
            raise InputError(
                f"{name}={getattr(config, name)} has no effect: artifact {uri} tells {head.task}:"
                " leave it out"
            )
    if head.task == "boxes":
        return BoxColumns(head.classes, config.min_score)
    if head.task == "mask":
        folder = uris.join(out, MASKS)
        return MaskColumns(folder, adapted.image_size, len(head.classes), head.values)
    return ClassColumns(
        classes=head.classes,
        several=head.task == "classes",
        top_k=config.top_k,
        threshold=config.threshold,
        every=config.probabilities,
    )


def _order(config: PredictConfig, adapted: Artifact, manifest: Manifest) -> WholeVideos:
    """Say in which order samples are read.

    Raises:
        InputError: a part is too small for a video, or masks of several frames were to be averaged.
    """
    assert adapted.head is not None
    try:
        order = WholeVideos.of(manifest, config.part_rows, config.clip.per_video)
    except ValueError as error:
        raise InputError(str(error)) from None
    if adapted.head.config.task in ("mask", "boxes") and order.per_video > 1:
        raise InputError(
            f"clip.per_video {order.per_video}: masks and boxes of several frames cannot be"
            " averaged: give clip.per_video=1"
        )
    return order


def _name(order: WholeVideos, part: tuple[int, int]) -> str:
    return part_name(order.rows_of(part[0] // order.part_rows))


def _claim(out: str, config: PredictConfig, adapted: Artifact, order: WholeVideos) -> None:
    """Take the folder for these predictions.

    Raises:
        InputError: it holds those of another artifact, corpus or settings.
    """
    record = {
        "format": FORMAT,
        "artifact_digest": adapted.digest,
        "source": order.manifest.source,
        "manifest_version": order.manifest.version,
        "per_video": order.per_video,
        "top_k": config.top_k,
        "probabilities": config.probabilities,
        "threshold": config.threshold,
        "min_score": config.min_score,
        "part_rows": config.part_rows,
        **config.source.reading(),
    }
    claim("prediction", out, RECORD, record)


def _write_coco(mine: Held, order: WholeVideos, told: BoxColumns) -> None:
    """Write all boxes into one file, once every part is there."""
    out = mine.fence.uri
    parts = [uris.join(out, ROWS, _name(order, part)) for part in order.parts()]
    root = root_of_names(order.manifest.source)
    write_coco(uris.join(out, COCO), parts, root, told.classes, mine.fence)


def _missing(out: str, order: WholeVideos) -> list[tuple[int, int]]:
    """List the parts that are not there, by their positions."""
    there = set(uris.list_names(uris.join(out, ROWS)))
    return [part for part in order.parts() if _name(order, part) not in there]


def _write(
    config: PredictConfig,
    mine: Held,
    uri: str,
    adapted: Artifact,
    order: WholeVideos,
    told: Told,
    session: launch.Session,
) -> Counter[str]:
    """Write the parts that are missing; returns what was counted."""
    out = mine.fence.uri
    manifest = order.manifest
    work = _work(config, out, adapted, order)
    sink = PredictionSink(
        out=uris.join(out, ROWS),
        order=order,
        told=told,
        root=root_of_names(manifest.source),
        digest=adapted.digest,
        metadata=metadata_of(manifest.source, manifest.version, _description(adapted, uri)),
        fence=mine.fence,
    )
    counts = Counter[str]()
    most = config.source.max_bad_fraction

    def write(missing: list[tuple[int, int]]) -> None:
        predictions = predictor.predict(
            ingest.dataset(work, missing),
            predictor.Predictor(uri, session.placed),
            block_rows=work.block_rows,
            num_actors=session.num_workers,
        )
        rows = sum(stop - start for start, stop in missing)
        doing = "predicting samples"
        for added in sinks.write_parts(predictions, sink, config.part_rows, doing, rows):
            counts.update(added)
            mine.check()
            seen = counts["rows"] + counts["quarantined"]
            if counts["quarantined"] > most * seen:
                BadSamples.of_quarantine(most, uris.join(out, BAD), seen).check()

    persist(lambda: _missing(out, order), write)
    return counts


def _work(config: PredictConfig, out: str, adapted: Artifact, order: WholeVideos) -> ingest.Ingest:
    limits = limits_for(adapted, settled(config.source, order.manifest).limits())
    warn_of_flat(order.manifest, limits)
    shape = looked_at(adapted)
    return ingest.Ingest(
        order=order,
        shape=shape,
        block_rows=embed.block_rows(shape, config.part_rows),
        limits=limits,
        verify=config.source.verify == "etag",
        quarantine=uris.join(out, BAD),
        run=adapted.digest[:16],
        sampling=Sampling.seen_by(adapted, order.per_video),
    )


def _description(adapted: Artifact, uri: str) -> dict[str, Any]:
    """Say for the parts' metadata what told them."""
    assert adapted.head is not None
    return {
        "artifact": uri,
        "artifact_digest": adapted.digest,
        "task": adapted.head.config.task,
        "classes": list(adapted.head.config.classes),
        "preprocess": adapted.prepared.model_dump(mode="json"),
    }


if __name__ == "__main__":
    sys.exit(main("predict", __doc__ or "", lambda values: (PredictConfig, values), predict_source))
