"""data2vec (Baevski 2022, arXiv:2202.03555), in the form of 2.0 (arXiv:2212.07525).

A student sees a fifth of the patches, left in blocks, and a light convolutional decoder tells what
a teacher, a moving average of it, makes of the hidden ones: not its last layer, but the mean of its
last K, each normalised over the places of an image. Such targets hold low and high features of the
whole image. The teacher is the dear part, so several masks share one pass of it.

It collapses where targets become the same for all places or images. Without a gradient to the
targets, and with a slow teacher, the student has no straight way there; the normalisation keeps
every feature varying over an image. The student ships.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from augment.masking import MaskKey, inverse_block_mask, num_to_hide, visible_tokens
from augment.presets import PLAIN_VIEW, plain_views
from augment.recipe import Views
from models import health
from models.blocks.ema import follow, frozen_copy
from models.blocks.patchify import cover
from models.blocks.positions import sincos_positions
from models.blocks.token_colours import token_colours
from models.collectives import global_mean
from models.encoders.encoder import Encoder, Tokens
from models.encoders.factory import EncoderConfig
from models.method import Batch, Method, MethodConfig, ViewGroups


class Data2VecConfig(MethodConfig):
    """data2vec's settings; the defaults are those of 2.0 for ViT-B on ImageNet."""

    name: Literal["data2vec"] = "data2vec"
    mask_ratio: float = Field(
        default=0.8, gt=0.0, lt=1.0, description="fraction of the patches hidden from the student"
    )
    block: int = Field(default=3, ge=1, description="side of a block left visible, patches")
    num_masks: int = Field(
        default=16, ge=1, description="masks of an image, which share the teacher's pass"
    )
    top_layers: int = Field(
        default=10, ge=1, description="last layers K of the teacher that the targets average"
    )
    normalize: bool = Field(
        default=True,
        description="each feature of each layer over the places of an image, then each target",
    )
    stop_gradient: bool = Field(
        default=True,
        description="no gradient reaches the targets; false: the student makes them, and collapses",
    )
    momentum: float = Field(
        default=0.9998, ge=0.0, le=1.0, description="share of the teacher kept in the first step"
    )
    final_momentum: float = Field(
        default=0.99999, ge=0.0, le=1.0, description="the same after the rise"
    )
    momentum_fraction: float = Field(
        default=0.27, gt=0.0, le=1.0, description="fraction of num_steps in which it rises"
    )
    decoder_dim: int = Field(
        default=768, ge=4, multiple_of=4, description="channels of the decoder"
    )
    decoder_depth: int = Field(default=6, ge=1, description="convolutions of the decoder")
    decoder_groups: int = Field(
        default=16, ge=1, description="groups of a convolution; divides decoder_dim"
    )


class MapPredictor(nn.Module):
    """Convolutions over the grid of tokens, in which one learned token stands for the hidden ones
    (2.0, section 3.2; there it is random noise).

    Args:
        token_dim: Features D of the tokens, and of what is predicted.
        grid: Rows and columns of patches, N of them.
        config: Its size.
    """

    positions: Tensor

    def __init__(self, token_dim: int, grid: tuple[int, int], config: Data2VecConfig) -> None:
        super().__init__()
        dim = config.decoder_dim
        self.grid = grid
        self.embed = nn.Linear(token_dim, dim)
        self.mask_token = nn.Parameter(torch.empty(dim))
        nn.init.trunc_normal_(self.mask_token, std=0.02)
        self.register_buffer("positions", sincos_positions(grid, dim), persistent=False)
        self.layers = nn.ModuleList(
            nn.Conv2d(dim, dim, kernel_size=3, padding=1, groups=config.decoder_groups)
            for _ in range(config.decoder_depth)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(config.decoder_depth))
        self.predict = nn.Linear(dim, token_dim)

    def forward(self, visible: Tensor, keep: Tensor) -> Tensor:
        """Predict all tokens (B, N, D) from those (B, K, D) at `keep` (B, K)."""
        known = self.embed(visible)  # (B, K, dim)
        blank = self.mask_token.to(known.dtype).expand(len(known), len(self.positions), -1)
        tokens = blank.scatter(1, keep.unsqueeze(-1).expand_as(known), known) + self.positions
        for layer, norm in zip(self.layers, self.norms, strict=True):
            maps = tokens.transpose(1, 2).unflatten(2, self.grid)
            tokens = tokens + functional.gelu(norm(layer(maps).flatten(2).transpose(1, 2)))
        predicted: Tensor = self.predict(tokens)
        return predicted


