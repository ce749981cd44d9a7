"""What `jobs.retrain` is told."""

import re
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from augment.frozen import Frozen
from jobs.adaptation.label_sections import LabelledConfig, TestConfig
from jobs.registering.registry_config import CANDIDATE, CHAMPION
from jobs.setup.failures import InputError
from jobs.training.run_config import PretrainConfig, complete_pretrain, for_method
from pipelines.registry.moves import check_alias

_SLOT = re.compile(r"[A-Za-z0-9][\w.+-]*")
# Of another section, and the retraining's own.
OWN = ("registry", "name", "slot", "alias", "labelled", "retrain")


class LabelledSetsConfig(Frozen):
    """Labelled samples that judge the encoders; without them the corpus itself does."""

    train: LabelledConfig
    test: TestConfig = TestConfig()
    probe: Literal["knn", "linear"] = Field("linear", description="of frozen features")


class RetrainingConfig(Frozen):
    """When a retraining is worth it, what it learns from, and when its encoder is taken."""

    dry_run: bool = Field(
        False, description="list the corpus and decide; train, move and embed nothing"
    )
    min_new: int = Field(1, ge=0, description="new samples below which nothing is done")
    min_new_fraction: float = Field(
        0.01, ge=0, le=1, description="share of new samples below which nothing is done"
    )
    max_gone_fraction: float = Field(
        0.5, ge=0, le=1, description="no cycle where more of the samples are gone"
    )
    max_distance: float | None = Field(
        0.5,
        gt=0,
        description=(
            "of new from old samples, by the champion's embeddings (MMD, 0 to 1.4), beyond which a"
            " person must decide; null: none"
        ),
    )
    max_shift: float | None = Field(
        0.25,
        gt=0,
        le=1,
        description=(
            "of the corpus by what is new: share of its samples that would have to change their"
            " cluster, beyond which a person must decide; null: none"
        ),
    )
    num_clusters: int = Field(20, ge=2, description="clusters of old samples for that")
    num_samples: int = Field(
        1024, ge=32, description="of old and of new samples each that are looked at, at most"
    )
    held_out: float = Field(
        0.1, gt=0, lt=1, description="share of the samples that judge the encoders, at most"
    )
    replay_share: float | None = Field(
        0.5,
        ge=0,
        le=1,
        description="share of old samples among those that are trained on; null: all old ones",
    )
    length: float = Field(
        1.0, gt=0, description="of a training that starts from the champion, in the recipe's"
    )
    max_loss: float = Field(
        0.02,
        ge=0,
        le=1,
        description=(
            "of right answers: what the champion may be ahead by, at the interval's end, where the"
            " new encoder has learnt from more of the corpus"
        ),
    )
    max_slice_loss: float = Field(
        0.1, ge=0, le=1, description="of right answers in any one slice, beyond chance"
    )
    max_rank_loss: float = Field(
        0.5, ge=0, le=1, description="share of the champion's effective rank that may be lost"
    )
    min_recognised: float = Field(
        0.1,
        ge=0,
        le=1,
        description="share of held-out samples that are known again when slightly changed",
    )
    export: bool = Field(True, description="embed what is new, or all where the encoder changed")


class RetrainConfig(PretrainConfig):
    """A cycle of retraining: a pretraining recipe, and what is around it."""

    example: ClassVar[str] = (
        "simclr_small registry=s3://bucket/registry name=encoder source.uri=s3://bucket/images"
        " slot=2026-11-29"
    )
    most_used: ClassVar[tuple[str, ...]] = (
        *("registry", "name", "source.uri", "slot", "labelled.train.uri", "labelled.test.uri"),
        *("retrain.dry_run", "method.name", "num_epochs", "num_steps"),
    )
    ignored: ClassVar[tuple[str, ...]] = ("checkpoint.keep_every_steps",)

    registry: str = Field(min_length=1, description="a path or s3:// prefix, of many models")
    name: str = Field(min_length=1, description="of the model", coerce_numbers_to_str=True)
    slot: str = Field(
        min_length=1,
        description="which cycle, as 2026-11-29: the same one again does nothing twice",
        coerce_numbers_to_str=True,
    )
    alias: str = Field(CHAMPION, min_length=1, description="the version in use, which may move")
    out: str | None = Field(
        None,
        min_length=1,
        description="manifest, runs, embeddings and pages; null: retraining/ beside the versions",
    )  # type: ignore[assignment]
    labelled: LabelledSetsConfig | None = None
    retrain: RetrainingConfig = RetrainingConfig()

    @field_validator("slot")
    @classmethod
    def _is_a_file_name(cls, slot: str) -> str:
        if not _SLOT.fullmatch(slot):
            raise ValueError(
                "must be letters, digits, '.', '_', '+' and '-', a letter or digit first, as"
                f" 2026-11-29T0200; got {slot!r}"
            )
        return slot

    @field_validator("alias")
    @classmethod
    def _is_what_the_gate_guards(cls, alias: str) -> str:
        check_alias(alias)
        if alias == CANDIDATE:
            raise ValueError(
                f"alias {alias} moves to every new encoder before the gate has judged it: give"
                f" another, as {CHAMPION}"
            )
        return alias

    def idle(self) -> dict[str, str]:
        """Return what pretraining has no use for; a pull is towards the champion."""
        return {key: other for key, other in super().idle().items() if key != "start.pull"}

    def asked(self) -> dict[str, Any]:
        """Return what makes two cycles of a slot the same."""
        values = self.model_dump(mode="json")
        kept = ("num_steps", "num_epochs", "alias", "labelled")
        own = {name: value for name, value in values["retrain"].items() if name != "dry_run"}
        asked = {name: values[name] for name in kept} | {"source.version": self.source.version}
        return {**self.experiment(), **asked, "retrain": own}


def complete(values: dict[str, Any]) -> tuple[type[RetrainConfig], dict[str, Any]]:
    """Choose the configuration class of `method.name` and complete the views, as for pretraining;
    the schedule is one that a later cycle can go on from.

    Raises:
        InputError: no such method.
    """
    _, completed = complete_pretrain(values)
    optim = completed.get("optim") or {}
    if not isinstance(optim, dict):
        raise InputError(f"optim {optim} must hold keys: did you mean optim.name={optim}")
    completed = {**completed, "optim": {"schedule": "infinite", **optim}}
    return for_method(RetrainConfig, completed["method"]["name"]), completed


def training_of(
    config: RetrainConfig, *, source: str, out: str, weights: str | None, num_steps: int, keep: int
) -> PretrainConfig:
    """Return the pretraining of a cycle.

    Args:
        config: Of the cycle.
        source: What is trained on.
        out: The run's directory.
        weights: What it starts from; None: as the recipe says.
        num_steps: Optimiser steps.
        keep: The step whose checkpoint stays for good; 0: none.
    """
    values = config.model_dump(mode="json", exclude=set(OWN))
    values |= {"out": out, "num_steps": num_steps, "num_epochs": None}
    values["source"] |= {"uri": source, "version": None}
    if weights is not None:
        values["encoder"]["weights"] = weights
    elif values["encoder"]["weights"] is None:
        values["start"] = {}  # there is nothing to be gentle to
    values["checkpoint"]["keep_every_steps"] = keep or None
    kind, completed = complete_pretrain(values)
    return kind.model_validate(completed)
