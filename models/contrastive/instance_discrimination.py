"""Instance discrimination (Wu 2018, arXiv:1805.01978).

Each image is a class of its own, and what stands for the class is not a weight but the image's own
embedding when it was last seen: a bank holds one unit vector for every sample of the corpus. A view
must be told from random other entries by logistic regression (noise-contrastive estimation), as a
softmax over the whole corpus would cost too much. It cannot collapse, but an entry is as old as an
epoch: early on the bank is noise, and the proximal term, which holds an embedding near its last
one, is what keeps the learning smooth.

The bank bounds the corpus (`method.max_rows`): beyond some ten million samples it fits no worker,
and a method whose negatives come from a queue does the same. A sample seen for the first time has
no last embedding: its proximal term and the momentum of its entry begin with the second visit. Rows
that are gone from the manifest stay in the bank as noise.
"""

import math
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from augment import rng
from augment.ops import ColorJitter, Greyscale
from augment.recipe import CropGroup, Views
from models.blocks.bank import MAX_ROWS, Bank, check_room
from models.blocks.heads import mlp
from models.collectives import all_reduce_sum, gather, global_mean
from models.encoders.factory import EncoderConfig
from models.method import Batch, Method, MethodConfig, ViewGroups

_GROUP = "global_crops"
_CHUNK_ROWS = 1 << 16  # of a bank that are drawn at once: hashing takes 8 bytes a number


class InstanceDiscriminationConfig(MethodConfig):
    """Instance discrimination's settings; the defaults are the paper's for ImageNet."""

    name: Literal["instance_discrimination"] = "instance_discrimination"
    temperature: float = Field(default=0.07, gt=0.0, description="divides the cosine similarities")
    num_noise: int = Field(
        default=4096, ge=1, description="random entries of the bank that a view is told from"
    )
    momentum: float = Field(
        default=0.5, ge=0.0, lt=1.0, description="share of a bank's entry kept when it is renewed"
    )
    proximal_weight: float = Field(
        default=30.0,
        ge=0.0,
        description="weight of the squared distance to the sample's last embedding",
    )
    z_steps: int = Field(
        default=1,
        ge=1,
        description="first steps that estimate the constant by which scores become probabilities",
    )
    head: Literal["linear", "linear_norm"] = Field(
        default="linear",
        description=(
            "linear is the paper's; linear_norm adds batch norm, without which short runs swing all"
            " embeddings"
        ),
    )
    projection_dim: int = Field(
        default=128, ge=2, description="features in which views are compared"
    )
    max_rows: int = Field(
        default=1 << 22,
        ge=1,
        le=MAX_ROWS,
        description=(
            "most rows of the manifest; each takes 4 * projection_dim + 1 bytes on every worker"
        ),
    )

    def check_rows(self, num_rows: int) -> None:
        """Refuse a corpus that is larger than the bank may be."""
        check_room(num_rows, self.max_rows)


