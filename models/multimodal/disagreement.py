"""Least disagreement of two senses (de Sa 1993, "Learning Classification with Unlabeled Data").

A frame and the sound that is heard with it are classed each by a code book of its own, and each is
taught the class that the other gives: nobody else knows one. What both senses can tell becomes the
classes; what one alone tells, the other contradicts.

It collapses if nothing forbids it: where both always say the same class, they never disagree. Here
what teaches is the class that a sample has once every class has an equal share of the global batch
(Sinkhorn's assignment, as SwAV's), so a class that takes all is never taught. It must be a class
and no share of several: with shares both ended at the same share of every class, on 210 videos.
Where things are unevenly frequent, large kinds are cut and small ones joined; and a batch must be
larger than the classes are many. It cheats by what tells recordings apart in picture and sound
alike, as one camera's hiss and colours.

De Sa moves code vectors by the rule of learning vector quantisation, over features that are given;
here gradients move code books and both encoders.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from augment.presets import PLAIN_VIEW, plain_views
from augment.recipe import Views
from augment.sound.log_mel import heat, mel_picture
from models import health
from models.blocks.pretext import classification
from models.clustering.sinkhorn import sinkhorn
from models.collectives import global_mean
from models.encoders.factory import EncoderConfig
from models.method import Batch, MethodConfig
from models.multimodal.sound_tower import SoundTowerConfig
from models.multimodal.two_senses import TwoSenses, TwoSensesConfig

PICTURE_PX = 112


class DisagreementConfig(TwoSensesConfig):
    """Settings of least disagreement."""

    name: Literal["disagreement"] = "disagreement"
    num_classes: int = Field(default=30, ge=2, description="classes K")
    projection_dim: int = Field(
        default=128, ge=2, description="features in which code books of frames and of sounds live"
    )
    temperature: float = Field(
        default=0.1, gt=0, description="divides the cosine similarities of what is told"
    )
    epsilon: float = Field(
        default=0.05,
        gt=0,
        description="divides those that are given equal shares; smaller is nearer to equal classes",
    )
    sinkhorn_iterations: int = Field(
        default=10,
        ge=1,
        description="rounds of giving every class an equal share; after few, two kinds share one",
    )


class Disagreement(TwoSenses):
    """Encoder of frames, tower of sounds, and a code book of each."""

    Config: ClassVar[type[MethodConfig]] = DisagreementConfig
    small: ClassVar[MethodConfig] = DisagreementConfig(
        sound_s=0.25,
        sound_rate=8_000,
        num_classes=3,
        tower=SoundTowerConfig(width=4),
        projection_dim=16,
        temperature=1,  # labels that are nearly ties weigh little
    )

    @staticmethod
    def default_views(size: int) -> Views:
        """Make a crop of most of a frame, perhaps mirrored: a sound has no side."""
        return plain_views(size, (0.6, 1.0))

    def __init__(
        self, config: DisagreementConfig, encoder_config: EncoderConfig, views: Views, seed: int
    ) -> None:
        super().__init__(config, encoder_config, views, seed)
        self.settings = config
        self.seen_codes = nn.Parameter(_directions(config.num_classes, config.projection_dim))
        self.heard_codes = nn.Parameter(_directions(config.num_classes, config.projection_dim))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Tell the class of each frame that its sound gives, and of each sound that its frame
        gives.

        Returns:
            loss: Cross entropy, nats, mean of both ways over the global batch's valid samples;
                log K at chance.
            taught_top1: Share of what is told that is the class that is taught; 1 / K at chance.
            agreement: Share of valid samples whose frame and sound are nearest to the code of the
                same class; about 1 / K at chance.
            class_entropy: Of this worker's mean told class of frames, nats; log K where all are
                told equally often.
            embedding: The encoder's output (B, D), detached; rows of invalid samples included.
        """
        embedding = self.encoder(batch["views"][PLAIN_VIEW][0])  # (B, D)
        valid = batch["valid"]
        sounds = self.heard(batch)[:, 0]
        with torch.autocast(embedding.device.type, enabled=False):
            seen = _alike(self.projection_head(embedding.float()), self.seen_codes)  # (B, K)
            heard = _alike(self.sound_tower(sounds), self.heard_codes)
            told = torch.stack([seen, heard], dim=1) / self.settings.temperature  # (B, 2, K)
            taught = torch.stack([self._class(x.detach(), valid) for x in (heard, seen)], dim=1)
            loss, right = classification(told, taught, valid)
        same = (seen.argmax(1) == heard.argmax(1)).float()
        used = told[:, 0].detach().softmax(1).where(valid.unsqueeze(1), 0.0)
        return {
            "loss": loss,
            "taught_top1": right,
            "agreement": global_mean(same, valid),
            "class_entropy": health.prototype_entropy(used),
            "embedding": embedding.detach(),
        }

    def _class(self, scores: Tensor, valid: Tensor) -> Tensor:
        """Give each sample the class of its largest share, (B,) int64, once every class has an
        equal share of the global batch's valid samples."""
        config = self.settings
        rounds = config.sinkhorn_iterations
        shares = sinkhorn(scores, valid.to(scores), epsilon=config.epsilon, iterations=rounds)
        return shares.argmax(1)

    @torch.no_grad()
    def show(self, batch: Batch) -> dict[str, Tensor]:
        """Draw the log-mel spectrum of each frame's sound; and how like its codes each is, the
        frame above, the sound below."""
        sounds = self.heard(batch)[:, 0]
        frames = self.projection_head(self.encoder(batch["views"][PLAIN_VIEW][0]))
        seen = _alike(frames, self.seen_codes)
        heard = _alike(self.sound_tower(sounds), self.heard_codes)
        return {
            "heard": mel_picture(sounds, self.settings.sound_rate, PICTURE_PX),
            "class": heat(torch.stack([seen, heard], dim=1), PICTURE_PX),
        }


def _directions(count: int, dim: int) -> Tensor:
    """Draw unit vectors, (count, dim)."""
    return functional.normalize(torch.randn(count, dim), dim=1)


def _alike(features: Tensor, codes: Tensor) -> Tensor:
    """Return the cosine similarities of features (B, P) and codes (K, P), (B, K)."""
    return functional.normalize(features.float(), dim=1) @ functional.normalize(codes, dim=1).T
