"""Contrastive multiview coding (Tian 2020, arXiv:1906.05849).

Two sensors see one scene: what they share is what is there, what they do not is how each of them
sees it. One network sees the lightness of an image and the other its colours (`encoder.split=lab`),
or one sees the image and the other a second image of the scene (`source.pair`: infrared, depth as
HHA), and each must tell the other's embedding of the same sample among those of the whole global
batch.

It cannot collapse, as the negatives forbid it. It cheats by whatever both sensors see that is no
scene, as a border or a time stamp; and networks that both see the whole image (`encoder.split=
whole`) have nothing to find out. The paper's negatives come from a memory bank of older
embeddings; here they are the other samples of all workers, with gradient.

With `encoder.split` both networks ship as one encoder of images in colour; with second images the
one that sees the first.
"""

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn

from augment.presets import PLAIN_VIEW, plain_views
from augment.recipe import PairKind, Views
from models import health
from models.blocks.pretext import pair_top1
from models.collectives import world_size
from models.encoders.factory import EncoderConfig, build_encoder
from models.losses import info_nce
from models.method import Batch, Method, MethodConfig, ViewGroups


class CMCConfig(MethodConfig):
    """CMC's settings; the defaults are the paper's for ImageNet."""

    name: Literal["cmc"] = "cmc"
    temperature: float = Field(default=0.07, gt=0, description="divides the cosine similarities")
    projection_dim: int = Field(
        default=128, ge=2, description="features in which the sensors are compared"
    )


class CMC(Method):
    """An encoder a sensor, a linear projection of each, and InfoNCE both ways."""

    Config: ClassVar[type[MethodConfig]] = CMCConfig
    small: ClassVar[MethodConfig] = CMCConfig(projection_dim=32)
    view_groups: ClassVar[ViewGroups] = {PLAIN_VIEW: 1}
    pairs: ClassVar[tuple[PairKind, ...]] = ("colours", "hha")
    accumulates: ClassVar[bool] = False

    @staticmethod
    def default_views(size: int) -> Views:
        """Make a single crop and flip, colours untouched."""
        return plain_views(size, (0.2, 1.0))

    def __init__(
        self, config: CMCConfig, encoder_config: EncoderConfig, views: Views, seed: int
    ) -> None:
        super().__init__(config, encoder_config, views, seed)
        self.temperature = config.temperature
        dim = self.encoder.embed_dim
        self.has_halves = self.encoder.supports("halves")
        if self.has_halves:
            dim //= 2
        else:
            second = encoder_config.model_copy(update={"weights": None})
            self.second_encoder = build_encoder(second, views.size)
        self.projections = nn.ModuleList(nn.Linear(dim, config.projection_dim) for _ in range(2))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Tell each sensor's embedding by the other's.

        Returns:
            loss: Mean of both ways over the global batch's valid samples, nats; log of their number
                at chance.
            info_nce_bound: Nats that the sensors share, as the loss certifies.
            contrast_top1: Share of this worker's samples whose second embedding, of this worker's
                only, is the nearest to the first; 1 / B at chance.
            embedding: The encoder's output (B, D), detached; rows of invalid samples included.
        """
        images = batch["views"][PLAIN_VIEW][0]  # (B, 3, S, S)
        valid = batch["valid"]
        embedding = self.encoder(images)
        if self.has_halves:
            sensed = embedding.chunk(2, dim=1)
        else:
            second = self.from_rgb(batch["targets"]["pair"][:, 0].to(images.dtype) / 255)
            sensed = embedding, self.second_encoder(second)
        first, second = (
            projection(each) for projection, each in zip(self.projections, sensed, strict=True)
        )
        forth = info_nce(first, second, temperature=self.temperature, valid=valid)
        back = info_nce(second, first, temperature=self.temperature, valid=valid)
        loss = (forth + back) / 2
        return {
            "loss": loss,
            "info_nce_bound": health.info_nce_bound(loss.detach(), world_size() * valid.sum()),
            "contrast_top1": pair_top1(first, second, valid),
            "embedding": embedding.detach(),
        }
