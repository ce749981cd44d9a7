"""Arrow of time (Wei 2018, "Learning and Using the Arrow of Time", CVPR).

Each clip is shown forwards and backwards, and the encoder must tell which is which: one has to know
how things move and act on each other. Both directions are in the batch, so chance is exactly a
half.

It cannot collapse, but it cheats by whatever else differs through a clip: clips that stand still
are left out, borders are grey, and detail as fine as the traces of compression is taken away; each
is a setting. Motion that looks the same both ways, as of a swing, teaches it nothing.
"""

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from augment.presets import PLAIN_VIEW, plain_views
from augment.recipe import Views
from models.blocks.pretext import classification
from models.encoders.factory import EncoderConfig
from models.method import Batch, Media, Method, MethodConfig, ViewGroups
from models.temporal.guards import MotionGuards, guarded, motion


class ArrowOfTimeConfig(MotionGuards, MethodConfig):
    """Settings of the arrow of time."""

    name: Literal["arrow_of_time"] = "arrow_of_time"


class ArrowOfTime(Method):
    """Encoder of clips, a linear classifier of two directions, and its cross entropy.

    Raises:
        ValueError: the encoder averages frames, and sees no order.
    """

    Config: ClassVar[type[MethodConfig]] = ArrowOfTimeConfig
    small: ClassVar[MethodConfig] = ArrowOfTimeConfig(min_motion=0, margin=0, soften=1)
    view_groups: ClassVar[ViewGroups] = {PLAIN_VIEW: 1}
    media: ClassVar[Media] = "clip"
    accumulates: ClassVar[bool] = True

    @staticmethod
    def default_views(size: int) -> Views:
        """Make a single crop and flip, colours untouched."""
        return plain_views(size, (0.4, 1.0))

    def __init__(
        self, config: ArrowOfTimeConfig, encoder_config: EncoderConfig, views: Views, seed: int
    ) -> None:
        super().__init__(config, encoder_config, views, seed)
        if self.encoder.supports("frames"):
            raise ValueError(
                "encoder.time=frames averages frames and sees no order, which"
                " method.name=arrow_of_time is about: set tubelets, divided or inflated"
            )
        self.guards = config
        self.classifier = nn.Linear(self.encoder.embed_dim, 2)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Tell clips from their reverse.

        Returns:
            loss: Cross entropy, nats, mean over both directions and the global batch's valid
                samples that move; log(2) at chance.
            arrow_top1: Fraction of the directions that are told; 1 / 2 at chance.
            moving: Fraction of this worker's samples that move.
            embedding: The encoder's output for the clip forwards (B, D), detached; rows of invalid
                samples included.
        """
        clips = batch["views"][PLAIN_VIEW][0]  # (B, T, 3, S, S)
        changes = motion(self.to_rgb(clips.float())).mean(dim=1)
        moves = changes >= self.guards.min_motion
        seen = guarded(clips, self.guards)
        both = torch.cat([seen, seen.flip(1)])
        embedding = self.encoder(both)  # (2B, D)
        logits = self.classifier(embedding).unflatten(0, (2, -1)).transpose(0, 1)  # (B, 2, 2)
        label = torch.arange(2, device=clips.device).expand(len(clips), 2)
        loss, top1 = classification(logits, label, batch["valid"] & moves)
        return {
            "loss": loss,
            "arrow_top1": top1,
            "moving": moves.float().mean(),
            "embedding": embedding[: len(clips)].detach(),
        }
