"""V-JEPA (Bardes 2024, arXiv:2404.08471; V-JEPA 2 Assran 2025, arXiv:2506.09985).

An encoder sees what two masks leave of a clip, eight short blocks or two long ones hidden at every
instant, and a narrow predictor tells the tokens of all that is hidden, as a teacher, a slow moving
average of the encoder, gives them for the whole clip. What is predicted are features; and what is
hidden is hidden at all times, so that no other frame shows it.

It collapses as I-JEPA does, late in long runs too, while its loss falls: `patch_variation` tells,
and health watches the tokens. The teacher is the encoder that ships.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from augment.masking import MaskKey
from augment.multi_block import MultiBlock, Tubes, tubes, usual_context
from augment.ops import FractionRange, PositiveRange
from augment.presets import PLAIN_VIEW, plain_views
from augment.recipe import Views
from models import health
from models.blocks.ema import follow, frozen_copy
from models.blocks.token_predictor import PredictorSettings, TokenPredictor
from models.collectives import global_mean
from models.encoders.factory import EncoderConfig
from models.method import Batch, Media, Method, MethodConfig, ViewGroups
from models.temporal.film import film

_GREY = 0.5
_ALL = (1.0, 1.0)


class VJEPAConfig(PredictorSettings, MethodConfig):
    """V-JEPA's settings; the defaults are the papers' for ViT-L."""

    name: Literal["vjepa"] = "vjepa"
    short_blocks: int = Field(default=8, ge=1, description="blocks of the first mask")
    short_scale: FractionRange = Field(
        default=(0.15, 0.15), description="least and greatest share of a frame in one of them"
    )
    long_blocks: int = Field(default=2, ge=1, description="blocks of the second mask")
    long_scale: FractionRange = Field(
        default=(0.7, 0.7), description="least and greatest share of a frame in one of them"
    )
    aspect: PositiveRange = Field(
        default=(0.75, 1.5), description="least and greatest height over width of a block"
    )
    momentum: float = Field(
        default=0.99925, ge=0.0, le=1.0, description="share of the teacher kept in every step"
    )
    stop_gradient: bool = Field(
        default=True,
        description="no gradient reaches the targets; false: the student makes them, and collapses",
    )


class VJEPA(Method):
    """A student on what each of two masks leaves, a predictor, and a teacher on the whole clip.

    Raises:
        ValueError: the encoder gives no tokens of tubelets, or the blocks leave no context.
    """

    Config: ClassVar[type[MethodConfig]] = VJEPAConfig
    small: ClassVar[MethodConfig] = VJEPAConfig(
        predictor_dim=16, predictor_depth=1, predictor_heads=2, momentum=0.9
    )
    view_groups: ClassVar[ViewGroups] = {PLAIN_VIEW: 1}
    media: ClassVar[Media] = "clip"
    accumulates: ClassVar[bool] = True
    trains_patches: ClassVar[bool] = True

    @staticmethod
    def default_views(size: int) -> Views:
        """Make the single crop of the authors' recipe, mirrored at random, colours untouched."""
        return plain_views(size, (0.3, 1.0))

    def __init__(
        self, config: VJEPAConfig, encoder_config: EncoderConfig, views: Views, seed: int
    ) -> None:
        super().__init__(config, encoder_config, views, seed)
        self.encoder.require("tokens", by="method.name=vjepa")
        self.settings = config
        grid = self.encoder.grid
        self.masks = [
            MultiBlock(grid, number, scale, config.aspect, _ALL)
            for number, scale in (
                (config.short_blocks, config.short_scale),
                (config.long_blocks, config.long_scale),
            )
        ]
        self.num_context = [usual_context(mask) for mask in self.masks]
        self.student_encoder = self.encoder
        self.encoder = frozen_copy(self.student_encoder)
        self.predictor = TokenPredictor(
            self.encoder.embed_dim,
            grid,
            dim=config.predictor_dim,
            depth=config.predictor_depth,
            num_heads=config.predictor_heads,
        )

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Predict the hidden tokens of both masks; the teacher sees the clip once.

        Returns:
            loss: Absolute error per feature of the layer-normalised tokens, mean over a sample's
                hidden tokens, both masks and the valid samples of all workers, scaled so that the
                average over workers is that mean. Predicting zero gives about 0.8.
            patch_variation: `health.patch_variation` of this worker's targets; 0 on collapse.
            embedding: The teacher's, of the whole clip (B, D); rows of invalid samples included.
        """
        clips = batch["views"][PLAIN_VIEW][0]  # (B, T, 3, S, S)
        with torch.no_grad():
            seen = self.encoder.tokens(clips)
        told = seen if self.settings.stop_gradient else self.student_encoder.tokens(clips)
        wanted = functional.layer_norm(told.patches.float(), told.patches.shape[-1:])  # (B, N, D)
        errors = [self._error(clips, drawn, wanted) for drawn in self._draw(clips, batch)]
        return {
            "loss": global_mean(torch.stack(errors).mean(0), batch["valid"]),
            "patch_variation": health.patch_variation(
                health.of_an_instant(told.patches, self.encoder.num_patches)
            ),
            "embedding": self.encoder.pool(seen).detach(),
        }

    def _error(self, clips: Tensor, drawn: Tubes, wanted: Tensor) -> Tensor:
        """Return the mean error of the tokens that one mask hides, (B,)."""
        times = clips.shape[1] // self.encoder.tubelet
        context = self.student_encoder.tokens(clips, drawn.context).patches  # (B, K, D)
        asked = drawn.asked.unsqueeze(1)
        predicted = self.predictor(context, drawn.context, asked, times=times)[:, 0]  # (B, A, D)
        index = drawn.asked.unsqueeze(-1).expand_as(predicted)
        error = (predicted.float() - wanted.gather(1, index)).abs().mean(-1)  # (B, A)
        per_sample: Tensor = (error * drawn.counted).sum(1) / drawn.counted.sum(1)
        return per_sample

    def _draw(self, clips: Tensor, batch: Batch) -> list[Tubes]:
        times = clips.shape[1] // self.encoder.tubelet
        drawn = []
        for index, (mask, num_context) in enumerate(zip(self.masks, self.num_context, strict=True)):
            key = MaskKey(self.seed, batch["epoch"], batch["sample_id"], index=index)
            drawn.append(tubes(mask, num_context, times, key))
        return drawn

    @torch.no_grad()
    def show(self, batch: Batch) -> dict[str, Tensor]:
        """Draw what each mask leaves of four frames of a clip."""
        clips = batch["views"][PLAIN_VIEW][0]
        rgb = self.to_rgb(clips.float())
        side = self.encoder.patch_size
        shown = {}
        for name, drawn in zip(
            ("short blocks", "long blocks"), self._draw(clips, batch), strict=True
        ):
            places = drawn.in_context.view(-1, 1, 1, *self.encoder.grid)
            pixels = places.repeat_interleave(side, -2).repeat_interleave(side, -1)
            shown[name] = film(torch.where(pixels, rgb, _GREY))
        return shown

    def after_step(self, step: int, num_steps: int) -> None:
        """Move the teacher towards the student."""
        super().after_step(step, num_steps)
        follow(self.encoder, self.student_encoder, self.settings.momentum)
