"""Patches followed through time (Wang & Gupta 2015, "Unsupervised Learning of Visual
Representations using Videos", arXiv:1505.00687).

In each clip the patch of the first frame in which most moves is followed to the last frame, by
correlation of its pixels. Where it arrives it shows the same thing seen otherwise, and the encoder
must find the two ends of a track more alike than patches of other clips, by a margin. First
negatives are drawn at random; later those count that are most alike (section 4.2).

It collapses where a margin can be kept by nothing, with all embeddings alike the loss stays at the
margin; and it cheats by what a whole clip has in common, its light and its colours, against which
many clips in a batch help little: hard negatives must come from the same places. It learns nothing
from patches that stand still, which are not asked about (`min_motion`), nor where a track is lost
(`min_correlation`).

The paper follows by points and flow and then a correlation filter; here correlation does both.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from augment.masking import MaskKey
from augment.presets import PLAIN_VIEW, plain_views
from augment.recipe import Views
from models.collectives import gather, global_mean
from models.encoders.factory import EncoderConfig
from models.method import Batch, Media, Method, MethodConfig, ViewGroups
from models.temporal.patch_cuts import cut_patches, patch_side
from models.temporal.patch_tracks import follow_patches, liveliest_patches


class TrackingConfig(MethodConfig):
    """Settings of followed patches; the defaults are the paper's, where it gives them."""

    name: Literal["tracking"] = "tracking"
    patch_share: float = Field(
        default=0.5, gt=0, lt=1, description="side of a patch, as a share of the frame's"
    )
    reach: float = Field(
        default=0.1,
        gt=0,
        le=0.5,
        description="how far a patch moves from a frame to the next, as a share of the side",
    )
    min_motion: float = Field(
        default=0.01,
        ge=0,
        lt=1,
        description=(
            "mean change of a pixel of a patch from a frame to the next, RGB in [0, 1], below which"
            " it stands still and is not asked about"
        ),
    )
    min_correlation: float = Field(
        default=0.5, ge=-1, le=1, description="of a patch with the next, below which it is lost"
    )
    margin: float = Field(default=0.5, gt=0, le=2, description="in cosine distance")
    num_negatives: int = Field(default=4, ge=1, description="of other clips, for each patch")
    hard_after: float = Field(
        default=0.4,
        ge=0,
        le=1,
        description="share of the run after which the most alike ones are negatives",
    )
    projection_dim: int = Field(default=128, ge=1, description="features that are compared")


