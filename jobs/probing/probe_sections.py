"""Configuration of a probe of frozen features."""

from typing import Annotated, ClassVar, Literal, NamedTuple

from pydantic import AfterValidator, Field, PositiveInt

from augment.frozen import Frozen
from jobs.adaptation.label_sections import LabelledJobConfig
from jobs.setup.sections import ONE_OR_MORE, TRAINING, ClusterConfig, Decays, PerVideoConfig
from models.encoders.encoder import Pooling
from models.probing.few_labels import share_of


def _settings(values: tuple[str | int, ...]) -> tuple[str | int, ...]:
    for value in values:
        try:
            share_of(value)
        except ValueError:
            raise ValueError("must be shares such as 10% or numbers a class such as 5") from None
    return values


Counts = Annotated[tuple[PositiveInt, ...], *ONE_OR_MORE]
Poolings = Annotated[tuple[Pooling, ...], *ONE_OR_MORE]
LabelCounts = Annotated[
    tuple[int | str, ...],
    *ONE_OR_MORE,
    AfterValidator(_settings),
    Field(examples=["[1%,10%,5]"]),
]


class Setting(NamedTuple):
    """What of an encoder is judged.

    Attributes:
        pooling: How places become one vector.
        blocks: So many layers from the last one on, joined.
    """

    pooling: Pooling
    blocks: int


OWN = Setting("auto", 1)
_PATH = (1e-4, 1e-3, 1e-2, 1e-1)
_FEW_LABEL_DECAY = (1e-1,)
# which keys each probe uses
_USED: dict[str, tuple[str, ...]] = {
    "knn": ("k", "temperature", "patches", "seed"),
    "linear": ("weight_decay", "pooling", "blocks"),
    "few_label": ("labels", "draws", "seed", "weight_decay", "scratch", "scratch_steps"),
    "retrieve": ("gallery", "recall_at"),
}


class ProbeConfig(Frozen):
    """How features are judged."""

    name: Literal["knn", "linear", "few_label", "retrieve"] = Field(
        "knn",
        description=(
            "nearest neighbours vote, for masks too; linear: logistic regression; few_label: that"
            " on few labels; retrieve: what is nearest to each test image"
        ),
    )
    k: Counts = Field(
        (20,), description="knn: neighbours that vote, the best of several on validation"
    )
    temperature: float = Field(
        0.07, gt=0, description="knn: cosine similarities are divided by it; arXiv:1805.01978"
    )
    patches: int = Field(20_000, ge=1, description="knn of masks: labelled patches kept, at most")
    weight_decay: Decays | None = Field(
        None,
        description=(
            "linear, few_label: L2 penalties on the weights, the best on validation; few_label"
            " takes one; null: 1e-4 to 1e-1, and 1e-1"
        ),
    )
    pooling: Poolings = Field(
        ("auto",),
        description="linear: how places become one vector, the best on validation; auto: the"
        " artifact's way",
    )
    blocks: Counts = Field(
        (1,), description="linear: last layers that are joined, the best on validation"
    )
    labels: LabelCounts = Field(
        ("1%", "10%"),
        description="few_label: shares of each class, or numbers a class, as [1%,10%,5]",
    )
    draws: int = Field(5, ge=5, description="few_label: draws of each, the same for all encoders")
    seed: int = Field(0, ge=0, lt=2**31, description="few_label: of the draws; knn: of the patches")
    scratch: bool = Field(
        False, description="few_label: also train from random weights on every draw, in out"
    )
    scratch_steps: int = Field(200, ge=1, description="few_label: optimiser steps of that")
    gallery: Literal["test", "train"] = Field(
        "test", description="retrieve: among which images each test image looks"
    )
    recall_at: Counts = Field((1, 5, 10), description="retrieve: lengths of the answers")

    def idle(self) -> dict[str, str]:
        """Return the keys of the other probes."""
        used = _USED[self.name]
        idle = {name: "name" for name in type(self).model_fields if name not in (*used, "name")}
        if self.name == "few_label" and not self.scratch:
            idle["scratch_steps"] = "scratch"
        return idle

    @property
    def settings(self) -> tuple[Setting, ...]:
        """Return what of the encoder is judged: of linear several, of the others its embedding."""
        if self.name != "linear":
            return (OWN,)
        return tuple(Setting(one, number) for one in self.pooling for number in self.blocks)

    @property
    def decays(self) -> tuple[float, ...]:
        """Return the weight decays."""
        if self.weight_decay is not None:
            return self.weight_decay
        return _PATH if self.name == "linear" else _FEW_LABEL_DECAY


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
        "compare",
        "out",
        "cluster.num_workers",
        "cluster.use_gpu",
    )
    ignored: ClassVar[tuple[str, ...]] = TRAINING

    artifact: str = Field(
        min_length=1,
        description="the encoder: a path or s3:// prefix, or NAME@ALIAS in a registry",
    )
    compare: str | None = Field(
        None, min_length=1, description="another artifact, judged on the same samples beside it"
    )
    every_checkpoint: bool = Field(
        False,
        description="probe every checkpoint of the run that artifact is, beside its RankMe",
    )
    out: str | None = Field(
        None,
        min_length=1,
        description="folder of adaptation.json; every_checkpoint: of its page, null: in the run",
    )
    probe: ProbeConfig = ProbeConfig()
    clip: PerVideoConfig = PerVideoConfig()
    cluster: ClusterConfig = ClusterConfig()

    def idle(self) -> dict[str, str]:
        """Return what a series of checkpoints has no use for."""
        return {"compare": "every_checkpoint"} if self.every_checkpoint else {}
