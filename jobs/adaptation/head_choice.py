"""Which of several heads that learnt side by side ships: the best on validation."""

import re
import sys
from typing import Any

import numpy as np

from jobs.adaptation import scoring
from jobs.adaptation.choosing import choose
from jobs.setup import run_artifact
from jobs.training.run_config import PretrainConfig, build
from jobs.training.run_dir import RunDir
from models import artifact
from models.scores import WORDS
from models.supervised.several_heads import HeadSetting
from pipelines.labels.labelled_data import LabelledData

_BESIDE = re.compile(r"average\.|head\.heads\.[1-9]")  # parameters of what does not ship


def has_ended(run: RunDir, step: int) -> bool:
    """Tell whether a run has written its weights of a step, chosen or not."""
    return run.has_artifact_of(step) or run.has_artifact_of(step, run_artifact.HEADS)


def told_by(run: RunDir, step: int) -> str:
    """Return the place of the weights that tell of samples: all heads until one is chosen."""
    chosen = run.has_artifact_of(step)
    return run.path(run_artifact.FOLDER if chosen else run_artifact.HEADS)


def chosen_of(
    settings: tuple[HeadSetting, ...],
    run: RunDir,
    config: PretrainConfig,
    data: LabelledData,
    answers: np.ndarray,
) -> tuple[np.ndarray, dict[str, Any]]:
    """Choose a head by validation where that is still to be done, and write the run's artifact.

    Args:
        settings: By which each head learnt; at most one where there is nothing to choose.
        run: Its directory.
        config: Of the run.
        data: Samples of validation and test.
        answers: What is told of them, in their order; by K heads (N, C * K).

    Returns:
        What the artifact tells of the test samples, and for a program every setting's score and
        the one that was chosen.
    """
    test = data.of("test")
    if len(settings) < 2:
        return answers[test], {}
    if answers.shape[1] == data.num_classes:
        provenance = artifact.load(run.path(run_artifact.FOLDER)).provenance
        return answers[test], {name: provenance[name] for name in ("chosen", "settings")}
    by_head = answers.reshape(len(answers), data.num_classes, len(settings))  # (N, C, K)
    held = data.keep(data.of("val"))
    tried = by_head[data.of("val")]
    scores = [scoring.main_score(held, tried[:, :, number]) for number in range(len(settings))]
    measure = "top1" if data.task == "class" else "map"
    number, about = choose(measure, [one.model_dump() for one in settings], scores)
    own = settings[number]
    print(
        f"chosen of {len(settings)} settings by {held.num_rows} validation samples: lr_scale"
        f" {own.lr_scale:g}, weight_decay {own.weight_decay:g}, {WORDS[measure]}"
        f" {scores[number]:.1%}",
        file=sys.stderr,
    )
    run_artifact.keep_head(run, config, number, {"chosen_head": number, **about})
    return by_head[test][:, :, number], about


def counted(config: PretrainConfig) -> dict[str, int]:
    """Count the values that learn and those that do not, of one head and no running average."""
    named = build(config, start=False).named_parameters()
    parts = [parameter for name, parameter in named if not _BESIDE.match(name)]
    trained = sum(parameter.numel() for parameter in parts if parameter.requires_grad)
    return {"trained": trained, "frozen": sum(one.numel() for one in parts) - trained}
