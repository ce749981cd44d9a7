"""Encoders of timm and torchvision, with random weights and without their classifiers."""

from typing import Any

import timm
import torch
import torchvision
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torchvision.models._api import get_model, list_models

from models.encoders.encoder import Encoder
from models.encoders.vit import VisionTransformerEncoder

_TIMM_VIT_MODULES = ("vision_transformer", "deit")
_TORCHVISION_CLASSIFIERS = ("fc", "classifier", "heads", "head")
# In training these return a tuple with auxiliary class scores.
_TORCHVISION_EXCLUDED = {"googlenet", "inception_v3"}


class PooledEncoder(Encoder):
    """Any network whose output, once flattened, is the embedding.

    Args:
        network: Takes (B, 3, S, S); returns (B, D) or (B, D, 1, 1).
        image_size: Side of the images, pixels; the embedding's length is found by embedding one blank image.
        name: The encoder's name, for messages.

    Raises:
        ValueError: the network cannot take images of this size.
    """

    def __init__(self, network: nn.Module, image_size: int, name: str) -> None:
        super().__init__()
        self.network = network
        self.embed_dim = self._probe_embed_dim(image_size, name)

    def _probe_embed_dim(self, image_size: int, name: str) -> int:
        self.eval()  # batch norm would refuse one value per channel, and would keep it
        try:
            with torch.no_grad():
                return int(self(torch.zeros(1, 3, image_size, image_size)).shape[1])
        except (RuntimeError, AssertionError) as error:
            raise ValueError(
                f"encoder.name={name} cannot take images of {image_size} px ({error}); change views.size"
            ) from error
        finally:
            self.train()

    def forward(self, images: Tensor) -> Tensor:
        """Embed images (B, 3, S, S) as (B, D)."""
        features: Tensor = self.network(images)
        return features.flatten(1)  # (B, D)


def timm_names() -> list[str]:
    """Architectures of timm, without pretrained tags."""
    return timm.list_models()


def is_timm_name(name: str) -> bool:
    """Whether timm knows the architecture; a pretrained tag after a dot is allowed and has no effect."""
    return bool(timm.is_model(name))


def timm_encoder(name: str, image_size: int) -> Encoder:
    """Build a timm network for images of `image_size` px; vision transformers get the adapter that can drop tokens.

    Raises:
        ValueError: the image size does not suit the network.
    """
    if timm.models.is_model_in_modules(name.partition(".")[0], _TIMM_VIT_MODULES):
        vit = timm.create_model(
            name,
            pretrained=False,
            num_classes=0,
            img_size=image_size,
            fc_norm=False,  # the last norm belongs to the tokens: a decoder reads them, not only their mean
            weight_init="jax",  # Xavier, as MAE and MoCo v3 start from
            dynamic_img_size=True,  # small crops of multi-crop
        )
        if isinstance(vit, VisionTransformer):
            _check_divisible(name, image_size, vit.patch_embed.patch_size[0])
            return VisionTransformerEncoder(vit)
    config = timm.get_pretrained_cfg(name)
    size: dict[str, Any] = (
        {"img_size": image_size} if config is not None and config.fixed_input_size else {}
    )
    return PooledEncoder(
        timm.create_model(name, pretrained=False, num_classes=0, **size), image_size, name
    )


def _check_divisible(name: str, image_size: int, patch_size: int) -> None:
    if image_size % patch_size:
        raise ValueError(
            f"views.size must be a multiple of {patch_size}, the patch size of encoder.name={name}, got {image_size}"
        )


def torchvision_names() -> list[str]:
    """Image classifiers of torchvision that return one tensor."""
    return sorted(set(list_models(module=torchvision.models)) - _TORCHVISION_EXCLUDED)


def torchvision_encoder(name: str, image_size: int) -> Encoder:
    """Build a torchvision network whose classifier is replaced by the identity.

    Raises:
        ValueError: the image size does not suit the network.
    """
    size = {"image_size": image_size} if name.startswith("vit_") else {}
    network = get_model(name, weights=None, **size)
    classifier = next(part for part in _TORCHVISION_CLASSIFIERS if hasattr(network, part))
    setattr(network, classifier, nn.Identity())
    return PooledEncoder(network, image_size, f"torchvision:{name}")