class InstanceDiscrimination(Method):
    """Encoder, linear head, bank of all samples, and the telling of each view's entry from
    noise."""

    Config: ClassVar[type[MethodConfig]] = InstanceDiscriminationConfig
    small: ClassVar[MethodConfig] = InstanceDiscriminationConfig(num_noise=16, projection_dim=32)
    view_groups: ClassVar[ViewGroups] = {_GROUP: 1}
    accumulates: ClassVar[bool] = False
    log_z: Tensor
    num_z: Tensor

    @staticmethod
    def default_views(size: int) -> Views:
        """Make the single view of the authors' code: strong hue, no blur, the same for small
        images.

        The authors turn images grey before the jitter; here, as in every recipe, after it.
        """
        jitter = ColorJitter(p=1.0, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.4)
        group = CropGroup(scale=(0.2, 1.0), color_jitter=jitter, greyscale=Greyscale())
        return Views(size=size, groups={_GROUP: group})

    def __init__(
        self,
        config: InstanceDiscriminationConfig,
        encoder_config: EncoderConfig,
        views: Views,
        seed: int,
    ) -> None:
        super().__init__(config, encoder_config, views, seed)
        self.settings = config
        dims = (self.encoder.embed_dim, config.projection_dim)
        self.projection_head = mlp(dims, last_norm=config.head == "linear_norm")
        self.bank = Bank(config.projection_dim)
        self.register_buffer("log_z", torch.zeros(()))
        self.register_buffer("num_z", torch.zeros((), dtype=torch.int64))  # steps in log_z
        # the step's rows, embeddings, valid, of all workers
        self._seen: tuple[Tensor, Tensor, Tensor] | None = None
        # what log_z and num_z become after the step
        self._estimated: tuple[Tensor, Tensor] | None = None

    def expect_rows(self, num_rows: int) -> None:
        """Give new rows of the manifest a random unit vector each, keyed by the row."""
        new = torch.arange(len(self.bank.rows), num_rows, device=self.progress.device)
        if len(new):
            self.bank.grow(torch.cat([self._directions(row) for row in new.split(_CHUNK_ROWS)]))

    def _directions(self, row: Tensor) -> Tensor:
        dim = self.settings.projection_dim
        epoch = torch.zeros_like(row)
        u = rng.uniform(dim, seed=self.seed, epoch=epoch, sample_id=row, view=0, op="bank")
        return functional.normalize(torch.special.ndtri(u.clamp(min=2**-25)), dim=1)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Tell each view's entry of the bank from random others.

        Returns:
            loss: Noise-contrastive estimation's sum of num_noise + 1 decisions, nats, plus the
                proximal term, mean over the global batch's valid samples.
            nce: The former alone; log(num_noise + 1) + 1 at chance, about.
            proximal: The squared distance to the last embedding, mean over this worker's samples
                seen before.
            embedding: The encoder's output (B, D), detached; rows of invalid samples included.
        """
        valid = batch["valid"]
        row = batch["row"]
        embedding = self.encoder(batch["views"][_GROUP][0])  # (B, D)
        projection = self.projection_head(embedding)
        with torch.autocast(projection.device.type, enabled=False):
            z = functional.normalize(projection.float(), dim=-1)  # (B, projection_dim)
            entry = self.bank.rows[row]
            chosen = torch.cat([row.unsqueeze(1), self._noise(batch)], dim=1)  # (B, 1 + num_noise)
            scores = self._similarities(z, chosen) / self.settings.temperature
            self._estimated = log_z, _ = self._estimate(scores.detach(), valid)
            nce = nce_against_noise(scores - log_z)  # (B,)
            before = self.bank.filled[row]
            moved = (z - entry).square().sum(-1) * before  # (B,)
            loss = global_mean(nce + self.settings.proximal_weight * moved, valid)
            nce_alone = global_mean(nce.detach(), valid)
        self._seen = gather(row), gather(z.detach()), gather(valid)
        seen = valid & before
        return {
            "loss": loss,
            "nce": nce_alone,
            "proximal": moved.detach().where(seen, 0.0).sum() / seen.sum().clamp(min=1),
            "embedding": embedding.detach(),
        }

    def _noise(self, batch: Batch) -> Tensor:
        """Draw rows for each sample, uniform over the bank, (B, num_noise)."""
        num_noise = self.settings.num_noise
        epoch = batch["epoch"]
        sample_id = batch["sample_id"]
        u = rng.uniform(
            num_noise, seed=self.seed, epoch=epoch, sample_id=sample_id, view=0, op="noise"
        )
        return (u.double() * len(self.bank.rows)).long()

    def _similarities(self, z: Tensor, chosen: Tensor) -> Tensor:
        """Compare each embedding (B, D) with its rows of the bank (B, M), moving the fewer
        numbers."""
        if len(self.bank.rows) <= chosen.shape[1] * z.shape[1]:
            return (z @ self.bank.rows.T).gather(1, chosen)
        return torch.einsum("bd,bmd->bm", z, self.bank.rows[chosen])

    @torch.no_grad()
    def _estimate(self, scores: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Log of the mean of exp(score), and how many steps it counts: this one as well if it is
        among the first.

        The paper's Z is the corpus' size times this mean; the size may grow, and cancels in the
        loss.
        """
        mine = (
            scores.logsumexp(1)
            .masked_fill(~valid, torch.finfo(scores.dtype).min)
            .logsumexp(0, keepdim=True)
        )
        num_scores = all_reduce_sum(valid.sum()) * scores.shape[1]
        here = gather(mine).logsumexp(0) - num_scores.clamp(min=1).log()
        counts = (self.num_z < self.settings.z_steps) & (num_scores > 0)
        joined = torch.logaddexp(self.log_z + self.num_z.log(), here) - (self.num_z + 1).log()
        return torch.where(counts, joined, self.log_z), self.num_z + counts

    @torch.no_grad()
    def after_step(self, step: int, num_steps: int) -> None:
        """Renew the bank's entries of the step's samples, alike on all workers."""
        super().after_step(step, num_steps)
        if self._seen is None or self._estimated is None:
            return
        row, z, valid = self._seen
        mixed = self.settings.momentum * self.bank.rows[row] + (1 - self.settings.momentum) * z
        entry = torch.where(self.bank.filled[row].unsqueeze(1), mixed, z)
        self.bank.put(row, functional.normalize(entry, dim=1), valid)
        self.log_z, self.num_z = self._estimated
        self._seen = self._estimated = None


def nce_against_noise(scores: Tensor) -> Tensor:
    """Tell data from noise by logistic regression (Wu 2018, eq. 7; Gutmann & Hyvarinen 2010).

    An entry's probability under the model is exp(score) / n, under the noise 1 / n, of n samples;
    so n cancels.

    Args:
        scores: Log of the model's probabilities times n, (B, 1 + M) float32: the data's first, then
            M draws of noise.

    Returns:
        Sum of the 1 + M decisions, nats, (B,); log(M + 1) + M * log(1 + 1 / M) where all scores are
        0.
    """
    logits = scores - math.log(scores.shape[1] - 1)
    return functional.softplus(-logits[:, 0]) + functional.softplus(logits[:, 1:]).sum(1)
