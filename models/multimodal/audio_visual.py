"""A clip and its own soundtrack (Owens & Efros 2018, arXiv:1804.03641; Korbar 2018,
arXiv:1807.00230).

A clip must tell the sound that is heard with it among those of the other videos of the global
batch, which are easy wrong answers, and from another stretch of its own soundtrack, which is a hard
one: that was recorded in the same place, by the same microphone, so only what happens at that
moment tells. And a sound must tell its clip. Hard answers come in after a part of the run, as in
Korbar's curriculum.

It cannot collapse, as the negatives forbid it. Among other videos alone it cheats by whatever tells
recordings apart, their hiss, hum and codec, and needs no time; `in_time_top1` is then near a half.
How loud a sound is as a whole is taken away, and a stretch that is partly beyond an end of the
track is never a hard answer, as its silence would tell. It learns nothing from a hard answer where
what is seen has no moment, as a still does: the run then learns places by heart, or stays at a
half.

Owens & Efros join both in one network, and ask of each pair alone whether it is shifted; Korbar's
loss is of pairs as well, by a margin. Here both meet in one softmax over all wrong answers.
"""

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import AfterValidator, Field
from torch import Tensor
from torch.nn import functional

from augment.presets import PLAIN_VIEW, plain_views
from augment.recipe import Views
from augment.sound.log_mel import mel_picture
from models import health
from models.blocks.pretext import pair_top1
from models.collectives import global_mean, world_size
from models.encoders.factory import EncoderConfig
from models.losses import info_nce
from models.method import Batch, Media, MethodConfig
from models.multimodal.sound_tower import SoundTowerConfig
from models.multimodal.two_senses import TwoSenses, TwoSensesConfig

PICTURE_PX = 112


def _gap(bounds: tuple[float, float]) -> tuple[float, float]:
    if not 0 < bounds[0] <= bounds[1]:
        raise ValueError(f"the lower bound comes first and is above 0, got {bounds}")
    return bounds


class AudioVisualConfig(TwoSensesConfig):
    """Settings of clips and their soundtracks."""

    name: Literal["audio_visual"] = "audio_visual"
    sound_s: float = Field(
        default=4.2,
        gt=0.02,
        le=60,
        description="sound around the middle of the frames, seconds; what a track lacks is silence",
    )
    shift_s: Annotated[tuple[float, float], AfterValidator(_gap)] = Field(
        default=(2.0, 5.8),
        description=(
            "how much earlier or later the hard wrong answer is heard, at least and at most,"
            " seconds; a track that has no such stretch gives none"
        ),
    )
    hard_from: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="part of the run after which hard answers count; 1: never, 0: from the start",
    )
    temperature: float = Field(default=0.1, gt=0, description="divides the cosine similarities")

    @property
    def elsewhere_s(self) -> tuple[float, float] | None:
        """Return how far away the sound of another moment is."""
        return self.shift_s


class AudioVisual(TwoSenses):
    """Encoder of clips, tower of sounds, and InfoNCE both ways."""

    Config: ClassVar[type[MethodConfig]] = AudioVisualConfig
    small: ClassVar[MethodConfig] = AudioVisualConfig(
        sound_s=0.25,
        sound_rate=8_000,
        hard_from=0,
        tower=SoundTowerConfig(width=4),
        projection_dim=16,
    )
    media: ClassVar[Media] = "clip"

    @staticmethod
    def default_views(size: int) -> Views:
        """Make a crop of a clip, perhaps mirrored: a sound has no side."""
        return plain_views(size, (0.4, 1.0))

    def __init__(
        self, config: AudioVisualConfig, encoder_config: EncoderConfig, views: Views, seed: int
    ) -> None:
        super().__init__(config, encoder_config, views, seed)
        self.settings = config

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Tell each clip's sound, and each sound's clip.

        Returns:
            loss: Mean of both ways over the global batch's valid samples, nats; log of their number
                at chance, and one more wrong answer for clips once there are hard ones.
            info_nce_bound: Nats that clips and sounds share, as telling clips certifies.
            sound_top1: Share of this worker's clips whose sound, of this worker's only, is the
                nearest; 1 / B at chance.
            in_time_top1: Share of clips that are nearer to their sound than to that of another
                moment, of those that have one; 1 / 2 at chance.
            shifted: Share of the global batch's valid clips that have a sound of another moment.
            embedding: The encoder's output (B, D), detached; rows of invalid samples included.
        """
        embedding = self.encoder(batch["views"][PLAIN_VIEW][0])  # (B, D)
        valid = batch["valid"]
        sounds = self.heard(batch)  # (B, 2, L)
        clips = self.projection_head(embedding)  # (B, P)
        own, other = self.sound_tower(sounds.flatten(0, 1)).unflatten(0, (-1, 2)).unbind(1)
        shifted = sounds[:, 1].any(dim=1)  # zeros: there is none
        hard = shifted & (self.progress >= self.settings.hard_from)
        temperature = self.settings.temperature
        forth = info_nce(clips, own, temperature=temperature, valid=valid, decoys=(other, hard))
        back = info_nce(own, clips, temperature=temperature, valid=valid)
        bound = health.info_nce_bound(back.detach(), world_size() * valid.sum())
        return {
            "loss": (forth + back) / 2,
            "info_nce_bound": bound,
            "sound_top1": pair_top1(clips, own, valid),
            "in_time_top1": global_mean(_nearer(clips, own, other), valid & shifted),
            "shifted": global_mean(shifted.float(), valid),
            "embedding": embedding.detach(),
        }

    @torch.no_grad()
    def show(self, batch: Batch) -> dict[str, Tensor]:
        """Draw the log-mel spectra of each clip's sound and of its sound at another moment."""
        names = ("own sound", "another moment")
        stretches = zip(names, self.heard(batch).unbind(1), strict=True)
        rate = self.settings.sound_rate
        return {name: mel_picture(sounds, rate, PICTURE_PX) for name, sounds in stretches}


def _nearer(anchors: Tensor, right: Tensor, wrong: Tensor) -> Tensor:
    """Tell which anchors (B, P) are more like the right answer than the wrong one, (B,) 0 or 1."""
    anchors, right, wrong = (x.detach().float() for x in (anchors, right, wrong))
    likes = [functional.cosine_similarity(anchors, x, dim=1) for x in (right, wrong)]
    return (likes[0] > likes[1]).float()
