"""Features of labelled samples, of one artifact or two, as every probe takes them."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import ray.data
import torch
from torch import Tensor

from jobs.adaptation import judging, labelled_sets, leak_check
from jobs.cluster import launch
from jobs.probing.probe_sections import OWN, AdaptConfig, ProbeConfig, Setting
from jobs.setup import run_artifact
from jobs.setup.failures import InputError
from jobs.setup.inputs import check_comparable, load_artifact
from jobs.setup.value_range import limits_for
from models.artifact import Artifact, Baseline
from pipelines.corpus.file_kinds import medium_of
from pipelines.embeddings import embed
from pipelines.embeddings.features import Features, Kind, check
from pipelines.labels import labelled_stream
from pipelines.labels.labelled_data import LabelledData
from pipelines.media.clips import Sampling
from pipelines.media.contract import Limits
from pipelines.samples.of_views import seen_by

KINDS: tuple[Kind, ...] = ("pretrained", "untrained", "colour")
STILL: Kind = "still"  # of encoders of clips
COMPARED = "compared"


@dataclass(frozen=True)
class Judged:
    """An artifact that is judged.

    Attributes:
        uri: Where it lies.
        digest: Its own.
        parameters: Values of its encoder.
        baseline: What the encoder was before training, for people.
    """

    uri: str
    digest: str
    parameters: int
    baseline: Baseline


@dataclass(frozen=True)
class Labelled:
    """Embedded labelled samples.

    Attributes:
        features: Of each kind, of `STILL` where clips are seen, and of `COMPARED`, by setting:
            (N, D) float32.
        data: The samples.
        content: Hash of each one's bytes, (N,) int64.
        leaked: (N,) bool, which samples the pretraining corpus has too; None: not looked for.
        artifact: What is judged.
        compared: What it is compared with; None: nothing.
    """

    features: dict[str, dict[Setting, Tensor]]
    data: LabelledData
    content: Tensor
    leaked: np.ndarray | None
    artifact: Judged
    compared: Judged | None = None

    @property
    def leaked_test(self) -> np.ndarray | None:
        """Tell which test samples the pretraining corpus has too; None: not looked for."""
        return None if self.leaked is None else self.leaked[self.data.of("test")]

    @property
    def others(self) -> tuple[str, ...]:
        """Return what is judged beside the artifact."""
        return tuple(kind for kind in (*KINDS[1:], STILL, COMPARED) if kind in self.features)


def embed_labelled(config: AdaptConfig) -> Labelled:
    """Embed all sets in one pass, with all kinds of features.

    Raises:
        InputError: a set is missing or empty, their classes do not fit, the test images are those
            of training, there is no artifact, or it gives no such features.
    """
    config = labelled_sets.with_absolute_places(config)
    labelled_sets.check_places(config)
    uri, encoder, other_uri, other = encoders_of(config)
    corpus = leak_check.corpus_asked_for(config, encoder, uri)
    kinds = (*KINDS, STILL) if encoder.encoder.media == "clip" else KINDS
    own: dict[str, str] = dict.fromkeys(kinds, uri)
    columns = _columns(config.probe, own, encoder)
    compared = {}
    if other is not None:
        compared = _columns(config.probe, {COMPARED: other_uri}, other)
    paths = (uri, *([other_uri] if other else []), *labelled_sets.places(config).values())
    with launch.session(config.cluster, work="embed", paths=paths) as session:
        data = labelled_sets.read_sets(config, medium_of(encoder.encoder.media))
        check_task(config.probe, data)
        data, leaks = leak_check.find_leaks(data, encoder, corpus, config.leak)
        runs = passes(columns, encoder, compared, other)
        streams = [
            (stream_of(data, chosen, readers, config.clip.per_video or 1, session), tuple(chosen))
            for chosen, readers in runs
        ]
        found = judging.read_all(streams, data, config)
    data = found.data
    features: dict[str, dict[Setting, Tensor]] = {}
    for name, values in found.values.items():
        kind, setting = _named(name)
        features.setdefault(kind, {})[setting] = torch.from_numpy(values)
    return Labelled(
        features,
        data,
        torch.from_numpy(found.content),
        leaks.leaked[found.kept] if leaks else None,
        judged_of(uri, encoder),
        judged_of(other_uri, other) if other is not None else None,
    )


class Comparing(Protocol):
    """A job that judges an artifact, perhaps beside another one."""

    @property
    def artifact(self) -> str:
        """Return where the artifact lies, as it was given."""

    @property
    def compare(self) -> str | None:
        """Return where the other one lies; None: there is none."""


def encoders_of(
    config: Comparing,
) -> tuple[str, Artifact, str, Artifact | None]:
    """Load the artifact, and the one to compare it with where there is one.

    Raises:
        InputError: one is not there, or both are the same or see different things.
    """
    uri = run_artifact.find(launch.user_uri("artifact", config.artifact))
    encoder = load_artifact(uri)
    if config.compare is None:
        return uri, encoder, "", None
    other_uri = run_artifact.find(launch.user_uri("compare", config.compare), key="compare")
    other = load_artifact(other_uri, key="compare")
    check_comparable(encoder, other, config.artifact, config.compare)
    return uri, encoder, other_uri, other


def judged_of(uri: str, encoder: Artifact) -> Judged:
    """Describe an artifact that is judged."""
    parts = (encoder.encoder, *([] if encoder.text is None else [encoder.text]))
    parameters = sum(one.numel() for part in parts for one in part.parameters())
    return Judged(uri, encoder.digest, parameters, encoder.baseline)


def _columns(probe: ProbeConfig, kinds: dict[str, str], encoder: Artifact) -> dict[str, Features]:
    """Describe the columns of some kinds of features, by name."""
    columns = {}
    for kind, uri in kinds.items():
        of: Kind = "pretrained" if kind == COMPARED else kind  # type: ignore[assignment]
        for setting in probe.settings if kind != "colour" else (OWN,):
            features = Features(uri, of, pooling=setting.pooling, last_blocks=setting.blocks)
            try:
                check(features, encoder.encoder)
            except ValueError as error:
                raise InputError(
                    f"probe.pooling={setting.pooling} with probe.blocks={setting.blocks}: {error}"
                ) from None
            columns[f"{kind} {setting.pooling} {setting.blocks}"] = features
    return columns


def _named(column: str) -> tuple[str, Setting]:
    kind, pooling, blocks = column.split()
    return kind, Setting(pooling, int(blocks))  # type: ignore[arg-type]


def passes(
    columns: dict[str, Features],
    encoder: Artifact,
    compared: dict[str, Features],
    other: Artifact | None,
) -> list[tuple[dict[str, Features], list[Artifact]]]:
    """Take all columns in one pass over the pixels; in two where the artifacts read the values of
    deep images differently, or see other frames of a clip."""
    if other is None:
        return [(columns, [encoder])]
    alike = limits_for(encoder, Limits()) == limits_for(other, Limits())
    if alike and _seen(encoder) == _seen(other):
        return [(columns | compared, [encoder, other])]
    return [(columns, [encoder]), (compared, [other])]


def _seen(encoder: Artifact) -> object:
    """Return what an encoder sees of a file, to be compared."""
    return seen_by(encoder) or Sampling.seen_by(encoder)


def stream_of(
    data: LabelledData,
    columns: dict[str, Features],
    encoders: list[Artifact],
    per_video: int,
    session: launch.Session,
) -> ray.data.Dataset:
    """Stream features for all clips of all samples."""
    numbers = seen_by(encoders[0])
    sizes = [one.image_size for one in encoders]
    work = labelled_stream.work_of(
        data,
        numbers[1] if numbers else embed.shape_for(sizes, num_frames=encoders[0].num_frames),
        limits_for(encoders[0], Limits()),
        run="adapt",
        block_rows=embed.BLOCK_ROWS,
        sampling=Sampling.seen_by(encoders[0], per_video),
        content=True,
        series=numbers[0] if numbers else None,
    )
    wanted = embed.Encoders(columns, session.placed)
    return embed.embed(labelled_stream.blocks(work), wanted, num_actors=session.num_workers)


def check_task(probe: ProbeConfig, data: LabelledData) -> None:
    """Refuse labels that a probe cannot judge by.

    Raises:
        InputError: with what it needs.
    """
    several = "samples of train.uri have several labels: give one label each"
    masks = "masks are given: leave out masks.uri and columns.mask"
    boxes = "boxes are given: leave out boxes.uri"
    refused = {"boxes": boxes}
    if probe.name != "knn":
        refused["mask"] = masks
    if probe.name == "few_label":
        refused["classes"] = several
    if data.task in refused:
        judges = "one class a sample" if probe.name == "few_label" else "classes of samples"
        raise InputError(f"probe.name {probe.name} judges {judges}, and {refused[data.task]}")
