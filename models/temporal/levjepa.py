"""LeVJEPA: LeJEPA on clips (2026, arXiv:2608.27395).

One encoder and a projector, no teacher: large and small clips of a video agree on its projection,
and the cloud of projections is held to a standard normal one. Each clip is encoded by a share of
its tokens alone, drawn anew (`encoder.keep_tokens`), which is where it saves its work.

It collapses without the second term, as LeJEPA does; the loss tells, and so does the spread.
"""

from typing import ClassVar, Literal

from models.joint_embedding.lejepa import LeJEPA, LeJEPAConfig
from models.method import Media, MethodConfig


class LeVJEPAConfig(LeJEPAConfig):
    """LeVJEPA's settings: those of LeJEPA."""

    name: Literal["levjepa"] = "levjepa"  # type: ignore[assignment]


class LeVJEPA(LeJEPA):
    """LeJEPA of clips."""

    Config: ClassVar[type[MethodConfig]] = LeVJEPAConfig
    small: ClassVar[MethodConfig] = LeVJEPAConfig(
        num_directions=32, hidden_dim=64, projection_dim=16
    )
    media: ClassVar[Media] = "clip"
