"""I-JEPA (Assran 2023, arXiv:2301.08243).

An encoder sees one large block of the image, without four smaller ones; a narrow predictor tells
the tokens of those from it, as a teacher, a moving average of the encoder, gives them for the whole
image. What is predicted are features, so that nothing is spent on texture; and blocks are large, so
that continuing edges does not do.

It collapses: the same tokens for every image are predicted without error. The teacher's slow
weights, and that no gradient reaches it, are all that keeps it from there, and the loss does not
tell: it falls on the way. `patch_variation` does. The teacher is the encoder that ships.

The paper's encoder is a vision transformer, which leaves tokens out. A convolutional network sees
nothing of hidden patches either; see `models.encoders.visible`.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from augment.masking import MaskKey
from augment.multi_block import Blocks, MultiBlock, multi_block, usual_context
from augment.ops import FractionRange, PositiveRange
from augment.presets import PLAIN_VIEW, plain_views
from augment.recipe import Views
from models import health
from models.blocks.ema import cosine_momentum, follow, frozen_copy
from models.blocks.patchify import cover
from models.blocks.token_colours import token_colours
from models.blocks.token_predictor import PredictorSettings, TokenPredictor
from models.collectives import global_mean
from models.encoders.factory import EncoderConfig
from models.method import Batch, Method, MethodConfig, ViewGroups


class IJEPAConfig(PredictorSettings, MethodConfig):
    """I-JEPA's settings; the defaults are the paper's for ViT-H on ImageNet."""

    name: Literal["ijepa"] = "ijepa"
    num_targets: int = Field(default=4, ge=1, description="blocks to predict")
    target_scale: FractionRange = Field(
        default=(0.15, 0.2), description="least and greatest share of the image in a target"
    )
    target_aspect: PositiveRange = Field(
        default=(0.75, 1.5), description="least and greatest height over width of a target"
    )
    context_scale: FractionRange = Field(
        default=(0.85, 1.0),
        description="share of the image in the context, before the targets are taken out",
    )
    momentum: float = Field(
        default=0.996,
        ge=0.0,
        le=1.0,
        description="share of the teacher kept in the first step; rises to 1",
    )
    stop_gradient: bool = Field(
        default=True,
        description="no gradient reaches the targets; false: the student makes them, and collapses",
    )


class IJEPA(Method):
    """A student on the context, a predictor, and a teacher on the whole image.

    Raises:
        ValueError: the encoder cannot leave out hidden patches, or the targets leave no context.
    """

    Config: ClassVar[type[MethodConfig]] = IJEPAConfig
    small: ClassVar[MethodConfig] = IJEPAConfig(
        predictor_dim=16, predictor_depth=1, predictor_heads=2
    )
    view_groups: ClassVar[ViewGroups] = {PLAIN_VIEW: 1}
    accumulates: ClassVar[bool] = True
    trains_patches: ClassVar[bool] = True

    @staticmethod
    def default_views(size: int) -> Views:
        """Make the single crop of the authors' recipe, neither flipped nor recoloured."""
        return plain_views(size, (0.3, 1.0), flip=0.0)

    def __init__(
        self, config: IJEPAConfig, encoder_config: EncoderConfig, views: Views, seed: int
    ) -> None:
        super().__init__(config, encoder_config, views, seed)
        self.encoder.require("places", by="method.name=ijepa")
        self.settings = config
        self.patch_size = self.encoder.patch_size
        self.blocks = MultiBlock(
            self.encoder.grid,
            config.num_targets,
            config.target_scale,
            config.target_aspect,
            config.context_scale,
        )
        self.num_context = usual_context(self.blocks)
        self.student_encoder = self.encoder
        self.encoder = frozen_copy(self.student_encoder)
        self.predictor = TokenPredictor(
            self.encoder.embed_dim,
            self.encoder.grid,
            dim=config.predictor_dim,
            depth=config.predictor_depth,
            num_heads=config.predictor_heads,
        )

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Predict the target blocks' tokens from the context's.

        Returns:
            loss: Smooth absolute error per feature of the layer-normalised target tokens, mean over
                a sample's targets and the valid samples of all workers, scaled so that the average
                over workers is that mean. Predicting zero gives about 0.42.
            patch_variation: `health.patch_variation` of this worker's targets; 0 on collapse.
            embedding: The teacher's, of the whole image (B, D); rows of invalid samples included.
        """
        images = batch["views"][PLAIN_VIEW][0]  # (B, 3, S, S)
        blocks = self._draw(batch)
        context = self.student_encoder.places(images, blocks.context).patches  # (B, K, D)
        predicted = self.predictor(context, blocks.context, blocks.targets)  # (B, M, T, D)
        with torch.no_grad():
            seen = self.encoder.places(images)
        told = seen if self.settings.stop_gradient else self.student_encoder.places(images)
        wanted = functional.layer_norm(told.patches.float(), told.patches.shape[-1:])  # (B, N, D)
        asked = blocks.targets.flatten(1).unsqueeze(-1).expand(-1, -1, wanted.shape[-1])
        target = wanted.gather(1, asked).view_as(predicted)
        error = functional.smooth_l1_loss(predicted.float(), target, reduction="none").mean(-1)
        counted = blocks.counted
        per_sample = (error * counted).sum((1, 2)) / counted.sum((1, 2))  # (B,)
        return {
            "loss": global_mean(per_sample, batch["valid"]),
            "patch_variation": health.patch_variation(told.patches),
            "embedding": self.encoder.pool(seen).detach(),
        }

    @torch.no_grad()
    def show(self, batch: Batch) -> dict[str, Tensor]:
        """Draw what the encoder may see, what is predicted and, once something is learnt, the
        tokens in colours."""
        images = batch["views"][PLAIN_VIEW][0]
        blocks = self._draw(batch)
        rgb = self.to_rgb(images.float())
        shown = {
            "context": cover(rgb, ~blocks.in_context, self.patch_size),
            "targets": cover(rgb, ~blocks.in_target.any(1), self.patch_size),
        }
        if self.progress > 0:
            patches = self.encoder.places(images).patches
            shown["tokens"] = token_colours(patches, self.encoder.grid, self.patch_size)
        return shown

    def _draw(self, batch: Batch) -> Blocks:
        key = MaskKey(self.seed, batch["epoch"], batch["sample_id"])
        return multi_block(self.blocks, self.num_context, key)

    def after_step(self, step: int, num_steps: int) -> None:
        """Move the teacher towards the student."""
        super().after_step(step, num_steps)
        momentum = cosine_momentum(step, num_steps, self.settings.momentum)
        follow(self.encoder, self.student_encoder, momentum)
