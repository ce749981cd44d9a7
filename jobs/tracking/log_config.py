"""What a run writes of itself while it trains."""

from pydantic import Field

from augment.frozen import Frozen


class LogConfig(Frozen):
    """What is written while training."""

    every_steps: int = Field(10, ge=1, description="optimiser steps between log lines")
    tensorboard: bool = Field(True, description="also write TensorBoard event files")
    wandb: bool = Field(
        False,
        description=(
            "also log to Weights & Biases, into out/wandb/ unless WANDB_MODE=online; the project is"
            " WANDB_PROJECT's, else afield"
        ),
    )
    mlflow: str | None = Field(
        None,
        description=(
            "also log to this tracking server of MLflow; the experiment is"
            " MLFLOW_EXPERIMENT_NAME's, else afield"
        ),
        examples=["http://HOST:PORT"],
    )
