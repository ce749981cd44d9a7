"""SwAV (Caron 2020, arXiv:2006.09882).

Views of an image need not have equal features, only the same cluster: each view must predict the
soft assignment to prototypes that another view gets. Assigning the batch to all prototypes in equal
shares (Sinkhorn-Knopp, over all workers) forbids the collapse to one cluster. Many small crops
beside two large ones make it strong for little compute. With a batch small beside the prototypes an
equal share means nothing; a queue of earlier features mends that.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from augment.presets import local_size, simclr_views
from augment.recipe import Views
from models import health
from models.blocks.heads import mlp
from models.blocks.multi_crop import check_crop_sizes, encode_by_size
from models.blocks.queue import Queue
from models.clustering.sinkhorn import sinkhorn
from models.collectives import gather, global_mean, world_size
from models.encoders.factory import EncoderConfig
from models.losses import cross_view_entropy
from models.method import Batch, Method, MethodConfig, ViewGroups

_GROUP = "global_crops"
_LOCAL = "local_crops"
_NUM_GLOBAL = 2


class SwAVConfig(MethodConfig):
    """SwAV's settings; the defaults are the paper's for ImageNet at a batch of 4096."""

    name: Literal["swav"] = "swav"
    num_prototypes: int = Field(default=3000, ge=2, description="clusters K")
    temperature: float = Field(
        default=0.1, gt=0.0, description="divides a prediction's cosine similarities"
    )
    epsilon: float = Field(
        default=0.05,
        gt=0.0,
        description="divides an assignment's cosine similarities; larger is softer",
    )
    sinkhorn_iterations: int = Field(
        default=3, ge=1, description="rounds of balancing the assignment"
    )
    freeze_fraction: float = Field(
        default=0.01,
        ge=0.0,
        le=1.0,
        description="prototypes wait for this first fraction of num_steps",
    )
    queue_size: int = Field(
        default=0,
        ge=0,
        description=(
            "earlier features assigned along with the batch, for each large crop; 0: none, else at"
            " least the global batch; 8 * projection_dim bytes each on every worker"
        ),
    )
    queue_start_fraction: float = Field(
        default=0.04,
        ge=0.0,
        le=1.0,
        description="fraction of num_steps from which the queue is used",
    )
    hidden_dim: int = Field(
        default=2048, ge=1, description="features of the projection head's hidden layer"
    )
    projection_dim: int = Field(default=128, ge=2, description="features in which prototypes live")

    def idle(self) -> dict[str, str]:
        """Return what says when a queue begins, where there is none."""
        return {} if self.queue_size else {"queue_start_fraction": "queue_size"}


class SwAV(Method):
    """Encoder, projection head, prototypes, and the prediction of one view's balanced assignment
    from another's."""

    Config: ClassVar[type[MethodConfig]] = SwAVConfig
    small: ClassVar[MethodConfig] = SwAVConfig(
        hidden_dim=64, projection_dim=32, num_prototypes=10, queue_size=18
    )
    view_groups: ClassVar[ViewGroups] = {_GROUP: _NUM_GLOBAL, _LOCAL: None}
    accumulates: ClassVar[bool] = False

    @staticmethod
    def default_views(size: int) -> Views:
        """Make the views of appendix A: two large ones, six small ones; colours as in SimCLR.

        Args:
            size: Side of the large views, px; the small ones have `local_size`.
        """
        (colours,) = simclr_views(size).groups.values()
        large = colours.model_copy(update={"scale": (0.14, 1.0)})
        small = colours.model_copy(
            update={"count": 6, "size": local_size(size), "scale": (0.05, 0.14)}
        )
        return Views(size=size, groups={_GROUP: large, _LOCAL: small})

    def __init__(
        self, config: SwAVConfig, encoder_config: EncoderConfig, views: Views, seed: int
    ) -> None:
        super().__init__(config, encoder_config, views, seed)
        check_crop_sizes(views, self.encoder)
        self.settings = config
        self.groups = [name for name in self.view_groups if name in views.groups]
        dims = (self.encoder.embed_dim, config.hidden_dim, config.projection_dim)
        self.projection_head = mlp(dims)
        directions = functional.normalize(
            torch.randn(config.num_prototypes, config.projection_dim), dim=1
        )
        self.prototypes = nn.Parameter(directions)  # (K, D), unit vectors
        # A row is a sample: the features of its large crops, one after the other.
        self.queue = (
            Queue(config.queue_size, _NUM_GLOBAL * config.projection_dim)
            if config.queue_size
            else None
        )
        # the step's features of all workers, for after_step
        self._seen: tuple[Tensor, Tensor] | None = None

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Predict the assignment of each large crop from every other crop.

        Returns:
            loss: Cross entropy, nats, mean over pairs of views and the global batch's valid
                samples.
            prototype_entropy: Of this worker's mean assignment, nats; log K where all prototypes
                are in use.
            embedding: The encoder's output for the first large crop (B, D), detached; rows of
                invalid samples included.
        """
        config = self.settings
        valid = batch["valid"]
        embeddings = encode_by_size(
            self.encoder, [batch["views"][name] for name in self.groups]
        )  # (V, B, embed_dim)
        projections = self.projection_head(embeddings.flatten(0, 1)).unflatten(
            0, embeddings.shape[:2]
        )
        with torch.autocast(projections.device.type, enabled=False):
            z = functional.normalize(projections.float(), dim=-1)  # (V, B, D)
            log_p = (z @ self.prototypes.T / config.temperature).log_softmax(-1)  # (V, B, K)
            targets = self._assign(z[:_NUM_GLOBAL].detach(), valid)
            loss = global_mean(cross_view_entropy(targets, log_p), valid)
        if self.queue is not None:
            rows = torch.cat(tuple(z[:_NUM_GLOBAL].detach()), dim=1)  # (B, 2 * D)
            self._seen = gather(rows), gather(valid)
        return {
            "loss": loss,
            "prototype_entropy": health.prototype_entropy(
                targets.where(valid.unsqueeze(1), 0.0).flatten(0, 1)
            ),
            "embedding": embeddings[0].detach(),
        }

    @torch.no_grad()
    def _assign(self, z: Tensor, valid: Tensor) -> Tensor:
        """Balance the assignments (2, B, K) of the large crops' features (2, B, D), each crop's
        alone."""
        config = self.settings
        num_samples = z.shape[1]
        weight = valid.float()
        if self.queue is not None:
            in_use = self.queue.filled & (self.progress >= config.queue_start_fraction)
            weight = torch.cat([weight, in_use / world_size()])  # every worker holds the same queue
            z = torch.cat(
                [z, torch.stack(self.queue.rows.chunk(_NUM_GLOBAL, dim=1))], dim=1
            )  # (2, B + Q, D)
        assignments = [
            sinkhorn(scores, weight, epsilon=config.epsilon, iterations=config.sinkhorn_iterations)
            for scores in z @ self.prototypes.T
        ]
        return torch.stack(assignments)[:, :num_samples]

    def before_step(self, step: int, num_steps: int) -> None:
        """Keep the prototypes where they are in the first steps."""
        if step < self.settings.freeze_fraction * num_steps:
            self.prototypes.grad = None

    @torch.no_grad()
    def after_step(self, step: int, num_steps: int) -> None:
        """Bring the prototypes back to length 1 and remember the step's features."""
        super().after_step(step, num_steps)
        self.prototypes.copy_(functional.normalize(self.prototypes, dim=1))
        if self.queue is not None and self._seen is not None:
            self.queue.push(*self._seen)
            self._seen = None
