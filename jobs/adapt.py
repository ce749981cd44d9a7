"""Probe a frozen artifact on labelled images or videos, beside the untrained encoder and plain
colour."""

import sys
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import ray.data
import torch
from pydantic import Field
from torch import Tensor

from augment.frozen import Frozen
from jobs.adaptation import judging, labelled_sets, leak_check
from jobs.adaptation.checkpoint_probes import probe_checkpoints
from jobs.adaptation.label_sections import LabelledJobConfig
from jobs.adaptation.trained import adapt_by_training
from jobs.adaptation.training_sections import TrainedAdaptConfig, TrainedProbeConfig
from jobs.cluster import launch
from jobs.setup import run_artifact
from jobs.setup.command_line import InputError, main
from jobs.setup.inputs import load_artifact
from jobs.setup.sections import TRAINING, ClusterConfig, PerVideoConfig
from jobs.setup.value_range import limits_for
from models.artifact import Artifact, Baseline
from models.probes import bootstrap_interval, knn_predict, linear_predict
from pipelines.embeddings import embed
from pipelines.embeddings.features import Features, Kind
from pipelines.labels import labelled_stream
from pipelines.labels.labelled_data import LabelledData
from pipelines.media.clips import Sampling
from pipelines.media.contract import Limits
from pipelines.stream import shapes

COLUMNS: tuple[Kind, ...] = ("pretrained", "untrained", "colour")


class ProbeConfig(Frozen):
    """How features are judged."""

    name: Literal["knn", "linear"] = Field(
        "knn", description="nearest neighbours, or multinomial logistic regression"
    )
    k: int = Field(20, ge=1, description="knn: neighbours that vote")
    temperature: float = Field(
        0.1, gt=0, description="knn: cosine similarities are divided by it; arXiv:1805.01978"
    )
    weight_decay: float = Field(1e-3, ge=0, description="linear: L2 penalty on the weights")

    def idle(self) -> dict[str, str]:
        """Return the keys of the other probe."""
        other = ("k", "temperature") if self.name == "linear" else ("weight_decay",)
        return dict.fromkeys(other, "name")


class AdaptConfig(LabelledJobConfig):
    """A probe of an artifact."""

    example: ClassVar[str] = (
        "artifact=runs/a/artifact train.uri=labelled/train test.uri=labelled/test"
    )
    most_used: ClassVar[tuple[str, ...]] = (
        "artifact",
        "train.uri",
        "test.uri",
        "probe.name",
        "cluster.num_workers",
        "cluster.use_gpu",
    )
    ignored: ClassVar[tuple[str, ...]] = TRAINING

    artifact: str = Field(min_length=1, description="the encoder: a path or s3:// prefix")
    every_checkpoint: bool = Field(
        False,
        description="probe every checkpoint of the run that artifact is, beside its RankMe",
    )
    out: str | None = Field(
        None,
        min_length=1,
        description="every_checkpoint: folder of the page and its figures; null: in the run",
    )
    probe: ProbeConfig = ProbeConfig()
    clip: PerVideoConfig = PerVideoConfig()
    cluster: ClusterConfig = ClusterConfig()

    def idle(self) -> dict[str, str]:
        """Return what the probe of a single artifact has no use for."""
        idle = self.out is not None and not self.every_checkpoint
        return {"out": "every_checkpoint"} if idle else {}


@dataclass(frozen=True)
class Labelled:
    """Embedded labelled images.

    Attributes:
        features: Kind of feature to (N, D) float32.
        data: The samples.
        digest: The artifact's.
        leaked: (N,) bool, which samples the pretraining corpus has too; None: not looked for.
        baseline: What the encoder was before training, for people.
    """

    features: dict[str, Tensor]
    data: LabelledData
    digest: str
    baseline: Baseline
    leaked: np.ndarray | None = None


def adapt(config: AdaptConfig) -> dict[str, Any]:
    """Embed the labelled images and judge each kind of features; of every checkpoint if asked."""
    if not config.every_checkpoint:
        return judge(config.probe, embed_labelled(config))

    def of(artifact: str) -> dict[str, Any]:
        return adapt(config.model_copy(update={"artifact": artifact, "every_checkpoint": False}))

    return probe_checkpoints(config.artifact, config.out, config.cluster, of)


def embed_labelled(config: AdaptConfig) -> Labelled:
    """Embed both sets in one pass, with all kinds of features.

    Raises:
        InputError: a set is missing or empty, their classes do not fit, the test images are those
            of training, or there is no artifact.
    """
    config = labelled_sets.with_absolute_places(config)
    uri = run_artifact.find(launch.user_uri("artifact", config.artifact))
    labelled_sets.check_places(config)
    paths = (uri, *labelled_sets.places(config).values())
    encoder = load_artifact(uri)
    corpus = leak_check.corpus_of(encoder, uri, config.leak) if config.check_leak else None
    with launch.session(config.cluster, work="embed", paths=paths) as session:
        data = labelled_sets.read_sets(config)
        check_task(data)
        leaks = None
        if corpus:
            leaks = leak_check.find_leaks(data, encoder, corpus, config.leak)
        encoders = embed.Encoders({kind: Features(uri, kind) for kind in COLUMNS}, session.placed)
        stream = _embedded(data, encoders, encoder, config.clip.per_video or 1, session.num_workers)
        found = judging.read(stream, COLUMNS, data, config)
    data = found.data
    if leaks:
        data = data.with_account({"leak": leaks.account})
    return Labelled(
        features={name: torch.from_numpy(values) for name, values in found.values.items()},
        data=data,
        digest=encoder.digest,
        leaked=leaks.leaked[found.kept] if leaks else None,
        baseline=encoder.baseline,
    )


