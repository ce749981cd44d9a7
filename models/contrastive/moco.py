"""MoCo v1 and v2 (He 2019, arXiv:1911.05722; Chen 2020, arXiv:2003.04297).

A view must be told from a long queue of other images' views, encoded by a slowly moving copy of the
encoder: the number of negatives no longer depends on the batch, and the copy keeps the queue's old
keys consistent with the new.

It cheats through batch norm: a view and its key whose statistics come from the same samples are
told by these, as the queue's keys have those of other batches. So statistics are of small groups of
samples, as of one GPU in the paper, and the keys' samples are shuffled among the groups of all
workers (section 3.3). It cannot collapse, but with a copy that moves too fast the keys go stale and
the loss rises.

v2 is v1 with a projection head of two layers (`method.head=mlp`), blur and a temperature of 0.2.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from augment.presets import moco_v2_views
from augment.recipe import Views
from augment.rng import uniform
from models import health
from models.batch_norm import group_batch_norm
from models.blocks.ema import follow, frozen_copy
from models.blocks.heads import mlp
from models.blocks.queue import Queue
from models.collectives import gather, global_mean, my_share
from models.encoders.factory import EncoderConfig
from models.method import Batch, Method, MethodConfig, ViewGroups

_GROUP = "global_crops"


class MoCoConfig(MethodConfig):
    """MoCo's settings; the defaults are v2's for ImageNet."""

    name: Literal["moco"] = "moco"
    head: Literal["linear", "mlp"] = Field(
        default="mlp", description="projection head: linear is v1's, mlp v2's"
    )
    temperature: float = Field(
        default=0.2, gt=0.0, description="divides the cosine similarities; v1: 0.07"
    )
    queue_size: int = Field(
        default=65_536,
        ge=1,
        description=(
            "keys kept as negatives, at least the global batch; 4 * projection_dim bytes each on"
            " every worker"
        ),
    )
    momentum: float = Field(
        default=0.999, ge=0.0, lt=1.0, description="share of the teacher kept in a step"
    )
    hidden_dim: int = Field(
        default=2048, ge=1, description="features of the mlp head's hidden layer"
    )
    group_size: int | None = Field(
        default=32,
        ge=2,
        description=(
            "samples that batch norm takes its statistics of, the keys shuffled among such groups;"
            " no more than half of the global batch. null: statistics of the whole batch, of which"
            " it learns to cheat"
        ),
    )
    projection_dim: int = Field(
        default=128, ge=2, description="features in which the views are compared"
    )

    def idle(self) -> dict[str, str]:
        """Return what v1's head has no use for."""
        return {"hidden_dim": "head"} if self.head == "linear" else {}


class MoCo(Method):
    """Encoder and head, their teacher, and InfoNCE against a queue of the teacher's keys."""

    Config: ClassVar[type[MethodConfig]] = MoCoConfig
    small: ClassVar[MethodConfig] = MoCoConfig(
        hidden_dim=64, projection_dim=32, queue_size=30, group_size=3
    )
    view_groups: ClassVar[ViewGroups] = {_GROUP: 2}
    default_views = staticmethod(moco_v2_views)
    takes_clips: ClassVar[bool] = True
    accumulates: ClassVar[bool] = False

    def __init__(
        self, config: MoCoConfig, encoder_config: EncoderConfig, views: Views, seed: int
    ) -> None:
        super().__init__(config, encoder_config, views, seed)
        self.temperature = config.temperature
        self.momentum = config.momentum
        hidden = [config.hidden_dim] if config.head == "mlp" else []
        self.projection_head = mlp(
            [self.encoder.embed_dim, *hidden, config.projection_dim], norm=False
        )
        self._shuffles = config.group_size is not None and self.encoder.mixes_images
        if config.group_size is not None:
            group_batch_norm(self.encoder, config.group_size)
        self.teacher = frozen_copy(self._student())
        self.queue = Queue(config.queue_size, config.projection_dim)
        # the step's keys of all workers, for after_step
        self._seen: tuple[Tensor, Tensor] | None = None

    def _student(self) -> nn.Sequential:
        return nn.Sequential(self.encoder, self.projection_head)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Find the first view's key, the second view, in front of the queue.

        Returns:
            loss: InfoNCE against the queue, nats, mean over the global batch's valid samples.
            info_nce_bound: Nats of mutual information that the loss certifies, at most
                log(queue_size + 1).
            contrast_top1: Fraction of this worker's samples that are nearer to their key than to
                any in the queue.
            embedding: The encoder's output for the first view (B, D), detached; rows of invalid
                samples included.
        """
        for_query, for_key = batch["views"][_GROUP]  # (B, 3, S, S) each
        valid = batch["valid"]
        embedding = self.encoder(for_query)  # (B, D)
        query = self.projection_head(embedding)  # (B, projection_dim)
        keys = self._keys(for_key, batch)  # (W*B, projection_dim)
        with torch.autocast(query.device.type, enabled=False):
            query = functional.normalize(query.float(), dim=-1)
            keys = functional.normalize(keys.float(), dim=-1)
            key = keys[my_share(len(keys))]
            positive = (query * key).sum(-1) / self.temperature  # (B,)
            negatives = query @ self.queue.rows.T / self.temperature  # (B, K)
            logits = torch.cat([positive.unsqueeze(1), negatives], dim=1)
            loss = global_mean(logits.logsumexp(1) - positive, valid)
        self._seen = keys, gather(valid)
        hits = (positive.detach() > negatives.detach().amax(1)) & valid
        return {
            "loss": loss,
            "info_nce_bound": health.info_nce_bound(loss.detach(), logits.shape[1]),
            "contrast_top1": hits.sum() / valid.sum().clamp(min=1),
            "embedding": embedding.detach(),
        }

    @torch.no_grad()
    def _keys(self, images: Tensor, batch: Batch) -> Tensor:
        """Encode the keys of all workers' samples, (W*B, projection_dim) in rank order; each among
        others than its query is."""
        if not self._shuffles:
            return gather(self.teacher(images))
        epoch, sample_id = (gather(batch[key]) for key in ("epoch", "sample_id"))
        drawn = uniform(
            1, seed=self.seed, epoch=epoch, sample_id=sample_id, view=0, op="moco_shuffle"
        )
        order = drawn.squeeze(1).argsort(stable=True)  # (W*B,)
        mine = order[my_share(len(order))]
        shuffled = gather(self.teacher(gather(images)[mine]))
        return shuffled[order.argsort()]

    def after_step(self, step: int, num_steps: int) -> None:
        """Put the step's keys, in rank order, in place of the oldest, and move the teacher."""
        super().after_step(step, num_steps)
        if self._seen is not None:
            self.queue.push(*self._seen)
            self._seen = None
        follow(self.teacher, self._student(), self.momentum)