class Data2Vec(Method):
    """A student on what several masks leave visible, and a teacher on the whole image.

    Raises:
        ValueError: the encoder gives no patch tokens, or has fewer layers than are averaged.
    """

    Config: ClassVar[type[MethodConfig]] = Data2VecConfig
    small: ClassVar[MethodConfig] = Data2VecConfig(
        top_layers=2, num_masks=2, decoder_dim=16, decoder_depth=1, decoder_groups=2
    )
    view_groups: ClassVar[ViewGroups] = {PLAIN_VIEW: 1}
    accumulates: ClassVar[bool] = True
    trains_patches: ClassVar[bool] = True

    @staticmethod
    def default_views(size: int) -> Views:
        """Make the single crop and flip of MAE, as 2.0 does."""
        return plain_views(size, (0.2, 1.0))

    def __init__(
        self, config: Data2VecConfig, encoder_config: EncoderConfig, views: Views, seed: int
    ) -> None:
        super().__init__(config, encoder_config, views, seed)
        self.encoder.require("tokens", by="method.name=data2vec")
        self.settings = config
        depth = self.encoder.depth
        if config.top_layers > depth:
            raise ValueError(
                f"method.top_layers must be at most the {depth} layers of"
                f" encoder.name={self.encoder.name}, got {config.top_layers}"
            )
        if config.decoder_dim % config.decoder_groups:
            raise ValueError(
                "method.decoder_dim must be a multiple of"
                f" method.decoder_groups={config.decoder_groups}, got {config.decoder_dim}"
            )
        self.grid = self.encoder.grid
        self.averaged = range(depth - config.top_layers + 1, depth + 1)
        num_patches = self.encoder.num_patches
        self.num_visible = num_patches - num_to_hide(num_patches, config.mask_ratio)
        self.teacher_encoder = frozen_copy(self.encoder)
        self.decoder = MapPredictor(self.encoder.embed_dim, self.grid, config)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Predict the teacher's features of the hidden patches.

        Returns:
            loss: Squared error per feature of the hidden patches, mean over the masks and the valid
                samples of all workers, scaled so that the average over workers is that mean.
                Predicting zero gives about 1 with `normalize`.
            patch_variation: `health.patch_variation` of this worker's targets; 0 on collapse.
            embedding: The student's, of what the first mask leaves visible (B, D), detached; rows
                of invalid samples included.
        """
        config = self.settings
        images = batch["views"][PLAIN_VIEW][0]  # (B, 3, S, S)
        teacher = self.teacher_encoder if config.stop_gradient else self.encoder
        with torch.set_grad_enabled(torch.is_grad_enabled() and not config.stop_gradient):
            target = self._targets(teacher, images)  # (B, N, D)
        masks = self._draw(batch)  # (M, B, N)
        keep = visible_tokens(masks.flatten(0, 1), self.num_visible)  # (M * B, K)
        # Each image once a mask: the patch embedding is done again, and is a hundredth of a pass.
        visible = self.encoder.tokens(images.repeat(len(masks), 1, 1, 1), keep)
        predicted = self.decoder(visible.patches, keep).unflatten(0, masks.shape[:2])
        error = (predicted.float() - target).square().mean(-1)  # (M, B, N)
        per_sample = ((error * masks).sum(2) / masks.sum(2)).mean(0)  # (B,)
        return {
            "loss": global_mean(per_sample, batch["valid"]),
            "patch_variation": health.patch_variation(target.detach()),
            "embedding": self._first(visible, len(images)).detach(),
        }

    def _targets(self, teacher: Encoder, images: Tensor) -> Tensor:
        """Average the last layers' patch tokens (B, N, D), float32."""
        total = torch.zeros((), device=images.device)
        for layer in teacher.layers(images, self.averaged):
            assert isinstance(layer, Tokens)
            patches = layer.patches.float()
            if self.settings.normalize:
                patches = functional.instance_norm(patches.transpose(1, 2)).transpose(1, 2)
            total = total + patches
        mean = total / len(self.averaged)
        return functional.layer_norm(mean, mean.shape[-1:]) if self.settings.normalize else mean

    def _draw(self, batch: Batch) -> Tensor:
        """Draw the masks of each image, (M, B, N) bool."""
        config = self.settings
        masks = [
            inverse_block_mask(
                self.grid,
                config.mask_ratio,
                MaskKey(self.seed, batch["epoch"], batch["sample_id"], index=index),
                block=config.block,
            )
            for index in range(config.num_masks)
        ]
        return torch.stack(masks)

    def _first(self, visible: Tokens, num: int) -> Tensor:
        cls = None if visible.cls is None else visible.cls[:num]
        first = Tokens(cls, visible.registers[:num], visible.patches[:num])
        return self.encoder.pool(first)

    @torch.no_grad()
    def show(self, batch: Batch) -> dict[str, Tensor]:
        """Draw what the first masks leave visible and, once something is learnt, the targets and
        what is predicted of them, in colours."""
        images = batch["views"][PLAIN_VIEW][0]
        patch_size = self.encoder.patch_size
        mask = self._draw(batch)[0]
        shown = {"visible": cover(self.to_rgb(images.float()), mask, patch_size)}
        if self.progress > 0:
            keep = visible_tokens(mask, self.num_visible)
            predicted = self.decoder(self.encoder.tokens(images, keep).patches, keep)
            both = torch.cat([self._targets(self.teacher_encoder, images), predicted.float()])
            painted = token_colours(both, self.grid, patch_size)
            shown["targets"] = painted[: len(images)]
            shown["predicted"] = painted[len(images) :]
        return shown

    def after_step(self, step: int, num_steps: int) -> None:
        """Move the teacher towards the student."""
        super().after_step(step, num_steps)
        config = self.settings
        risen = min(step / (config.momentum_fraction * num_steps), 1.0)
        momentum = config.momentum + (config.final_momentum - config.momentum) * risen
        follow(self.teacher_encoder, self.encoder, momentum)