def _embedded(
    data: LabelledData,
    encoders: embed.Encoders,
    encoder: Artifact,
    per_video: int,
    num_actors: int,
) -> ray.data.Dataset:
    """Stream features of every kind, for all clips of all samples."""
    work = labelled_stream.work_of(
        data,
        shapes.Centre(encoder.image_size),
        limits_for(encoder, Limits()),
        run="adapt",
        block_rows=embed.BLOCK_ROWS,
        sampling=Sampling(per_video=per_video),
        content=True,
    )
    return embed.embed(labelled_stream.blocks(work), encoders, num_actors=num_actors)


def judge(probe: ProbeConfig, labelled: Labelled) -> dict[str, Any]:
    """Fit a probe on the training images and score it on the test images, for each kind of
    features.

    Raises:
        InputError: no readable image in a set, or fewer training images than neighbours.
    """
    data = labelled.data
    train = torch.from_numpy(data.learns)
    test = torch.from_numpy(data.of("test"))
    labels = torch.from_numpy(data.labels)
    num_train = int(train.sum())
    num_test = int(test.sum())
    if not num_train or not num_test:
        raise InputError(
            f"{num_train} training and {num_test} test images can be read: a probe needs both"
        )
    if probe.name == "knn" and probe.k > num_train:
        raise InputError(
            f"probe.k {probe.k} is more than the {num_train} training images: take a smaller one"
        )
    result: dict[str, Any] = {"probe": probe.name}
    lines = []
    for name, prefix in (("pretrained", ""), ("untrained", "untrained_"), ("colour", "colour_")):
        x = labelled.features[name]
        predicted = _predict(probe, x[train], labels[train], x[test], data.num_classes)
        correct = (predicted == labels[test]).numpy()
        low, high = bootstrap_interval(correct)
        result |= {f"{prefix}top1": float(correct.mean()), f"{prefix}ci95": [low, high]}
        if labelled.leaked is not None:
            result |= _without_leaks(prefix, correct, labelled.leaked[data.of("test")])
        shown = labelled.baseline if name == "untrained" else name
        lines.append(f"{shown} {correct.mean():.1%} [{low:.1%}, {high:.1%}]")
    line = f"{probe.name} top-1 of {data.account['num_classes']} classes: {', '.join(lines)}"
    counts = {"num_train": num_train, "num_test": num_test, "artifact_digest": labelled.digest}
    result["baseline"] = labelled.baseline
    return result | counts | data.account | {"result": line}


def _without_leaks(prefix: str, correct: np.ndarray, leaked: np.ndarray) -> dict[str, Any]:
    """Score the test images that are not in the pretraining corpus; null where all are."""
    rest = correct[~leaked]
    if not len(rest):
        return {f"{prefix}unleaked_top1": None, f"{prefix}unleaked_ci95": None}
    interval = list(bootstrap_interval(rest))
    return {f"{prefix}unleaked_top1": float(rest.mean()), f"{prefix}unleaked_ci95": interval}


def check_task(data: LabelledData) -> None:
    """Refuse what knn and linear cannot judge.

    Raises:
        InputError: the labels are not one class a sample.
    """
    given = {
        "classes": "samples of train.uri have several labels: give one label each",
        "mask": "masks are given: leave out masks.uri and columns.mask",
        "boxes": "boxes are given: leave out boxes.uri",
    }
    if data.task in given:
        raise InputError(
            f"probe.name knn and linear judge one class a sample, and {given[data.task]}"
        )


def _predict(
    probe: ProbeConfig, train_x: Tensor, train_y: Tensor, test_x: Tensor, num_classes: int
) -> Tensor:
    if probe.name == "linear":
        return linear_predict(
            train_x, train_y, test_x, num_classes=num_classes, weight_decay=probe.weight_decay
        )
    return knn_predict(
        train_x, train_y, test_x, k=probe.k, temperature=probe.temperature, num_classes=num_classes
    )


def complete(
    values: dict[str, Any],
) -> tuple[type[AdaptConfig] | type[TrainedAdaptConfig], dict[str, Any]]:
    """Choose the configuration class by `probe.name`."""
    probe = values.get("probe") or {}
    name = probe.get("name") if isinstance(probe, dict) else None
    trained = name in get_args(TrainedProbeConfig.model_fields["name"].annotation)
    return (TrainedAdaptConfig if trained else AdaptConfig), values


def run(config: AdaptConfig | TrainedAdaptConfig) -> dict[str, Any]:
    """Judge frozen features, or train."""
    if isinstance(config, TrainedAdaptConfig):
        return adapt_by_training(config)
    return adapt(config)


if __name__ == "__main__":
    sys.exit(main("adapt", __doc__ or "", complete, run))
