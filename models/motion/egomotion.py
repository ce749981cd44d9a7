"""Egomotion (Agrawal 2015, arXiv:1505.01596): an agent that moves knows how, and sees what that
does.

Two frames of a moving camera pass through the same encoder, and a small network must tell from both
sets of maps how the camera moved between them: how far to the side and ahead, and how it turned,
each as one of several classes. To tell, the encoder must know what of one frame is what of the
other. Poses of the frames are the only supervision, and are no labels of what is seen.

It cannot collapse, but where the camera always moves alike there is nothing to tell: classes are
equally frequent among all pairs of the poses, and `beside_mean` compares with telling the mean.
Views must not be mirrored, as motion would be.
"""

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from augment.presets import PLAIN_VIEW, plain_views
from augment.recipe import PairKind, Views
from models.blocks.map_decoder import map_grid
from models.blocks.pretext import classification
from models.collectives import global_mean
from models.encoders.factory import EncoderConfig
from models.method import Batch, Method, MethodConfig, ViewGroups

Component = Literal["x", "y", "z", "pitch", "yaw", "roll"]
_ORDER: tuple[Component, ...] = ("x", "y", "z", "pitch", "yaw", "roll")  # of the batch's column


class EgomotionConfig(MethodConfig):
    """Settings of egomotion."""

    name: Literal["egomotion"] = "egomotion"
    components: Annotated[tuple[Component, ...], Field(min_length=1)] = Field(
        default=("x", "z", "yaw"),
        description="what is told: motion to the right, down, ahead; turns about the same axes",
    )
    num_classes: int = Field(
        default=20, ge=2, description="classes of a component, equally frequent among all pairs"
    )
    width: int = Field(default=128, ge=1, description="channels of the network over both frames")


class Egomotion(Method):
    """Encoder of two frames, a network over their maps, and its cross entropy.

    Raises:
        ValueError: views are mirrored, or the encoder gives no maps that hold all its embedding is
            made of.
    """

    Config: ClassVar[type[MethodConfig]] = EgomotionConfig
    small: ClassVar[MethodConfig] = EgomotionConfig(num_classes=4, width=16)
    view_groups: ClassVar[ViewGroups] = {PLAIN_VIEW: 1}
    pairs: ClassVar[tuple[PairKind, ...]] = ("colours",)
    posed: ClassVar[bool] = True
    accumulates: ClassVar[bool] = True

    @staticmethod
    def default_views(size: int) -> Views:
        """Make a single large crop, never mirrored, colours untouched."""
        return plain_views(size, (0.7, 1.0), flip=0.0)

    def __init__(
        self, config: EgomotionConfig, encoder_config: EncoderConfig, views: Views, seed: int
    ) -> None:
        super().__init__(config, encoder_config, views, seed)
        self.encoder.require("trainable_maps", by="method.name=egomotion")
        if views.groups[PLAIN_VIEW].flip:
            raise ValueError(
                f"views.groups.{PLAIN_VIEW}.flip={views.groups[PLAIN_VIEW].flip:g} would mirror the"
                " frames and not the motion between them: set it to 0"
            )
        self.told = [_ORDER.index(component) for component in config.components]
        self.num_classes = config.num_classes
        rows, columns = map_grid(self.encoder, views.size)
        self.compare = nn.Sequential(
            nn.Conv2d(2 * self.encoder.map_dim, config.width, kernel_size=3, padding=1),
            nn.ReLU(inplace=True),
            nn.Flatten(),
            nn.Linear(config.width * rows * columns, len(self.told) * config.num_classes),
        )

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Tell how the camera moved.

        Returns:
            loss: Cross entropy, nats, mean over the components and the global batch's valid
                samples; log(num_classes) at chance.
            ego_top1: Share of the components that are told; 1 / num_classes at chance.
            beside_mean: How far the expected rank of a component is from the true one, as a share
                of how far the middle is; 1 where nothing is told.
            embedding: Of the first frame (B, D), detached; rows of invalid samples included.
        """
        maps, logits = self._told(batch)
        motion = batch["targets"]["motion"][:, self.told]  # ranks, (B, C)
        label = (motion * self.num_classes).long().clamp(0, self.num_classes - 1)
        loss, top1 = classification(logits, label, batch["valid"])
        shares = logits.detach().float().softmax(dim=2)
        middles = torch.arange(self.num_classes, device=motion.device, dtype=shares.dtype) + 0.5
        expected = shares @ (middles / self.num_classes)
        error, of_mean = (
            global_mean((guess - motion).abs().mean(dim=1).float(), batch["valid"])
            for guess in (expected, torch.full_like(motion, 0.5))
        )
        return {
            "loss": loss,
            "ego_top1": top1,
            "beside_mean": error / of_mean.clamp(min=torch.finfo(error.dtype).eps),
            "embedding": self.encoder.pool(maps).detach(),
        }

    def _told(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the maps of first frames, and scores of the classes (B, C, K)."""
        first = batch["views"][PLAIN_VIEW][0]  # (B, 3, S, S)
        second = self.from_rgb(batch["targets"]["pair"][:, 0].to(first.dtype) / 255)
        both = self.encoder.maps(torch.cat([first, second]))
        of_first, of_second = both.chunk(2)
        scores = self.compare(torch.cat([of_first, of_second], dim=1))
        return of_first, scores.unflatten(1, (len(self.told), self.num_classes))

    @torch.no_grad()
    def show(self, batch: Batch) -> dict[str, Tensor]:
        """Draw both frames, and what differs between them."""
        first = batch["views"][PLAIN_VIEW][0]
        second = self.from_rgb(batch["targets"]["pair"][:, 0].to(first.dtype) / 255)
        shown = {"first": self.to_rgb(first), "second": self.to_rgb(second)}
        return shown | {"difference": (shown["first"] - shown["second"]).abs()}