class Tracking(Method):
    """Encoder of patches, a linear projection, and a ranking loss of the two ends of a track.

    Raises:
        ValueError: the encoder does not embed frames one by one, or patches do not fit.
    """

    Config: ClassVar[type[MethodConfig]] = TrackingConfig
    small: ClassVar[MethodConfig] = TrackingConfig(
        projection_dim=16, min_motion=0, min_correlation=-1, hard_after=0
    )
    view_groups: ClassVar[ViewGroups] = {PLAIN_VIEW: 1}
    media: ClassVar[Media] = "clip"
    accumulates: ClassVar[bool] = False

    @staticmethod
    def default_views(size: int) -> Views:
        """Make a single crop and flip, colours untouched."""
        return plain_views(size, (0.4, 1.0))

    def __init__(
        self, config: TrackingConfig, encoder_config: EncoderConfig, views: Views, seed: int
    ) -> None:
        super().__init__(config, encoder_config, views, seed)
        self.encoder.require("frames", by="method.name=tracking")
        self.settings = config
        self.side = patch_side(config.patch_share, views.size)
        self.reach = max(1, round(config.reach * views.size))
        self.projection_head = nn.Linear(self.encoder.embed_dim, config.projection_dim)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Follow a patch of each clip, and tell its ends from patches of other clips.

        Returns:
            loss: max(0, D(first, last) - D(first, other) + margin) with the cosine distance D; mean
                over negatives, over both ends and over the global batch's valid samples whose patch
                moves and is followed. The margin where all patches are alike.
            rank_top1: Fraction of the ends that are nearer to the other end than to any patch of
                another clip.
            followed: Fraction of this worker's samples whose patch moves and is followed.
            embedding: The mean of both ends' embeddings (B, D), detached; rows of invalid samples
                included.

        Raises:
            ValueError: clips have one frame.
        """
        clips = batch["views"][PLAIN_VIEW][0]  # (B, T, 3, S, S)
        if clips.shape[1] < 2:
            raise ValueError("method.name=tracking needs clip.num_frames>=2")
        ends, usable = self.tracked(clips)
        features = self.encoder.frames(ends)  # (B, 2, D)
        z = self.projection_head(features).float()
        asked = batch["valid"] & usable
        with torch.autocast(z.device.type, enabled=False):
            loss, first = self._ranked(functional.normalize(z, dim=-1), asked, batch)
        return {
            "loss": global_mean(loss, asked),
            "rank_top1": global_mean(first, asked),
            "followed": usable.float().mean(),
            "embedding": features.mean(dim=1).detach(),
        }

    @torch.no_grad()
    def tracked(self, clips: Tensor) -> tuple[Tensor, Tensor]:
        """Follow the patch of each clip that moves most.

        Args:
            clips: (B, T, 3, S, S).

        Returns:
            Its first and its last place, (B, 2, 3, p, p); and whether it moves and is followed all
                the way, (B,) bool.
        """
        frames = self.to_rgb(clips.float())
        start, moved = liveliest_patches(frames, self.side)
        track, alike = follow_patches(frames, start, self.side, self.reach)
        usable = (moved >= self.settings.min_motion) & (
            alike.amin(1) >= self.settings.min_correlation
        )
        places = track[:, [0, -1]].flip(-1).float()  # (B, 2, 2) left and top
        boxes = functional.pad(places, (0, 1), value=float(self.side)).unsqueeze(2)
        return cut_patches(clips[:, [0, -1]], boxes, self.side).squeeze(2), usable

    def _ranked(self, z: Tensor, asked: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Compare both ends (B, 2, P) with patches of other clips, those of all workers.

        Returns:
            Each sample's loss (B,); and how many of its ends are nearest to each other, (B,).
        """
        everyone = gather(z).flatten(0, 1)  # (2*W*B, P)
        theirs = gather(batch["sample_id"]).repeat_interleave(2)
        other = (gather(asked.float()) > 0).repeat_interleave(2)
        other = other & (theirs != batch["sample_id"].unsqueeze(1))  # (B, 2*W*B)
        distance = 1 - z @ everyone.T  # (B, 2, 2*W*B)
        positive = 1 - (z[:, 0] * z[:, 1]).sum(-1)  # (B,)
        eligible = other.unsqueeze(1).expand_as(distance)
        count = min(self.settings.num_negatives, distance.shape[2])
        order = torch.where(
            self.progress >= self.settings.hard_after,
            distance.detach(),
            self._drawn(batch).unsqueeze(1).expand_as(distance),
        ).masked_fill(~eligible, torch.inf)
        chosen = order.topk(count, dim=2, largest=False).indices
        taken = eligible.gather(2, chosen).float()
        hinge = (positive.view(-1, 1, 1) - distance.gather(2, chosen) + self.settings.margin).relu()
        loss = (hinge * taken).sum((1, 2)) / taken.sum((1, 2)).clamp(min=1)
        nearest = distance.detach().masked_fill(~eligible, torch.inf).amin(2)
        return loss, (positive.detach().unsqueeze(1) < nearest).float().mean(1)

    def _drawn(self, batch: Batch) -> Tensor:
        """Draw an order of all patches for each sample, (B, 2*W*B), by the samples' names alone."""
        key = MaskKey(self.seed, batch["epoch"], batch["sample_id"])
        return (key.uniform(1, "negatives") + gather(key.uniform(2, "negative")).flatten()) % 1

    @torch.no_grad()
    def show(self, batch: Batch) -> dict[str, Tensor]:
        """Draw both ends of each track."""
        ends, _ = self.tracked(batch["views"][PLAIN_VIEW][0])
        first, last = self.to_rgb(ends.float()).unbind(1)
        return {"first of a track": first, "last of a track": last}
