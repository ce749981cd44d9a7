"""Colour copied through video (Vondrick 2018, "Tracking Emerges by Colorizing Videos",
arXiv:1806.09594).

The encoder sees the lightness of a few frames. Each place of the last one, the target, points to
the places of the frames before it that look like it, and copies their colour: the colour told is an
average of theirs, weighted by a softmax over inner products of features. What a thing is coloured
like in this very video need not be known beforehand, only where it was, so that the features come
to tell which places are one and the same thing. Colours are classes: the a and b of Lab, clustered
to 16 by k-means (section 3.3).

It does not collapse: where all features are equal, each place copies the mean of the references.
But it cheats where nothing moves, as the colour of the same place is then right. So `still_top1`
says how often copying straight through time would be right, and only what `colour_top1` has beyond
it was learnt by looking. Target and references lie close in time (`clip.frame_stride`), or things
change their looks.

The paper puts 3-D convolutions over the features of frames, and copies by them. Here frames are
encoded one by one, and a linear projection is all that is dropped afterwards.
"""

import math
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from augment.lab import rgb_to_lab
from augment.presets import PLAIN_VIEW, plain_views
from augment.recipe import Views
from models.clustering.k_means import k_means, nearest
from models.collectives import gather, global_mean
from models.encoders.factory import EncoderConfig
from models.generative.colorization import grey_images, painted
from models.method import Batch, Media, Method, MethodConfig, ViewGroups

_ROUNDS = 20  # of k-means
_FLOOR = 1e-8  # of a probability, below which its logarithm is cut off
_FIRST_STEP = 40.0  # between the colours that stand in before any was seen, in units of a and b


class VideoColorizationConfig(MethodConfig):
    """Settings of copying colour; the defaults are the paper's."""

    name: Literal["video_colorization"] = "video_colorization"
    num_colours: int = Field(
        default=16, ge=2, le=64, description="clusters of colours, of the first step's frames"
    )
    temperature: float = Field(
        default=1.0, gt=0, description="inner products of features are divided by it"
    )
    projection_dim: int = Field(default=64, ge=1, description="features that are compared")


