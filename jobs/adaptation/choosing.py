"""How one of several settings is chosen by validation samples, for every adaptation."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from jobs.adaptation import scoring
from jobs.setup.failures import InputError
from models.probing.logistic import logistic_path
from pipelines.labels.labelled_data import LabelledData

_DECAYS = (1e-4, 1e-3, 1e-2, 1e-1)


def check_validation(data: LabelledData, key: str) -> None:
    """Refuse to choose among several values without validation samples.

    Raises:
        InputError: there are none.
    """
    if not data.of("val").any():
        raise InputError(
            f"{key} has several values, and there is no validation sample to choose by: give"
            " val.uri, a val.fraction that draws one, or one value"
        )


def choose(
    measure: str, settings: Sequence[Mapping[str, Any]], scores: Sequence[float]
) -> tuple[int, dict[str, Any]]:
    """Choose the setting of the highest validation score, the first of equal ones.

    Args:
        measure: What the scores are, by its key in a result.
        settings: At least one.
        scores: Of each; none where there is one setting alone, which is chosen.

    Returns:
        Its place, and for a program what was chosen and all scores.

    Raises:
        InputError: no score is a number.
    """
    if not scores:
        return 0, {"chosen": dict(settings[0])}
    if np.isnan(scores).all():
        raise InputError(
            "no setting can be judged by the validation samples, which have no sample of any class:"
            " give val.uri or another val.seed"
        )
    chosen = int(np.nanargmax(scores))
    named = [
        {**setting, f"val_{measure}": value}
        for setting, value in zip(settings, scores, strict=True)
    ]
    return chosen, {"chosen": dict(settings[chosen]), "settings": named}


def by_colours(data: LabelledData, colours: np.ndarray) -> scoring.Scored:
    """Tell the classes of the test samples by their colours alone, by logistic regression.

    Args:
        data: Samples of one class or several, (N,).
        colours: Statistics of each one's colours, (N, D). The penalty is the best on validation,
            where that has samples, and else the strongest.
    """
    x = torch.from_numpy(colours)
    targets = torch.from_numpy(data.labels if data.task == "class" else data.label_hot)
    train, val, test = data.of("train"), data.of("val"), data.of("test")
    decay = _DECAYS[-1]
    if train.any() and val.any():
        tried = logistic_path(
            x[train],
            targets[train],
            x[val],
            num_classes=data.num_classes,
            weight_decays=_DECAYS,
        )
        held = data.keep(val)
        scores = [scoring.main_score(held, one.numpy()) for one in tried]
        if not np.isnan(scores).all():
            decay = _DECAYS[int(np.nanargmax(scores))]
    told = logistic_path(
        x[data.learns],
        targets[data.learns],
        x[test],
        num_classes=data.num_classes,
        weight_decays=[decay],
    )[0]
    return scoring.score(data.keep(test), told.numpy())
