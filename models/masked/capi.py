"""CAPI (Darcet 2025, arXiv:2502.08769).

A teacher, a moving average of the student, sees the whole image, and its patch tokens are put into
clusters that are learnt beside it; the student sees one block of the image, and a predictor tells
the cluster of hidden patches. Each asked patch looks at the block by cross-attention and at no
other asked one, so a few of them do.

Two losses, and no gradient of one reaches what the other trains: the clusters follow the teacher's
tokens, the student follows the clusters. It would cheat by clusters that stand for places, which
anybody can tell ("positional collapse"): so assignments are balanced over the samples at each place
by itself. The teacher ships.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from augment.masking import MaskKey, num_to_hide, rolled_block_mask, visible_tokens
from augment.presets import PLAIN_VIEW, plain_views
from augment.recipe import Views
from models import health, optim
from models.blocks.cross_predictor import CrossPredictor
from models.blocks.ema import cosine_momentum, follow, frozen_copy
from models.blocks.patchify import cover
from models.blocks.token_colours import token_colours
from models.clustering.sinkhorn import sinkhorn
from models.collectives import global_mean
from models.encoders.factory import EncoderConfig
from models.method import Batch, Method, MethodConfig, ViewGroups


class CAPIConfig(MethodConfig):
    """CAPI's settings; the defaults are the paper's for ViT-L."""

    name: Literal["capi"] = "capi"
    num_clusters: int = Field(default=16_384, ge=2, description="clusters K of patch tokens")
    mask_ratio: float = Field(
        default=0.65, gt=0.0, lt=1.0, description="fraction of the patches hidden from the student"
    )
    asked_fraction: float = Field(
        default=0.05, gt=0.0, lt=1.0, description="fraction of the patches whose cluster is asked"
    )
    student_temperature: float = Field(
        default=0.12, gt=0.0, description="divides the student's scores"
    )
    cluster_temperature: float = Field(
        default=0.12, gt=0.0, description="divides the scores that the clusters learn from"
    )
    target_temperature: float = Field(
        default=0.06, gt=0.0, description="divides the scores that are balanced into assignments"
    )
    sinkhorn_iterations: int = Field(
        default=3, ge=1, description="rounds of balancing the assignments"
    )
    each_place: bool = Field(
        default=True,
        description=(
            "balance the clusters over the samples at each place by itself; false: over all"
            " patches, and a cluster may stand for a place"
        ),
    )
    cluster_lr_scale: float = Field(
        default=0.5, gt=0.0, description="multiplies the clusters' learning rate"
    )
    predictor_depth: int = Field(default=12, ge=1, description="blocks of the predictor")
    predictor_heads: int = Field(
        default=16, ge=1, description="attention heads of the predictor; divides the token's width"
    )
    momentum: float = Field(
        default=0.999, ge=0.0, le=1.0, description="share of the teacher kept in a step; rises to 1"
    )
    momentum_warmup_fraction: float = Field(
        default=0.1,
        ge=0.0,
        lt=1.0,
        description="first fraction of num_steps, in which it falls from 1 to that",
    )


class CAPI(Method):
    """A student on one block, a predictor, a teacher on the whole image, and its clusters.

    Raises:
        ValueError: the encoder gives no patch tokens.
    """

    Config: ClassVar[type[MethodConfig]] = CAPIConfig
    small: ClassVar[MethodConfig] = CAPIConfig(
        num_clusters=8, asked_fraction=0.3, predictor_depth=1, predictor_heads=2
    )
    view_groups: ClassVar[ViewGroups] = {PLAIN_VIEW: 1}
    accumulates: ClassVar[bool] = False
    trains_patches: ClassVar[bool] = True

    @staticmethod
    def default_views(size: int) -> Views:
        """Make the single crop and flip of the paper."""
        return plain_views(size, (0.6, 1.0))

    def __init__(
        self, config: CAPIConfig, encoder_config: EncoderConfig, views: Views, seed: int
    ) -> None:
        super().__init__(config, encoder_config, views, seed)
        self.encoder.require("tokens", by="method.name=capi")
        self.settings = config
        dim = self.encoder.embed_dim
        num_patches = self.encoder.num_patches
        num_hidden = num_to_hide(num_patches, config.mask_ratio)
        self.num_visible = num_patches - num_hidden
        self.num_asked = min(max(round(config.asked_fraction * num_patches), 1), num_hidden)
        self.student_encoder = self.encoder
        self.encoder = frozen_copy(self.student_encoder)
        self.predictor = CrossPredictor(
            dim, self.encoder.grid, depth=config.predictor_depth, num_heads=config.predictor_heads
        )
        self.classify = nn.Linear(dim, config.num_clusters, bias=False)
        self.clusters = nn.Linear(dim, config.num_clusters)
        for layer in (self.classify, self.clusters):
            nn.init.normal_(layer.weight, std=dim**-0.5)  # rows of about unit length
        nn.init.zeros_(self.clusters.bias)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Predict the clusters of hidden patches, and move the clusters to the teacher's tokens.

        Returns:
            loss: The sum of the next two. Neither reaches what the other trains.
            prediction_loss: Cross entropy of the asked patches' clusters, nats, mean over the
                global batch's valid samples; log K at chance.
            cluster_loss: Cross entropy of the balanced assignments of all patches, the same.
            prototype_entropy: Of this worker's mean assignment, nats; log K where all clusters are
                in use.
            patch_variation: `health.patch_variation` of the teacher's tokens; 0 on collapse.
            embedding: The teacher's (B, D); rows of invalid samples included.
        """
        config = self.settings
        valid = batch["valid"]
        images = batch["views"][PLAIN_VIEW][0]  # (B, 3, S, S)
        with torch.no_grad():
            seen = self.encoder.tokens(images)
        scores = self._scores(seen.patches, self.clusters)  # (B, N, K)
        assigned = self._assign(scores.detach(), valid)
        log_p = (scores / config.cluster_temperature).log_softmax(-1)
        cluster_loss = global_mean(-(assigned * log_p).sum(-1).mean(1), valid)
        mask, asked = self._draw(batch)
        answers = self._predict(images, mask, asked)  # (B, A, K)
        wanted = assigned.gather(1, asked.unsqueeze(-1).expand_as(answers))
        log_p = (answers / config.student_temperature).log_softmax(-1)
        prediction_loss = global_mean(-(wanted * log_p).sum(-1).mean(1), valid)
        used = assigned.where(valid[:, None, None], 0.0).flatten(0, 1)
        return {
            "loss": prediction_loss + cluster_loss,
            "prediction_loss": prediction_loss.detach(),
            "cluster_loss": cluster_loss.detach(),
            "prototype_entropy": health.prototype_entropy(used),
            "patch_variation": health.patch_variation(seen.patches),
            "embedding": self.encoder.pool(seen),
        }

    @staticmethod
    def _scores(tokens: Tensor, layer: nn.Linear) -> Tensor:
        """Compare tokens (..., D), brought to length 1, with clusters, (..., K) float32."""
        # bfloat16's steps of 0.004 are 0.07 after sharpening
        with torch.autocast(tokens.device.type, enabled=False):
            scores: Tensor = layer(functional.normalize(tokens.float(), dim=-1))
            return scores

    @torch.no_grad()
    def _assign(self, scores: Tensor, valid: Tensor) -> Tensor:
        """Balance the clusters (B, N, K) over the samples of all workers."""
        config = self.settings
        num_samples, num_patches = scores.shape[:2]
        if config.each_place:
            by_place = scores.transpose(0, 1)  # (N, B, K)
            weight = valid.to(scores.dtype)
        else:
            by_place = scores.flatten(0, 1)  # (B * N, K)
            weight = valid.to(scores.dtype).repeat_interleave(num_patches)
        shares = sinkhorn(
            by_place,
            weight,
            epsilon=config.target_temperature,
            iterations=config.sinkhorn_iterations,
        )
        if config.each_place:
            return shares.transpose(0, 1)
        by_sample: Tensor = shares.unflatten(0, (num_samples, num_patches))
        return by_sample

    def _draw(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Draw the mask (B, N) bool and which hidden patches are asked, (B, A) int64."""
        key = MaskKey(self.seed, batch["epoch"], batch["sample_id"])
        mask = rolled_block_mask(self.encoder.grid, self.settings.mask_ratio, key)
        order = torch.where(mask, key.uniform(mask.shape[1], "asked"), 2.0)
        return mask, order.argsort(dim=1, stable=True)[:, : self.num_asked]

    def _predict(self, images: Tensor, mask: Tensor, asked: Tensor) -> Tensor:
        """Score the clusters of the asked patches, (B, A, K)."""
        keep = visible_tokens(mask, self.num_visible)
        context = self.student_encoder.tokens(images, keep).patches
        return self._scores(self.predictor(context, asked), self.classify)

    @torch.no_grad()
    def show(self, batch: Batch) -> dict[str, Tensor]:
        """Draw what the student may see and, once something is learnt, the tokens in colours and
        the clusters, the patches of one in one colour."""
        images = batch["views"][PLAIN_VIEW][0]
        grid = self.encoder.grid
        side = self.encoder.patch_size
        mask, _ = self._draw(batch)
        shown = {"visible": cover(self.to_rgb(images.float()), mask, side)}
        if self.progress > 0:
            patches = self.encoder.tokens(images).patches
            found = self._scores(patches, self.clusters).argmax(-1)
            shown["tokens"] = token_colours(patches, grid, side)
            shown["clusters"] = token_colours(self.clusters.weight[found], grid, side)
        return shown

    def param_groups(self) -> list[optim.ParamGroup]:
        """Give the clusters a learning rate of their own and no weight decay."""
        own = list(self.clusters.parameters())
        mine = set(own)
        groups: list[optim.ParamGroup] = []
        for group in super().param_groups():
            others = [each for each in group["params"] if each not in mine]
            groups.append({**group, "params": others})
        scale = self.settings.cluster_lr_scale
        groups.append({"name": "clusters", "params": own, "decay": False, "lr_scale": scale})
        return [group for group in groups if group["params"]]

    def after_step(self, step: int, num_steps: int) -> None:
        """Move the teacher towards the student, hardly at first."""
        super().after_step(step, num_steps)
        warmup = round(self.settings.momentum_warmup_fraction * num_steps)
        base = self.settings.momentum
        if step < warmup:
            momentum = 1 - (1 - base) * step / warmup
        else:
            momentum = cosine_momentum(step - warmup, max(num_steps - warmup, 1), base)
        follow(self.encoder, self.student_encoder, momentum)
