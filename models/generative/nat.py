"""Noise as targets (Bojanowski & Joulin 2017, arXiv:1704.05310).

Every image of the corpus is given a target of its own: a random point of the unit sphere that never
moves. The encoder is to send each image to its target, and which image has which target is learnt
too: in every batch the images trade their targets among them so that together they are as near as
can be (an assignment problem, solved exactly by the Hungarian method). Images that look alike thus
come to have neighbouring targets, which no fixed labelling would give them.

It cannot collapse: targets are one to an image and spread over the sphere, so all images in one
point would be far from nearly all of them. It cheats by learning images by heart, as the labels of
`exemplar` can be: without trading (`reassign_every` beyond the run) that is all it can do. Views
that differ from epoch to epoch and targets traded as late as the paper's work against it.

Targets are a function of the seed and the target's number, so nothing is kept but the number of
each row of the manifest. New rows bring new targets of their own.
"""

from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from augment import rng
from augment.presets import PLAIN_VIEW, plain_views
from augment.recipe import Views
from models.blocks.bank import MAX_ROWS, Bank, check_room
from models.blocks.heads import mlp
from models.collectives import broadcast, gather, global_mean, rank
from models.encoders.factory import EncoderConfig
from models.method import Batch, Method, MethodConfig, ViewGroups


class NATConfig(MethodConfig):
    """The settings of noise as targets; the defaults are the paper's where it gives them."""

    name: Literal["nat"] = "nat"
    projection_dim: int = Field(default=128, ge=2, description="features of a target")
    reassign_every: int = Field(
        default=3, ge=1, description="targets are traded in every n-th epoch, the first included"
    )
    max_rows: int = Field(
        default=MAX_ROWS,
        ge=1,
        le=MAX_ROWS,
        description="most rows of the manifest; each takes 5 bytes on every worker",
    )

    def check_rows(self, num_rows: int) -> None:
        """Refuse a corpus that is larger than the table of targets may be."""
        check_room(num_rows, self.max_rows)


class NAT(Method):
    """Encoder, linear head, and the number of each sample's target.

    The global batch trades on the first worker's CPU while the others wait: about a millisecond
    for 256 samples, a second for 4096.
    """

    Config: ClassVar[type[MethodConfig]] = NATConfig
    small: ClassVar[MethodConfig] = NATConfig(projection_dim=8)
    view_groups: ClassVar[ViewGroups] = {PLAIN_VIEW: 1}
    accumulates: ClassVar[bool] = False

    @staticmethod
    def default_views(size: int) -> Views:
        """Make a single crop and flip, colours untouched.

        The paper also turns images into edges, which `greyscale` and `sobel` with `p=1` do.
        """
        return plain_views(size, (0.2, 1.0))

    def __init__(
        self, config: NATConfig, encoder_config: EncoderConfig, views: Views, seed: int
    ) -> None:
        super().__init__(config, encoder_config, views, seed)
        self.settings = config
        self.projection_head = mlp((self.encoder.embed_dim, config.projection_dim))
        self.targets = Bank(1, torch.int32)  # the number of each row's target
        # the step's rows and their new targets, of all workers, for after_step
        self._traded: tuple[Tensor, Tensor] | None = None

    def expect_rows(self, num_rows: int) -> None:
        """Give each new row of the manifest the target of its own number."""
        new = torch.arange(len(self.targets.rows), num_rows, dtype=torch.int32)
        self.targets.grow(new.unsqueeze(1).to(self.progress.device))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Trade targets in the batch, and draw each image to its own.

        Returns:
            loss: Half the squared distance to the target, mean over the global batch's valid
                samples; 1 at chance before trading.
            traded: Share of this worker's samples that were given another target; falls as the
                targets find their images.
            embedding: The encoder's output (B, D), detached; rows of invalid samples included.
        """
        valid = batch["valid"]
        embedding = self.encoder(batch["views"][PLAIN_VIEW][0])  # (B, D)
        projection = self.projection_head(embedding)
        with torch.autocast(projection.device.type, enabled=False):
            z = functional.normalize(projection.float(), dim=1)  # (B, projection_dim)
            row = gather(batch["row"])  # (W * B,)
            before = self.targets.rows[row, 0]
            due = gather(valid & (batch["epoch"] % self.settings.reassign_every == 0))
            number = self._trade(gather(z.detach()), before, due)
            mine = slice(rank() * len(z), (rank() + 1) * len(z))
            loss = global_mean(1 - (z * self._points(number[mine])).sum(1), valid)
        self._traded = row, number
        moved = (number != before)[mine] & valid
        return {
            "loss": loss,
            "traded": moved.sum() / valid.sum().clamp(min=1),
            "embedding": embedding.detach(),
        }

    def _points(self, number: Tensor) -> Tensor:
        """Return the targets of these numbers, unit vectors (N, projection_dim)."""
        key = number.long()
        dim = self.settings.projection_dim
        epoch = torch.zeros_like(key)
        u = rng.uniform(dim, seed=self.seed, epoch=epoch, sample_id=key, view=0, op="target")
        return functional.normalize(torch.special.ndtri(u.clamp(min=2**-25)), dim=1)

    @torch.no_grad()
    def _trade(self, z: Tensor, number: Tensor, due: Tensor) -> Tensor:
        """Return the new target of each sample of the global batch; alike on all workers.

        Args:
            z: (N, projection_dim), where the samples are.
            number: (N,) int32, their targets so far.
            due: (N,) bool, who takes part; of a sample that is there twice, as a batch may be that
                straddles two epochs, both keep their target.
        """
        alone = (number.unsqueeze(1) == number).sum(1) == 1
        traders = (due & alone).nonzero().squeeze(1)  # the device is waited for, here and below
        traded = number.clone()
        if len(traders) > 1:
            offered = number[traders]
            order = torch.arange(len(traders), device=z.device)
            if rank() == 0:
                nearness = (z[traders] @ self._points(offered).to(z.dtype).T).cpu().numpy()
                order = torch.from_numpy(nearest_in_all(nearness)).to(z.device)
            traded[traders] = offered[broadcast(order)]
        return traded

    @torch.no_grad()
    def after_step(self, step: int, num_steps: int) -> None:
        """Keep the step's trades, alike on all workers."""
        super().after_step(step, num_steps)
        if self._traded is None:
            return
        row, number = self._traded
        self.targets.put(row, number.unsqueeze(1), torch.ones_like(row, dtype=torch.bool))
        self._traded = None


def nearest_in_all(nearness: np.ndarray) -> np.ndarray:
    """Give each sample one target so that their nearness is greatest in sum (Hungarian method).

    Args:
        nearness: (N, N), of each sample (row) and target (column).

    Returns:
        (N,) int64, the target of each sample; every target once.
    """
    from scipy.optimize import linear_sum_assignment  # here, as no other method needs it

    samples, targets = linear_sum_assignment(nearness, maximize=True)
    assert (samples == np.arange(len(samples))).all(), "a square problem has every row once"
    return np.asarray(targets, dtype=np.int64)
