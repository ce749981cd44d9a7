"""Probe a frozen artifact on labelled images, a folder per class, beside the untrained encoder and plain colour."""

import sys
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import torch
from pydantic import Field
from torch import Tensor

from augment.frozen import Frozen
from jobs.setup import launch
from jobs.setup.command_line import InputError, main
from jobs.setup.failures import as_one_line
from jobs.setup.inputs import load_artifact
from jobs.setup.sections import TRAINING, ClusterConfig, JobConfig
from models.probes import bootstrap_interval, knn_predict, linear_predict
from pipelines import schema
from pipelines.corpus.listed_rows import LEFT_OUT
from pipelines.corpus.listing import list_source
from pipelines.embeddings import embed
from pipelines.media.image import Limits
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
    """

    features: dict[str, Tensor]
    labels: Tensor
    is_test: Tensor
    num_classes: int
    digest: str


def adapt(config: AdaptConfig) -> dict[str, Any]:
    """Embed the labelled images and judge each kind of features."""
    return judge(config.probe, embed_labelled(config))


def embed_labelled(config: AdaptConfig) -> Labelled:
    """Embed both sets in one pass, with all kinds of features.

    Raises:
        InputError: a set is missing or empty, their classes do not fit, or there is no artifact.
    """
    places = {
        name: launch.user_uri(f"{name}.uri", getattr(config, name).uri)
        for name in ("train", "test")
    }
    uri = launch.user_uri("artifact", config.artifact)
    for name, place in places.items():
        launch.check_reachable(f"{name}.uri", place)
    with launch.session(config.cluster, train=False, paths=(uri, *places.values())) as session:
        encoder = load_artifact(uri)
        (train, train_names), (test, test_names) = (
            _list_labelled(f"{key}.uri", uri) for key, uri in places.items()
        )
        classes = sorted(set(train_names))
        if extra := sorted(set(test_names) - set(classes)):
            raise InputError(
                f"test.uri {places['test']} has a class that train.uri has not: {extra[0]}"
            )
        if len(classes) < 2:
            raise InputError(
                f"train.uri {places['train']} has {len(classes)} class folder: a probe needs at least two"
            )
        encoders = embed.Encoders(uri, COLUMNS, session.use_gpu, session.threads_per_worker)
        features, row = _embed(
            pa.concat_tables([train, test]), encoders, encoder.image_size, session.num_workers
        )
    labels = np.array([classes.index(name) for name in train_names + test_names])
    is_test = torch.from_numpy(row >= len(train_names))
    return Labelled(features, torch.from_numpy(labels[row]), is_test, len(classes), encoder.digest)


def _list_labelled(key: str, uri: str) -> tuple[pa.Table, list[str]]:
    """List a labelled set: manifest rows, and the folder that each image lies in."""
    with as_one_line(source_key=key):
        table = pa.concat_tables(list_source(uri))
    table = (
        table.filter(table[LEFT_OUT.name].is_null())
        .select(schema.MANIFEST.names)
        .sort_by([(schema.URI, "ascending"), (schema.OFFSET, "ascending")])
    )
    if not table.num_rows:
        raise InputError(
            f"{key} {uri} holds no images: give a folder with a folder of images per class"
        )
    names = [
        member or path
        for member, path in zip(
            table["member"].to_pylist(), table[schema.URI].to_pylist(), strict=True
        )
    ]
    return table, [name.rpartition("/")[0].rpartition("/")[2] for name in names]


def _embed(
    table: pa.Table, encoders: embed.Encoders, size: int, num_actors: int
) -> tuple[dict[str, Tensor], np.ndarray]:
    """Features of every kind (N, D) of the readable images, and the row (N,) of each in the table."""
    work = ingest.Ingest(
        Listed(table), shapes.Centre(size), embed.BLOCK_ROWS, Limits(), quarantine=None, run="adapt"
    )
    stream = embed.embed(
        ingest.dataset(work, work.items(0, table.num_rows)), encoders, num_actors=num_actors
    )
    batches = list(stream.iter_batches(batch_size=None))
    valid = np.concatenate([batch[schema.VALID] for batch in batches])
    row = np.concatenate([batch[schema.POSITION] for batch in batches])[valid]
    if not valid.all():
        print(
            f"{(~valid).sum()} of {len(valid)} labelled images cannot be read and are left out",
            file=sys.stderr,
        )
    return {
        name: torch.from_numpy(np.concatenate([b[name] for b in batches])[valid])
        for name in COLUMNS
    }, row


def judge(probe: ProbeConfig, labelled: Labelled) -> dict[str, Any]:
    """Fit a probe on the training images and score it on the test images, for each kind of features.

    Raises:
        InputError: no readable image in a set, or fewer training images than neighbours.
    """
    train, test = ~labelled.is_test, labelled.is_test
    num_train, num_test = int(train.sum()), int(test.sum())
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
    counts = {"num_train": num_train, "num_test": num_test, "artifact_digest": labelled.digest}
    return result | counts | {"result": f"{probe.name} top-1: {', '.join(lines)}"}


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
