"""An encoder of images and one of their captions, whose projections are compared."""

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field
from torch import Tensor

from augment.presets import PLAIN_VIEW, plain_views
from augment.recipe import Views
from models.encoders.factory import EncoderConfig
from models.method import Batch, Method, MethodConfig, ViewGroups
from models.multimodal.text_encoder import TextEncoderConfig
from models.multimodal.text_tower import TextTower, TextTowerConfig

CAPTION = "caption"


class TwoTowersConfig(MethodConfig):
    """Settings that methods of images and captions share."""

    vocab_size: int = Field(
        default=32_768,
        ge=512,
        description="tokens at most, learnt from the run's own captions before its first step",
    )
    context_length: int = Field(
        default=77, ge=4, description="tokens of a caption; what is longer is cut off"
    )
    text: TextEncoderConfig = TextEncoderConfig()
    projection_dim: int = Field(
        default=512, ge=2, description="features in which images and captions are compared"
    )
    temperature: float = Field(
        default=0.07, gt=0, description="that training begins with; it is learnt"
    )

    def tower(self) -> TextTowerConfig:
        """Return what the text tower is built of."""
        return TextTowerConfig(
            text=self.text,
            vocab_size=self.vocab_size,
            context_length=self.context_length,
            projection_dim=self.projection_dim,
            temperature=self.temperature,
        )


class TwoTowers(Method):
    """Encoders of images and of captions, and a linear projection of each; the text tower ships."""

    view_groups: ClassVar[ViewGroups] = {PLAIN_VIEW: 1}
    columns: ClassVar[Mapping[str, str]] = {CAPTION: "of each image, by source.captions"}
    accumulates: ClassVar[bool] = False

    @staticmethod
    def default_views(size: int) -> Views:
        """Make a crop of nearly all of the image; no mirror, as captions tell left from right."""
        return plain_views(size, (0.9, 1.0), flip=0.0)

    def __init__(
        self, config: TwoTowersConfig, encoder_config: EncoderConfig, views: Views, seed: int
    ) -> None:
        super().__init__(config, encoder_config, views, seed)
        # right after the encoder: an untrained one is built again from the seed
        self.text_tower = TextTower(config.tower(), self.encoder.embed_dim)

    @property
    def log_scale(self) -> Tensor:
        """Return the logarithm of what multiplies cosine similarities, a learnt scalar."""
        return self.text_tower.log_scale

    def project(self, embedding: Tensor) -> Tensor:
        """Return what captions are compared with, of embeddings (B, D): (B, projection_dim)."""
        projected: Tensor = self.text_tower.image_projection(embedding)
        return projected

    def compared(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Encode images and captions.

        Returns:
            The encoder's embedding of the images (B, D), and the projections of images and captions
            (B, projection_dim) each.
        """
        embedding = self.encoder(batch["views"][PLAIN_VIEW][0])
        return embedding, self.project(embedding), self.text_tower(batch["targets"][CAPTION])
