"""A small method with a discriminator, as no shipped one has it yet: the tests' own."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar, Literal

from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from augment.recipe import CropGroup, Views
from models import optim
from models.collectives import global_mean
from models.encoders.factory import EncoderConfig
from models.method import Batch, Method, MethodConfig, ViewGroups
from models.registry import METHODS

NAME = "adversarial"
_GROUP = "global_crops"
_SIDE = 4  # of the images that are painted, px


class AdversarialConfig(MethodConfig):
    name: Literal["adversarial"] = "adversarial"


class Adversarial(Method):
    """Paint a thumbnail of the view that a discriminator cannot tell from the real one."""

    Config: ClassVar[type[MethodConfig]] = AdversarialConfig
    small: ClassVar[MethodConfig] = AdversarialConfig()
    view_groups: ClassVar[ViewGroups] = {_GROUP: 1}
    adversarial: ClassVar[bool] = True
    accumulates: ClassVar[bool] = True

    @staticmethod
    def default_views(size: int) -> Views:
        return Views(size=size, groups={_GROUP: CropGroup()})

    def __init__(
        self, config: MethodConfig, encoder_config: EncoderConfig, views: Views, seed: int
    ) -> None:
        super().__init__(config, encoder_config, views, seed)
        pixels = 3 * _SIDE**2
        self.generator = nn.Linear(self.encoder.embed_dim, pixels)
        self.discriminator = nn.Sequential(
            nn.Linear(pixels, 32, bias=False), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 1)
        )

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        images, valid = batch["views"][_GROUP][0], batch["valid"]
        embedding = self.encoder(images)
        fake = self.generator(embedding).float()
        real = functional.adaptive_avg_pool2d(images.float(), _SIDE).flatten(1)
        held = {name: value.detach() for name, value in self.discriminator.named_parameters()}
        judged = functional_call(self.discriminator, held, fake)
        painted = (fake - real).square().mean(1) + functional.softplus(-judged).squeeze(1)
        told = functional.softplus(-self.discriminator(real))
        told = told + functional.softplus(self.discriminator(fake.detach()))
        return {
            "loss": global_mean(painted, valid),
            "discriminator_loss": global_mean(told.squeeze(1), valid),
            "embedding": embedding.detach(),
        }

    def param_groups(self) -> list[optim.ParamGroup]:
        groups = []
        for name, part in self.named_children():
            for group in optim.param_groups(part):
                group["name"] = f"{name}_{group['name']}"
                group["optimizer"] = "discriminator" if name == "discriminator" else "main"
                groups.append(group)
        return groups


@contextmanager
def registered() -> Iterator[None]:
    """Have the method in the registry for a while."""
    METHODS[NAME] = Adversarial
    try:
        yield
    finally:
        del METHODS[NAME]
