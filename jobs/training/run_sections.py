"""Sections of the configuration of a pretraining run: what is saved, watched and made faster."""

from typing import Literal

from pydantic import Field

from augment.frozen import Frozen


class CheckpointConfig(Frozen):
    """How often to save the state, and how much of it to keep."""

    every_s: float = Field(
        300.0, gt=0, description="seconds between checkpoints, by rank 0's clock"
    )
    keep: int = Field(2, ge=1, description="checkpoints kept; older ones of this run are deleted")
    keep_every_steps: int | None = Field(
        None,
        ge=1,
        description="steps from one checkpoint that stays for good, in series/, to the next",
    )

    def stays(self, step: int) -> bool:
        """Tell whether the checkpoint of a step belongs to the series."""
        return self.keep_every_steps is not None and step % self.keep_every_steps == 0


class TrainConfig(Frozen):
    """What makes steps faster or smaller, and leaves what they compute as it is."""

    compile: Literal["auto"] | bool = Field(
        "auto",
        description=(
            "compile the encoder, which takes a minute and a C++ compiler on the training nodes;"
            " auto: on GPUs, for 1000 steps or more"
        ),
    )
    checkpoint_activations: bool = Field(
        False,
        description=(
            "keep of each block of the encoder its input only, and compute the rest again: less"
            " memory, a third more time"
        ),
    )
    shard: bool = Field(
        False,
        description=(
            "divide parameters, gradients and optimiser states among the workers (FSDP), for"
            " encoders that do not fit a GPU beside them"
        ),
    )
    tf32: Literal["auto"] | bool = Field(
        "auto",
        description=(
            "on GPUs, multiply what is left in float32 with 10 bits of mantissa; auto: unless"
            " precision=float32"
        ),
    )


class HealthConfig(Frozen):
    """How an encoder is watched without labels, and what happens when it stops telling images
    apart."""

    every_steps: int = Field(
        100, ge=1, description="optimiser steps between looks at images of the corpus"
    )
    num_samples: int = Field(
        512,
        ge=8,
        description="images looked at: the first ones of the first epoch; clips of 2048 frames",
    )
    on_collapse: Literal["warn", "stop", "rollback"] = Field(
        "warn",
        description=(
            "rollback: once, to the last healthy checkpoint at half the learning rate; a second"
            " collapse stops"
        ),
    )
    min_spread: float = Field(
        0.2,
        ge=0,
        lt=1,
        description="collapsed below: spread of the projections over samples, 1 when spread evenly",
    )
    min_rankme: float = Field(
        1.5, ge=1, description="collapsed below: effective rank of the embeddings"
    )
    min_variation: float = Field(
        0.005,
        ge=0,
        lt=1,
        description="collapsed below: share of the embeddings' length that tells images apart",
    )
    min_patch_variation: float = Field(
        0.05,
        ge=0,
        lt=1,
        description=(
            "collapsed below, for methods that train patch tokens: share of these that differs"
            " from image to image"
        ),
    )
    grace_steps: int = Field(
        50, ge=0, description="steps before the first that is judged; norms settle in them"
    )


class DebugConfig(Frozen):
    """What helps to find out what happened."""

    log_samples: bool = Field(
        False, description="write which samples each step saw to out/samples/"
    )
    stop_at_step: int | None = Field(
        None, ge=1, description="stop with a checkpoint after this step, as Ctrl-C does"
    )
