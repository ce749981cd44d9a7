"""Learning to count (Noroozi 2017, arXiv:1708.06734).

What is in an image is in its four quarters together: whatever the features count (wheels, eyes,
whatever is worth counting), the counts of the quarters must sum to that of the whole image, shrunk
to the size of a quarter. So features must find the same things at two scales and wherever they are.

Counting nothing at all satisfies this, so the sum must also differ, by a margin, from the count of
another image (`contrast`; without it every count goes to 0). It cheats where whole images can be
told from quarters by how they were shrunk: the way of shrinking is drawn for each image. It also
cheats by the colour fringes of lenses, which grow towards the border of a photograph: hence two
thirds of the images are grey.

The other image is the next valid one of the global batch, all workers' rows in rank order.

What ships is the encoder, for whole images at full size. It was trained on crops at full size (the
quarters) and on whole images at half of it, and an embedding that is pooled over all places, which
is asked for here, is about the mean over the quarters' embeddings: just what the objective makes
proportional to that of the whole.
"""

import math
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from augment.ops import Greyscale
from augment.recipe import CropGroup, Views
from augment.rng import uniform
from models.collectives import all_reduce_sum, gather, global_mean, rank
from models.encoders.factory import EncoderConfig
from models.method import Batch, Method, MethodConfig, ViewGroups

_GROUP = "global_crops"


class CountingConfig(MethodConfig):
    """Counting's settings; the defaults are the paper's."""

    name: Literal["counting"] = "counting"
    contrast: float = Field(
        default=1.0,
        ge=0,
        description="weight of the term that keeps counts of different images apart; 0: none",
    )
    margin: float = Field(
        default=10.0, gt=0, description="squared distance beyond which counts are apart enough"
    )
    mixed_shrinking: bool = Field(
        default=True, description="shrink each image by one of three ways drawn, else by areas"
    )
    hidden_dim: int = Field(default=4096, ge=1, description="features of the layer before counts")
    num_counts: int = Field(default=1000, ge=1, description="things that are counted")

    def idle(self) -> dict[str, str]:
        """Return what no contrast has no use for."""
        return {} if self.contrast else {"margin": "contrast"}


