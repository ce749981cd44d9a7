"""What a probe makes of one kind of features."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from jobs.adaptation.scoring import Scored
from pipelines.labels.labelled_data import LabelledData


@dataclass(frozen=True, eq=False)
class Answered:
    """What a probe made of one kind of features.

    Attributes:
        scored: Of the test samples.
        about: What was chosen, and by which scores, for a program.
        trained: Values that were learnt.
    """

    scored: Scored
    about: dict[str, Any] = field(default_factory=dict)
    trained: int = 0


def targets_of(data: LabelledData) -> Tensor:
    """Return the class of each sample, (N,) int64, or which classes it has, (N, C) bool."""
    return torch.from_numpy(data.labels if data.task == "class" else data.label_hot)
