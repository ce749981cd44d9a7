"""Probe a frozen artifact on labelled images, a folder per class, beside the untrained encoder and
plain colour."""

import sys
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import torch
from pydantic import Field
from torch import Tensor

from augment.frozen import Frozen
from jobs.cluster import launch
from jobs.setup import labelled_sets, run_artifact
from jobs.setup.bad_samples import BadSamples, by_reason
from jobs.setup.command_line import InputError, main
from jobs.setup.inputs import load_artifact
from jobs.setup.sections import TRAINING, ClusterConfig, JobConfig
from jobs.setup.value_range import limits_for
from models.artifact import Artifact
from models.probes import bootstrap_interval, knn_predict, linear_predict
from pipelines import schema
from pipelines.embeddings import embed
from pipelines.media.contract import Limits
from pipelines.stream import ingest, shapes
from pipelines.stream.orders import Listed

COLUMNS: dict[str, embed.Kind] = {
    "pretrained": "pretrained",
    "untrained": "untrained",
    "colour": "colour",
}


class LabelledConfig(Frozen):
    """Labelled images."""

    uri: str = Field(
        min_length=1, description="a folder with a folder per class, or tar shards laid out so"
    )


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


class AdaptConfig(JobConfig):
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
    train: LabelledConfig
    test: LabelledConfig
    probe: ProbeConfig = ProbeConfig()
    cluster: ClusterConfig = ClusterConfig()


@dataclass(frozen=True)
class Labelled:
    """Embedded labelled images.

    Attributes:
        features: Kind of feature to (N, D) float32.
        labels: (N,) int64, index of the class.
        is_test: (N,) bool.
        num_classes: Classes of the training images.
        digest: The artifact's.
        account: What was judged and what was left out, for the result.
    """

    features: dict[str, Tensor]
    labels: Tensor
    is_test: Tensor
    num_classes: int
    digest: str
    account: dict[str, Any]


def adapt(config: AdaptConfig) -> dict[str, Any]:
    """Embed the labelled images and judge each kind of features."""
    return judge(config.probe, embed_labelled(config))


def embed_labelled(config: AdaptConfig) -> Labelled:
    """Embed both sets in one pass, with all kinds of features.

    Raises:
        InputError: a set is missing or empty, their classes do not fit, the test images are those
            of training, or there is no artifact.
    """
    train_uri = launch.user_uri("train.uri", config.train.uri)
    test_uri = launch.user_uri("test.uri", config.test.uri)
    uri = run_artifact.find(launch.user_uri("artifact", config.artifact))
    launch.check_reachable("train.uri", train_uri)
    launch.check_reachable("test.uri", test_uri)
    labelled_sets.check_places(train_uri, test_uri)
    paths = (uri, train_uri, test_uri)
    encoder = load_artifact(uri)
    with launch.session(config.cluster, train=False, paths=paths) as session:
        sets = labelled_sets.read_sets(train_uri, test_uri)
        encoders = embed.Encoders(uri, COLUMNS, session.use_gpu, session.threads_per_worker)
        rows = pa.concat_tables([sets.train.rows, sets.test.rows])
        columns = _embed(rows, encoders, encoder, session.num_workers)
    bad = BadSamples(1, None)
    bad.add(rows.num_rows, by_reason(columns[schema.REASON]))
    bad.tell()
    judged = sets.judged(columns[schema.VALID], columns[schema.CONTENT])
    return Labelled(
        features={name: torch.from_numpy(columns[name][judged.rows]) for name in COLUMNS},
        labels=torch.from_numpy(judged.labels[judged.rows]),
        is_test=torch.from_numpy(judged.is_test[judged.rows]),
        num_classes=len(sets.classes),
        digest=encoder.digest,
        account=judged.account,
    )


def _embed(
    table: pa.Table, encoders: embed.Encoders, encoder: Artifact, num_actors: int
) -> dict[str, np.ndarray]:
    """Return features of every kind, and the keys of the rows, for all rows of a table in order."""
    work = ingest.Ingest(
        Listed(table),
        shapes.Centre(encoder.image_size),
        embed.BLOCK_ROWS,
        limits_for(encoder, Limits()),
        quarantine=None,
        run="adapt",
        content=True,
    )
    stream = embed.embed(
        ingest.dataset(work, [(0, table.num_rows)]), encoders, num_actors=num_actors
    )
    batches = list(stream.iter_batches(batch_size=None))
    order = np.argsort(np.concatenate([batch[schema.POSITION] for batch in batches]))
    wanted = (*COLUMNS, schema.VALID, schema.REASON, schema.CONTENT)
    return {name: np.concatenate([batch[name] for batch in batches])[order] for name in wanted}


def judge(probe: ProbeConfig, labelled: Labelled) -> dict[str, Any]:
    """Fit a probe on the training images and score it on the test images, for each kind of
    features.

    Raises:
        InputError: no readable image in a set, or fewer training images than neighbours.
    """
    train = ~labelled.is_test
    test = labelled.is_test
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
        predicted = _predict(probe, x[train], labelled.labels[train], x[test], labelled.num_classes)
        correct = (predicted == labelled.labels[test]).numpy()
        low, high = bootstrap_interval(correct)
        result |= {f"{prefix}top1": float(correct.mean()), f"{prefix}ci95": [low, high]}
        lines.append(f"{name} {correct.mean():.1%} [{low:.1%}, {high:.1%}]")
    line = f"{probe.name} top-1 of {labelled.account['num_classes']} classes: {', '.join(lines)}"
    counts = {"num_train": num_train, "num_test": num_test, "artifact_digest": labelled.digest}
    return result | counts | labelled.account | {"result": line}


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


if __name__ == "__main__":
    sys.exit(main("adapt", __doc__ or "", lambda values: (AdaptConfig, values), adapt))
