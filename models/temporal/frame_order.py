"""Order of frames (Misra 2016, arXiv:1603.08561).

Three frames of a clip are shown, in their order or with the middle one taken from before the first
or after the last, and the encoder, the same for each frame, must tell which. A triplet read
backwards is in order as well. Where things move far between the frames the answer is in them;
elsewhere nobody could tell, so the window of most motion is taken, and clips without any are left
out.

It cannot collapse, but it cheats by borders and traces of compression, which are taken away.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from augment.masking import MaskKey
from augment.presets import PLAIN_VIEW, plain_views
from augment.recipe import Views
from models.blocks.pretext import classification
from models.encoders.factory import EncoderConfig
from models.method import Batch, Media, Method, MethodConfig, ViewGroups
from models.temporal.guards import MotionGuards, guarded, motion

_LEAST_FRAMES = 5


class FrameOrderConfig(MotionGuards, MethodConfig):
    """Settings of the order of frames."""

    name: Literal["frame_order"] = "frame_order"
    by_motion: bool = Field(
        default=True,
        description="take the frames where most moves; false: anywhere in the clip",
    )


class FrameOrder(Method):
    """Encoder of frames, a classifier of three of them together, and its cross entropy.

    Raises:
        ValueError: the encoder does not embed frames one by one.
    """

    Config: ClassVar[type[MethodConfig]] = FrameOrderConfig
    small: ClassVar[MethodConfig] = FrameOrderConfig(min_motion=0)
    view_groups: ClassVar[ViewGroups] = {PLAIN_VIEW: 1}
    media: ClassVar[Media] = "clip"
    accumulates: ClassVar[bool] = True

    @staticmethod
    def default_views(size: int) -> Views:
        """Make a single crop and flip, colours untouched."""
        return plain_views(size, (0.4, 1.0))

    def __init__(
        self, config: FrameOrderConfig, encoder_config: EncoderConfig, views: Views, seed: int
    ) -> None:
        super().__init__(config, encoder_config, views, seed)
        self.encoder.require("frames", by="method.name=frame_order")
        self.guards = config
        self.by_motion = config.by_motion
        self.classifier = nn.Linear(3 * self.encoder.embed_dim, 2)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Tell triplets in order from those out of it.

        Of five frames a to e, evenly apart: b, c, d is in order, and b, a, d or b, e, d is not.
        Half of the triplets are read backwards.

        Returns:
            loss: Cross entropy, nats, mean over both triplets and the global batch's valid samples
                that move; log(2) at chance.
            order_top1: Fraction of the triplets that are told; 1 / 2 at chance.
            moving: Fraction of this worker's samples that move.
            embedding: The mean of the encoder's outputs for the five frames (B, D), detached; rows
                of invalid samples included.

        Raises:
            ValueError: clips have fewer than five frames.
        """
        clips = batch["views"][PLAIN_VIEW][0]  # (B, T, 3, S, S)
        if clips.shape[1] < _LEAST_FRAMES:
            raise ValueError(f"method.name=frame_order needs clip.num_frames>={_LEAST_FRAMES}")
        draws = MaskKey(self.seed, batch["epoch"], batch["sample_id"]).uniform(4, "triplets")
        changes = motion(self.to_rgb(clips.float()))  # (B, T - 1)
        five, moved = self._five(changes, draws[:, 0])
        moves = moved >= self.guards.min_motion
        index = five.view(*five.shape, 1, 1, 1).expand(-1, -1, *clips.shape[2:])
        frames = self.encoder.frames(guarded(clips.gather(1, index), self.guards))  # (B, 5, D)
        triplets = self._triplets(draws)  # (B, 2, 3)
        rows = torch.arange(len(clips), device=clips.device).view(-1, 1, 1)
        logits = self.classifier(frames[rows, triplets].flatten(2))  # (B, 2, 2)
        label = torch.arange(2, device=clips.device).expand(len(clips), 2)
        loss, top1 = classification(logits, label, batch["valid"] & moves)
        return {
            "loss": loss,
            "order_top1": top1,
            "moving": moves.float().mean(),
            "embedding": frames.mean(dim=1).detach(),
        }

    def _five(self, changes: Tensor, draw: Tensor) -> tuple[Tensor, Tensor]:
        """Choose five frames of each clip, (B, 5) int64, and tell how much moves between the second
        and the fourth, by frame (B,)."""
        num_frames = changes.shape[1] + 1
        apart = (num_frames - 1) // (_LEAST_FRAMES - 1)
        num_starts = num_frames - (_LEAST_FRAMES - 1) * apart
        within = changes.unfold(1, 2 * apart, 1).mean(dim=2)  # by the window's first frame
        windows = within[:, apart : apart + num_starts]  # from b to d, by a
        start = windows.argmax(dim=1) if self.by_motion else (draw * num_starts).long()
        steps = apart * torch.arange(_LEAST_FRAMES, device=changes.device)
        return start.unsqueeze(1) + steps, windows.gather(1, start.unsqueeze(1)).squeeze(1)

    @staticmethod
    def _triplets(draws: Tensor) -> Tensor:
        """Choose a triplet out of order and one in order of each five, (B, 2, 3) int64."""
        first, middle, last = (torch.full_like(draws[:, 0], x, dtype=torch.long) for x in (1, 2, 3))
        strange = torch.where(draws[:, 1] < 0.5, 0, 4)
        triplets = torch.stack(
            [torch.stack([first, strange, last], 1), torch.stack([first, middle, last], 1)], 1
        )
        backwards = (draws[:, 2:4] < 0.5).unsqueeze(2)
        return torch.where(backwards, triplets.flip(2), triplets)
