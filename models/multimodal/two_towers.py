"""An encoder of images and one of their captions, whose projections are compared."""

from collections.abc import Mapping
from typing import ClassVar, Self

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

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

    freeze_encoder: bool = Field(
        default=False,
        description=(
            "leave the encoder of images as encoder.weights made it, and learn to read for it"
            " alone (LiT, arXiv:2111.07991)"
        ),
    )

    @property
    def keeps_weights(self) -> str | None:
        """Return the setting that leaves the encoder as it starts."""
        return "method.freeze_encoder=true" if self.freeze_encoder else None

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
        self._frozen = config.freeze_encoder
        if self._frozen:
            self.encoder.requires_grad_(False).eval()
        # right after the encoder: an untrained one is built again from the seed
        self.text_tower = TextTower(config.tower(), self.encoder.embed_dim)

    def train(self, mode: bool = True) -> Self:
        """Go into training mode, but for an encoder that stays as it is."""
        super().train(mode)
        if self._frozen:
            self.encoder.eval()
        return self

    @property
    def log_scale(self) -> Tensor:
        """Return the logarithm of what multiplies cosine similarities, a learnt scalar."""
        return self.text_tower.log_scale

    def project(self, embedding: Tensor) -> Tensor:
        """Return what captions are compared with, of embeddings (B, D): (B, projection_dim)."""
        projected: Tensor = self.text_tower.image_projection(embedding)
        return projected

    def project_beside(self, targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return what images are compared with, of captions (B, L): (B, projection_dim)."""
        return {"captions": self.text_tower(targets[CAPTION])} if CAPTION in targets else {}

    @torch.no_grad()
    def show(self, batch: Batch) -> dict[str, Tensor]:
        """Draw how alike each image and every caption of the batch are, a column a caption, the
        darkest the most alike; red stands at the image's own. Nothing where captions are not
        known."""
        if CAPTION not in batch.get("targets", {}):
            return {}
        _, images, texts = self.compared(batch)
        images, texts = (functional.normalize(x.float(), dim=1) for x in (images, texts))
        alike = images @ texts.T  # (B, B)
        low, high = alike.amin(), alike.amax()
        light = 1 - (alike - low) / (high - low).clamp(min=1e-6)
        height, width = batch["views"][PLAIN_VIEW].shape[-2:]
        column = torch.arange(width, device=light.device) * len(alike) // width
        row = light[:, column].unsqueeze(1).expand(-1, height, -1)  # (B, H, W)
        drawn = row.unsqueeze(1).repeat(1, 3, 1, 1)  # (B, 3, H, W)
        own = column == torch.arange(len(alike), device=light.device).unsqueeze(1)  # (B, W)
        edge = max(1, height // 10)
        red = drawn.new_tensor([0.85, 0.1, 0.1]).view(3, 1, 1)
        for rows in (slice(0, edge), slice(height - edge, height)):
            drawn[:, :, rows] = torch.where(own[:, None, None], red, drawn[:, :, rows])
        return {"captions, alike": drawn}

    def compared(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Encode images and captions.

        Returns:
            The encoder's embedding of the images (B, D), and the projections of images and captions
            (B, projection_dim) each.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self._frozen):
            embedding = self.encoder(batch["views"][PLAIN_VIEW][0])
        return embedding, self.project(embedding), self.text_tower(batch["targets"][CAPTION])
