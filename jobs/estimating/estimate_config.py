"""What `jobs.estimate` is told: a pretraining recipe, and how to measure and to price it."""

from typing import Any, ClassVar

from pydantic import Field

from augment.frozen import Frozen
from jobs.training.run_config import PretrainConfig, complete_pretrain, for_method


class MeasureConfig(Frozen):
    """How the rates are found, and which clusters are compared."""

    steps: int = Field(100, ge=5, description="optimiser steps of the run that is measured")
    rates: str | None = Field(
        None,
        description=(
            "YAML or JSON file of rates, as estimate.save writes it: nothing is then trained"
        ),
        examples=["FILE"],
    )
    save: str | None = Field(
        None, description="write the measured rates to this file", examples=["FILE.json"]
    )
    work: str | None = Field(
        None,
        description=(
            "where the measured run lies until it is deleted; null: beside a remote out, else a"
            " temporary folder"
        ),
        examples=["FOLDER"],
    )
    max_hours: float | None = Field(
        None, gt=0, description="clusters that take longer come last, hours"
    )
    spot: bool = Field(False, description="compare by the price of nodes that may be taken away")

    def idle(self) -> dict[str, str]:
        """Return what given rates have no use for."""
        return dict.fromkeys(("steps", "work", "save"), "rates") if self.rates else {}


class EstimateConfig(PretrainConfig):
    """An estimate: a pretraining recipe, which is measured and priced."""

    example: ClassVar[str] = "simclr_small source.uri=photos num_epochs=20 prices=prices.yaml"
    most_used: ClassVar[tuple[str, ...]] = (
        "source.uri",
        "num_epochs",
        "num_steps",
        "global_batch_size",
        "prices",
        "estimate.steps",
        "estimate.save",
        "estimate.rates",
        "estimate.max_hours",
        "cluster.num_workers",
    )

    out: str = Field(
        "", description="where the run would lie; nothing is written there", examples=["FOLDER"]
    )
    prices: str | None = Field(
        None, description="YAML file of nodes and prices; null: no dollars", examples=["FILE.yaml"]
    )
    estimate: MeasureConfig = MeasureConfig()


def complete(values: dict[str, Any]) -> tuple[type[EstimateConfig], dict[str, Any]]:
    """Choose the configuration class of `method.name` and complete the views, as for
    pretraining."""
    _, completed = complete_pretrain(values)
    return for_method(EstimateConfig, completed["method"]["name"]), completed