class Counting(Method):
    """Encoder of quarters and of the shrunk image, a head that counts, and a difference of sums.

    Raises:
        ValueError: the encoder's embedding is not pooled over places, or the view has no half.
    """

    Config: ClassVar[type[MethodConfig]] = CountingConfig
    small: ClassVar[MethodConfig] = CountingConfig(hidden_dim=32, num_counts=16)
    small_px: ClassVar[int] = 32
    view_groups: ClassVar[ViewGroups] = {_GROUP: 1}
    accumulates: ClassVar[bool] = False

    @staticmethod
    def default_views(size: int) -> Views:
        """Make one crop of most of the image, two thirds of them grey (section 4)."""
        group = CropGroup(scale=(0.4, 1.0), greyscale=Greyscale(p=0.67))
        return Views(size=size, groups={_GROUP: group})

    def __init__(
        self, config: CountingConfig, encoder_config: EncoderConfig, views: Views, seed: int
    ) -> None:
        super().__init__(config, encoder_config, views, seed)
        self.encoder.require("trainable_maps", by=f"method.name={config.name}")
        if views.size % 2:
            raise ValueError(f"views.size={views.size} has no half; method.name=counting needs one")
        self.settings = config
        # two images' counts lie the margin apart, squared, where each of K varies by so much
        self.projection_std = math.sqrt(config.margin / (2 * config.num_counts))
        self.head = nn.Sequential(
            nn.Linear(self.encoder.embed_dim, config.hidden_dim),
            nn.ReLU(),
            nn.Linear(config.hidden_dim, config.num_counts),
            nn.ReLU(),
        )

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Compare the sum of each image's four counts with the whole's and with another image's.

        Returns:
            loss: Squared distance of the sum and the image's own count, plus what the one to
                another image's lacks of the margin; mean over the global batch's valid samples. The
                margin where everything counts 0, which is no less than chance.
            sum_error: The first part's mean over that of the squared sum: 0 where counts add up, 1
                where the quarters have counts and the whole has none.
            count: Length of an image's vector of counts; 0 where nothing is counted.
            embedding: Of the shrunk image (B, D), detached; rows of invalid samples included.
        """
        quarters, whole = self._parts(batch)  # (4, B, 3, S/2, S/2), (B, 3, S/2, S/2)
        valid = batch["valid"]
        embedding = self.encoder(torch.cat([quarters.flatten(0, 1), whole]))  # (5B, D)
        with torch.autocast(embedding.device.type, enabled=False):
            counts = self.head(embedding.float()).unflatten(0, (5, len(whole)))  # (5, B, K)
            total = counts[:4].sum(0)
            error = (total - counts[4]).square().sum(-1)  # (B,)
            lacking = self._lacking(total, counts[4], valid)
        size = total.detach().square().sum(-1)
        return {
            "loss": global_mean(error + self.settings.contrast * lacking, valid),
            "sum_error": self._share(error.detach(), size, valid),
            "count": global_mean(size.sqrt(), valid),
            "embedding": embedding[-len(whole) :].detach(),
        }

    def project(self, embedding: Tensor) -> Tensor:
        """Count what embeddings (B, D) show, (B, K): nothing at all where the method collapsed."""
        counts: Tensor = self.head(embedding.float())
        return counts

    @torch.no_grad()
    def show(self, batch: Batch) -> dict[str, Tensor]:
        """Draw each image's quarters, the brighter the more of what is counted lies in them."""
        quarters, whole = self._parts(batch)
        flat = quarters.flatten(0, 1)
        counts = self.head(self.encoder(flat).float()).sum(-1).view(4, -1)  # (4, B)
        share = counts / counts.amax(0).clamp(min=1e-12)
        lit = self.to_rgb(quarters.float()) * share[:, :, None, None, None]
        top, bottom = (torch.cat([lit[row], lit[row + 1]], dim=-1) for row in (0, 2))
        shown = {"shrunk": self.to_rgb(whole.float())}
        if self.progress > 0:
            shown["share of count"] = torch.cat([top, bottom], dim=-2)
        return shown

    def _parts(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Cut the images into quarters (4, B, 3, S/2, S/2), and shrink them to that size."""
        images = batch["views"][_GROUP][0]
        side = images.shape[-1] // 2
        quarters = images.unflatten(3, (2, side)).unflatten(2, (2, side))  # (B, 3, 2, s, 2, s)
        quarters = quarters.permute(2, 4, 0, 1, 3, 5).flatten(0, 1)
        whole = _shrunk(images, "area")
        if self.settings.mixed_shrinking:
            u = uniform(
                1,
                seed=self.seed,
                epoch=batch["epoch"],
                sample_id=batch["sample_id"],
                view=0,
                op="counting.shrinking",
            )
            way = 3 * u[:, :, None, None]
            for number, mode in enumerate(("bilinear", "bicubic"), start=1):
                whole = whole.where(way < number, _shrunk(images, mode))
        return quarters, whole

    @staticmethod
    def _share(error: Tensor, size: Tensor, valid: Tensor) -> Tensor:
        """Divide sums over the valid samples of all workers; an image may count nothing."""
        sums = torch.stack([error, size]).where(valid, 0.0).sum(1)
        total = all_reduce_sum(sums)
        return total[0] / total[1].clamp(min=torch.finfo(total.dtype).tiny)

    def _lacking(self, total: Tensor, count: Tensor, valid: Tensor) -> Tensor:
        """Return how much each sum (B, K) is closer to another image's count than the margin."""
        others = gather(count)
        index, exists = next_valid(gather(valid))
        mine = slice(rank() * len(count), (rank() + 1) * len(count))
        distance = (total - others[index[mine]]).square().sum(-1)
        return (self.settings.margin - distance).relu().where(exists[mine], 0.0)


def next_valid(valid: Tensor) -> tuple[Tensor, Tensor]:
    """Find the next valid row after each row (N,), the first ones following the last.

    Returns:
        Its index (N,) int64, and whether it is another row than itself.
    """
    num = len(valid)
    place = torch.arange(2 * num, device=valid.device)
    after = place.where(valid.repeat(2), 2 * num)  # of valid rows; beyond all of others
    # the smallest of all that come later
    later = after.flip(0).cummin(0).values.flip(0)[1 : num + 1]
    index = later % num
    return index, (later < 2 * num) & (index != place[:num])


def _shrunk(images: Tensor, mode: str) -> Tensor:
    """Shrink images to half their side; Kornia's and Pillow's way, where it is not by areas."""
    side = images.shape[-1] // 2
    smooth = {} if mode == "area" else {"antialias": True}
    shrunk: Tensor = functional.interpolate(images.float(), size=side, mode=mode, **smooth)
    return shrunk.to(images.dtype)
