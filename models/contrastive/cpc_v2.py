"""CPC v2 (Henaff 2019, arXiv:1905.09272).

CPC with what made it scale: a larger encoder with layer norm, larger patches, predictions from four
directions (each row from above and from below, each column from the left and from the right, by
networks of their own), targets in few features, and strong changes of each patch by itself: colours
dropped, mirrored, rotated, sheared and bent.

The task is easy to cheat at: patches of one photograph share lens, palette and noise, which says
nothing of what is in it. Two of three colour channels blanked in most patches take that away;
without it the loss falls further and the features are worse. As in CPC, nothing may mix patches: an
encoder with batch norm is refused, and the layer norm of the networks that read the grid is over
the features of one place.

What ships is the patch encoder with its grid, an image being the mean over its patches; see
`PatchGridEncoder`.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from augment.execution.patches import PatchChanges
from augment.ops import ColorJitter, Greyscale
from augment.recipe import Views
from models.collectives import global_mean
from models.contrastive.cpc import (
    CPC,
    RowContext,
    RowPrediction,
    check_patch_encoder,
    encode_changed,
    global_candidates,
)
from models.encoders.factory import EncoderConfig
from models.encoders.patch_grid import PatchGridEncoder
from models.health import info_nce_bound
from models.method import Batch, Method, MethodConfig, ViewGroups

_GROUP = "global_crops"


class CPCv2Config(MethodConfig):
    """CPC v2's settings; the defaults are for ImageNet."""

    name: Literal["cpc_v2"] = "cpc_v2"
    num_directions: Literal[1, 2, 4] = Field(
        default=4, description="1: from above; 2: from below too; 4: from both sides too"
    )
    num_rows: int = Field(
        default=5, ge=1, description="rows predicted from each row's context, at most"
    )
    skip_rows: int = Field(
        default=1,
        ge=0,
        description="rows next to the context that are not predicted, as they share its pixels",
    )
    context_dim: int = Field(
        default=256, ge=1, description="features inside the layers that read the grid"
    )
    context_layers: int = Field(
        default=5, ge=1, description="layers that read the grid; each sees one row further"
    )
    target_dim: int = Field(
        default=64, ge=2, description="features in which patches are told apart"
    )
    patches: PatchChanges = Field(
        default=PatchChanges(flip=0.5, channel_drop=0.8, warp=0.2),
        description="what happens to each patch by itself",
    )


class CPCv2(Method):
    """A patch encoder, a network and predictions for each direction, and InfoNCE among all patches.

    Raises:
        ValueError: the encoder does not cut images into patches, or has batch norm.
    """

    Config: ClassVar[type[MethodConfig]] = CPCv2Config
    small: ClassVar[MethodConfig] = CPCv2Config(context_dim=16, context_layers=2, target_dim=32)
    view_groups: ClassVar[ViewGroups] = {_GROUP: 1}
    accumulates: ClassVar[bool] = False
    encoder: PatchGridEncoder

    @staticmethod
    def default_views(size: int) -> Views:
        """Make the one crop of appendix A.1: CPC's, with colours changed and seldom removed."""
        jitter = ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)
        changes = {"color_jitter": jitter, "greyscale": Greyscale(p=0.25)}
        crop = CPC.default_views(size).groups[_GROUP]
        return Views(size=size, groups={_GROUP: crop.model_copy(update=changes)})

    def __init__(
        self, config: CPCv2Config, encoder_config: EncoderConfig, views: Views, seed: int
    ) -> None:
        super().__init__(config, encoder_config, views, seed)
        check_patch_encoder(self.encoder, by=f"method.name={config.name}")
        self.patches = config.patches
        self.turns = {1: (0,), 2: (0, 2), 4: (0, 1, 2, 3)}[config.num_directions]
        dim = self.encoder.embed_dim
        grid, _ = self.encoder.grid  # as many columns as rows
        # a constant has no part in the softmax
        self.target = nn.Linear(dim, config.target_dim, bias=False)
        self.contexts = nn.ModuleList(
            RowContext(dim, config.context_dim, config.context_layers, norm=True)
            for _ in self.turns
        )
        self.predictions = nn.ModuleList(
            RowPrediction(dim, config.target_dim, grid, config.skip_rows, config.num_rows)
            for _ in self.turns
        )

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Predict patches from the rows and columns on each side of them.

        Returns:
            loss: InfoNCE, nats; mean over the directions, the predictions of an image and the
                global batch's valid samples. Candidates are all patches of all valid images: N of
                them give log N at chance.
            info_nce_bound: log N - loss, nats.
            embedding: Of the patches' features (B, D), detached; rows of invalid samples included.
        """
        images = batch["views"][_GROUP][0]  # (B, 3, S, S)
        features = encode_changed(
            self.encoder, images, self.patches, batch, self.seed
        )  # (B, R, C, D)
        targets = self.target(features)  # (B, R, C, T)
        candidates, bias = global_candidates(targets, batch["valid"])
        per_direction = []
        for turns, context, prediction in zip(
            self.turns, self.contexts, self.predictions, strict=True
        ):
            # Turned, so that every direction reads downwards; the candidates are a set and need no
            # turning.
            turned, sought = (x.rot90(turns, dims=(1, 2)) for x in (features, targets))
            per_direction.append(prediction(context(turned), sought, candidates, bias))
        loss = global_mean(torch.stack(per_direction).mean(0), batch["valid"])
        return {
            "loss": loss,
            "info_nce_bound": info_nce_bound(loss, (bias == 0).sum()),
            "embedding": self.encoder.pool(features.detach().permute(0, 3, 1, 2)),
        }
