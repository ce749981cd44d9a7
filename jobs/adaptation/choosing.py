"""How one of several settings is chosen by validation samples, for every adaptation."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jobs.setup.failures import InputError
from pipelines.labels.labelled_data import LabelledData


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
