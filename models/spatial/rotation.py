"""Rotation (Gidaris 2018, arXiv:1803.07728).

Each image is shown upright and turned by 90, 180 and 270 degrees, and the encoder must tell which
turn it was given: one has to know what is in a picture to know which way up it stands. All four
turns of an image are in the batch, as in the paper, which learns more than one drawn at random.

It cannot collapse, but it cheats wherever a turn leaves a trace that is not of the image. A turn by
90 degrees moves whole pixels and needs no interpolation, so there is none in their values. Images
without an up, such as aerial photographs or cells, teach it nothing.
"""

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from augment.presets import PLAIN_VIEW, plain_views
from augment.recipe import Views
from models.blocks.pretext import classification
from models.encoders.factory import EncoderConfig
from models.method import Batch, Method, MethodConfig, ViewGroups

_TURNS = 4


class RotationConfig(MethodConfig):
    """Rotation's settings: it has none."""

    name: Literal["rotation"] = "rotation"


class Rotation(Method):
    """Encoder, a linear classifier of four turns, and its cross entropy."""

    Config: ClassVar[type[MethodConfig]] = RotationConfig
    small: ClassVar[MethodConfig] = RotationConfig()
    view_groups: ClassVar[ViewGroups] = {PLAIN_VIEW: 1}
    accumulates: ClassVar[bool] = True

    @staticmethod
    def default_views(size: int) -> Views:
        """Make the single crop and flip of the paper (section 3.2), colours untouched."""
        return plain_views(size, (0.4, 1.0))

    def __init__(
        self, config: MethodConfig, encoder_config: EncoderConfig, views: Views, seed: int
    ) -> None:
        super().__init__(config, encoder_config, views, seed)
        self.classifier = nn.Linear(self.encoder.embed_dim, _TURNS)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Tell the four turns of each image apart.

        Returns:
            loss: Cross entropy, nats, mean over the turns and the global batch's valid samples;
                log(4) at chance.
            turn_top1: Fraction of the turns that are told; 1 / 4 at chance.
            embedding: The encoder's output for the upright image (B, D), detached; rows of invalid
                samples included.
        """
        images = batch["views"][PLAIN_VIEW][0]  # (B, 3, S, S)
        num_samples = len(images)
        embedding = self.encoder(all_turns(images).flatten(0, 1))  # (4B, D)
        with torch.autocast(images.device.type, enabled=False):
            logits = self.classifier(embedding.float())  # (4B, 4)
        logits = logits.unflatten(0, (_TURNS, num_samples)).transpose(0, 1)  # (B, 4, 4)
        label = torch.arange(_TURNS, device=images.device).expand(num_samples, _TURNS)
        loss, top1 = classification(logits, label, batch["valid"])
        return {"loss": loss, "turn_top1": top1, "embedding": embedding[:num_samples].detach()}

    def show(self, batch: Batch) -> dict[str, Tensor]:
        """Draw the turns of each image, the upright one left out."""
        turned = self.to_rgb(all_turns(batch["views"][PLAIN_VIEW][0].float()))
        return {f"turned {90 * turn}°": turned[turn] for turn in range(1, _TURNS)}


def all_turns(images: Tensor) -> Tensor:
    """Turn images (B, 3, S, S) by 0, 90, 180 and 270 degrees, pixel by pixel: (4, B, 3, S, S)."""
    return torch.stack([images.rot90(turn, dims=(-2, -1)) for turn in range(_TURNS)])
