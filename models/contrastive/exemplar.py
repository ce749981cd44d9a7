"""Exemplar networks (Dosovitskiy 2014, arXiv:1406.6909).

Each of a few thousand images is a class of its own, and its distorted views (moved, zoomed, turned,
recoloured) are the class's members: a plain softmax over the classes makes the encoder blind to the
distortions. It cannot collapse, but it cheats where a distortion leaves something of the image
untouched, a hue for instance, and it fails where exemplars look alike: two images of one thing are
pushed apart as any others.

A weight vector a class bounds the classes: the paper found 8 000 best and more to do harm. So the
exemplars are drawn once, by a keyed hash of their manifest rows, and every other sample has weight
0 in the loss. The plan still reads each of them once an epoch (batch norm and the health metrics
see them), which is a waste where the corpus is far larger than `method.num_exemplars`: index a part
of it, or take `instance_discrimination`, the same idea without the weights. Rows that a later
manifest version adds become exemplars only while there are classes left; a row that is gone keeps
its own.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from augment import rng
from augment.ops import Affine, ColorJitter
from augment.recipe import CropGroup, Views
from models.collectives import global_mean
from models.encoders.factory import EncoderConfig
from models.method import Batch, Method, MethodConfig, ViewGroups

_GROUP = "global_crops"
_NO_ROW = 2**63 - 1  # of a class without an exemplar; keeps the rows sorted
_CHUNK_ROWS = 1 << 20


class ExemplarConfig(MethodConfig):
    """Exemplar's settings; the default is the paper's best number of classes."""

    name: Literal["exemplar"] = "exemplar"
    num_exemplars: int = Field(
        default=8000,
        ge=2,
        description=(
            "images drawn as classes, at most; each takes 4 * encoder features bytes of weights"
        ),
    )


class Exemplar(Method):
    """Encoder, a weight vector for each exemplar, and the classification of its distorted views."""

    Config: ClassVar[type[MethodConfig]] = ExemplarConfig
    small: ClassVar[MethodConfig] = ExemplarConfig(num_exemplars=11)
    view_groups: ClassVar[ViewGroups] = {_GROUP: 2}
    accumulates: ClassVar[bool] = False
    exemplar: Tensor
    num_rows: Tensor

    @staticmethod
    def default_views(size: int) -> Views:
        """Make the distorted patches of the paper (section 2.1): moved, zoomed, turned, recoloured.

        The paper cuts its patch out once and moves it by a fifth of its side; here a crop of at
        least a quarter of the image is drawn anew. Its contrasts along principal components and of
        saturation are the jitter's.
        """
        affine = Affine(p=1.0, degrees=20.0, translate=0.2, scale=(0.7, 1.4), shear=0.0)
        jitter = ColorJitter(p=1.0, brightness=0.4, contrast=0.5, saturation=0.5, hue=0.1)
        group = CropGroup(count=2, scale=(0.25, 1.0), flip=0.0, affine=affine, color_jitter=jitter)
        return Views(size=size, groups={_GROUP: group})

    def __init__(
        self, config: ExemplarConfig, encoder_config: EncoderConfig, views: Views, seed: int
    ) -> None:
        super().__init__(config, encoder_config, views, seed)
        self.classifier = nn.Linear(self.encoder.embed_dim, config.num_exemplars)
        # The manifest row of each class, ascending: classes are filled in the order of rows, later
        # rows are larger.
        self.register_buffer("exemplar", torch.full((config.num_exemplars,), _NO_ROW))
        # rows that have had their chance
        self.register_buffer("num_rows", torch.zeros((), dtype=torch.int64))

    def expect_rows(self, num_rows: int) -> None:
        """Draw exemplars among the rows that are new, for the classes that have none."""
        known = int(self.num_rows)
        used = int((self.exemplar < _NO_ROW).sum())
        free = len(self.exemplar) - used
        if num_rows > known and free:
            drawn = self._draw(range(known, num_rows), free)
            self.exemplar[used : used + len(drawn)] = drawn
        self.num_rows.fill_(max(known, num_rows))

    def _draw(self, rows: range, count: int) -> Tensor:
        """Choose the rows of the smallest hashes, at most `count`, ascending."""
        row = torch.empty(0, dtype=torch.int64, device=self.exemplar.device)
        key = torch.empty(0, device=row.device)
        # a corpus of 10^9 rows in bounded memory
        for start in range(rows.start, rows.stop, _CHUNK_ROWS):
            new = torch.arange(start, min(start + _CHUNK_ROWS, rows.stop), device=row.device)
            u = rng.uniform(
                1,
                seed=self.seed,
                epoch=torch.zeros_like(new),
                sample_id=new,
                view=0,
                op="exemplars",
            )
            row = torch.cat([row, new])
            key = torch.cat([key, u.squeeze(1)])
            first = key.argsort(stable=True)[:count]
            row = row[first]
            key = key[first]
        return row.sort().values

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Classify the views of the exemplars.

        Returns:
            loss: Cross entropy, nats, mean over both views of the global batch's valid exemplars;
                log(num_exemplars) at chance. Zero where the batch holds none.
            exemplar_top1: Fraction of this worker's exemplars whose first view is given its class.
            exemplar_fraction: Share of exemplars among this worker's valid samples.
            embedding: The encoder's output for the first view (B, D), detached; rows of other
                samples included.
        """
        # (2, B, 3, S, S)
        images = batch["views"][_GROUP]
        valid = batch["valid"]
        embedding = self.encoder(images.flatten(0, 1))  # (2B, D)
        label, is_exemplar = self._classes(batch["row"])
        counts = is_exemplar & valid
        with torch.autocast(embedding.device.type, enabled=False):
            logits = self.classifier(embedding.float())  # (2B, K)
            entropy = functional.cross_entropy(logits, label.repeat(2), reduction="none").unflatten(
                0, (2, -1)
            )
            loss = global_mean(entropy.mean(0), counts)
        hits = (logits.detach()[: len(label)].argmax(1) == label) & counts
        return {
            "loss": loss,
            "exemplar_top1": hits.sum() / counts.sum().clamp(min=1),
            "exemplar_fraction": counts.sum() / valid.sum().clamp(min=1),
            "embedding": embedding[: len(label)].detach(),
        }

    def _classes(self, row: Tensor) -> tuple[Tensor, Tensor]:
        """Return each row's class (B,), any where it has none, and whether it has one (B,)."""
        place = torch.searchsorted(self.exemplar, row).clamp(max=len(self.exemplar) - 1)
        return place, self.exemplar[place] == row