class VideoColorization(Method):
    """Encoder of grey frames, a linear projection, and the cross entropy of copied colours.

    Raises:
        ValueError: the encoder gives no maps of single frames that hold all its embedding is made
            of.
    """

    Config: ClassVar[type[MethodConfig]] = VideoColorizationConfig
    small: ClassVar[MethodConfig] = VideoColorizationConfig(num_colours=6, projection_dim=16)
    small_px: ClassVar[int] = 32
    view_groups: ClassVar[ViewGroups] = {PLAIN_VIEW: 1}
    media: ClassVar[Media] = "clip"
    accumulates: ClassVar[bool] = True
    colours: Tensor

    @staticmethod
    def default_views(size: int) -> Views:
        """Make a single crop and flip, colours untouched."""
        return plain_views(size, (0.4, 1.0))

    def __init__(
        self,
        config: VideoColorizationConfig,
        encoder_config: EncoderConfig,
        views: Views,
        seed: int,
    ) -> None:
        super().__init__(config, encoder_config, views, seed)
        by = "method.name=video_colorization"
        self.encoder.require("frames", by)
        self.encoder.require("trainable_maps", by)
        self.settings = config
        self.projection = nn.Conv2d(self.encoder.map_dim, config.projection_dim, 1)
        side = torch.arange(math.isqrt(config.num_colours - 1) + 1) * _FIRST_STEP
        grid = torch.cartesian_prod(side - side.mean(), side - side.mean())
        self.register_buffer("colours", grid[: config.num_colours].clone())
        self._begins = True  # as far as this process knows; a resumed run's state has colours
        self._seen: Tensor | None = None  # the first step's colours of all workers

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Copy the colours of the last frame from those before it.

        Returns:
            loss: Cross entropy, nats, of each place's colour; mean over places and over the global
                batch's valid samples.
            colour_top1: Fraction of the places whose colour is told.
            still_top1: Fraction of which copying the colour of the same place of the frame before
                would be right.
            embedding: The mean of the grey frames' embeddings (B, D), detached; rows of invalid
                samples included.

        Raises:
            ValueError: clips have one frame.
        """
        clips = batch["views"][PLAIN_VIEW][0]  # (B, T, 3, S, S)
        if clips.shape[1] < 2:
            raise ValueError("method.name=video_colorization needs clip.num_frames>=2")
        valid = batch["valid"]
        maps, features, ab = self._looked_at(clips)
        label = self._labels(ab)  # (B, T, h * w)
        told = self._copied(features, label)  # (B, h * w, K)
        target = label[:, -1]
        chance = told.gather(2, target.unsqueeze(2)).squeeze(2)
        entropy = -chance.clamp(min=_FLOOR).log().mean(1)
        right = (told.detach().argmax(2) == target).float().mean(1)
        still = (label[:, -2] == target).float().mean(1)
        self._keep(ab, valid)
        embedding = self.encoder.pool(maps.flatten(0, 1)).unflatten(0, clips.shape[:2])
        return {
            "loss": global_mean(entropy, valid),
            "colour_top1": global_mean(right, valid),
            "still_top1": global_mean(still, valid),
            "embedding": embedding.mean(1).detach(),
        }

    @torch.no_grad()
    def after_step(self, step: int, num_steps: int) -> None:
        """Cluster the colours of the first step."""
        super().after_step(step, num_steps)
        if step == 1 and self._seen is not None and len(self._seen) >= len(self.colours):
            clusters = k_means(self._seen, len(self.colours), iterations=_ROUNDS, seed=self.seed)
            self.colours.copy_(clusters[0])
        self._begins = False
        self._seen = None

    @torch.no_grad()
    def show(self, batch: Batch) -> dict[str, Tensor]:
        """Draw the last frame as the encoder sees it and, once something is learnt, in the colours
        that are copied to it."""
        clips = batch["views"][PLAIN_VIEW][0]
        lab = rgb_to_lab(self.to_rgb(clips[:, -1].float()))
        shown = {"grey input": (lab[:, :1] / 100).expand_as(lab).clamp(0, 1)}
        if self.progress > 0:
            maps, features, ab = self._looked_at(clips)
            told = self._copied(features, self._labels(ab)) @ self.colours  # (B, h * w, 2)
            shown["copied colours"] = painted(lab[:, :1], told.mT.unflatten(2, maps.shape[-2:]))
        return shown

    def _looked_at(self, clips: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Encode grey frames.

        Returns:
            Their maps (B, T, D, h, w), what is compared of them (B, T, h * w, P) float32, and their
                colours at the same places (B, T, 2, h, w) float32.
        """
        frames = clips.flatten(0, 1)
        lab = rgb_to_lab(self.to_rgb(frames.float()))
        grey = grey_images(lab, self.image_views).to(clips.dtype)
        maps = self.encoder.maps(grey.unsqueeze(1))  # each frame as a clip of its own
        features = self.projection(maps).float().flatten(2).mT
        ab = functional.interpolate(lab[:, 1:], size=maps.shape[-2:], mode="area")
        both = clips.shape[:2]
        return maps.unflatten(0, both), features.unflatten(0, both), ab.unflatten(0, both)

    def _labels(self, ab: Tensor) -> Tensor:
        """Return the cluster of each colour (B, T, 2, h, w), (B, T, h * w) int64."""
        points = ab.flatten(3).mT  # (B, T, h * w, 2)
        return nearest(points.flatten(0, 2), self.colours).view(points.shape[:3])

    def _copied(self, features: Tensor, label: Tensor) -> Tensor:
        """Return the chance of each colour at every place of the target, (B, h * w, K) float32."""
        with torch.autocast(features.device.type, enabled=False):
            references = features[:, :-1].flatten(1, 2)  # (B, (T - 1) * h * w, P)
            alike = features[:, -1] @ references.mT / self.settings.temperature
            held = functional.one_hot(label[:, :-1].flatten(1), len(self.colours)).float()
            return alike.softmax(2) @ held

    @torch.no_grad()
    def _keep(self, ab: Tensor, valid: Tensor) -> None:
        """Keep the first step's colours of all workers' valid samples for their clusters."""
        if self.training and self._begins:
            points = gather(ab.movedim(2, -1).flatten(1, 3))  # (W * B, n, 2)
            self._seen = points[gather(valid.float()) > 0].flatten(0, 1)
