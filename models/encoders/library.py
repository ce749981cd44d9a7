"""Encoders of timm and torchvision, with random weights and without their classifiers."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import timm
import torch
import torchvision
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torchvision.models._api import get_model, list_models

from models.encoders.clips.time_settings import CLIP_NETWORKS
from models.encoders.encoder import Encoder, Feature, Pooling, Tokens
from models.encoders.vit import VisionTransformerEncoder

_TIMM_VIT_MODULES = ("vision_transformer", "deit")
_TORCHVISION_CLASSIFIERS = ("fc", "classifier", "heads", "head")
# In training these return a tuple with auxiliary class scores.
_TORCHVISION_EXCLUDED = {"googlenet", "inception_v3"}
# What networks raise that have no maps, or have them under other names.
_NO_MAPS = (
    AttributeError,
    NotImplementedError,
    RuntimeError,
    AssertionError,
    TypeError,
    IndexError,
)


class LibraryEncoder(Encoder):
    """Any network whose output, once flattened, is the embedding.

    With a pooling other than auto the embedding is made of the feature maps; what the network has
    beyond them is then frozen, as no gradient reaches it.

    Args:
        network: Takes (B, 3, S, S); returns (B, D) or (B, D, 1, 1).
        image_size: Side of the images, pixels; the embedding's length is found by embedding one
            blank image.
        name: The encoder's name, for messages.

    Raises:
        ValueError: the network cannot take images of this size.
    """

    core = "network"

    def __init__(self, network: nn.Module, image_size: int, name: str) -> None:
        super().__init__()
        self.network = network
        self.image_size = image_size
        self.name = name
        self.embed_dim = self._find_embed_dim()

    def _find_embed_dim(self) -> int:
        try:
            return int(self._try(self.forward, self._blank()).shape[1])
        except (RuntimeError, AssertionError) as error:
            raise ValueError(
                f"encoder.name={self.name} cannot take images of {self.image_size} px ({error}); "
                "change views.size"
            ) from error

    def forward(self, images: Tensor) -> Tensor:
        """Embed images (B, 3, S, S) as (B, D)."""
        if self.pooling != "auto":
            return self.pool(self.maps(images))
        features: Tensor = self.network(images)
        return features.flatten(1)  # (B, D)

    @property
    def poolings(self) -> tuple[Pooling, ...]:
        """Return those over the places of the map, where the network has one."""
        return ("auto", "mean", "max", "gem") if self.supports("maps") else ("auto",)

    def supports(self, feature: Feature) -> bool:
        """Tell whether the encoder gives this: maps, and whether the embedding is made of them."""
        if feature == "trainable_maps":
            return self.supports("maps") and (self.pooling != "auto" or self.averages_its_maps)
        return feature == "maps" and self.map_dim > 0

    def use_pooling(self, pooling: Pooling) -> None:
        """Choose how `forward` makes embeddings, once, before anything is trained."""
        super().use_pooling(pooling)
        if pooling != "auto":
            self.embed_dim = self.map_dim
            self._freeze_beyond_maps()

    @property
    def pools_its_layers(self) -> bool:
        """Tell whether it was built to pool its maps: the network's own way is another."""
        return self.pooling != "auto"

    @cached_property
    def map_dim(self) -> int:
        """Return the channels of the feature maps; 0 where the network gives none."""
        try:
            maps = self._try(self.maps, self._blank())
        except _NO_MAPS:
            return 0
        return maps.shape[1] if maps.ndim == 4 else 0

    @cached_property
    def averages_its_maps(self) -> bool:
        """Tell whether the network's embedding is the mean of its maps, tried on noise."""
        generator = torch.Generator().manual_seed(0)
        noise = torch.rand(1, *self._sample_shape(), generator=generator)
        mean = self._try(self.maps, noise).mean(dim=(2, 3))
        embedding = self._try(self.forward, noise)
        return mean.shape == embedding.shape and torch.allclose(
            mean, embedding, rtol=1e-3, atol=1e-4
        )

    def _freeze_beyond_maps(self) -> None:
        """Freeze what the maps do not depend on: data-parallel training waits for its gradient."""
        parameters = [each for each in self.network.parameters() if each.requires_grad]
        training = self.training
        self.eval()
        with torch.enable_grad():
            total = self.maps(self._blank()).sum()
            gradients = torch.autograd.grad(total, parameters, allow_unused=True)
        self.train(training)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.requires_grad_(gradient is not None)

    def _blank(self) -> Tensor:
        device = next(self.network.parameters()).device
        return torch.zeros(1, *self._sample_shape(), device=device)

    def _sample_shape(self) -> tuple[int, ...]:
        """Return the shape of one sample that the network's sizes are found by."""
        return 3, self.image_size, self.image_size

    @torch.no_grad()
    def _try(self, function: Any, images: Tensor) -> Tensor:
        """Call in evaluation mode: batch norm would refuse one value per channel, and keep it."""
        training = self.training
        self.eval()
        try:
            result: Tensor = function(images)
            return result
        finally:
            self.train(training)


class TimmEncoder(LibraryEncoder):
    """A network of timm other than its plain vision transformer."""

    def maps(self, images: Tensor) -> Tensor:
        """Encode images as the network's features before pooling; tokens as the grid they make."""
        network: Any = self.network
        if self._has_tokens:
            last: list[Tensor] = network.forward_intermediates(
                images, indices=1, norm=True, output_fmt="NCHW", intermediates_only=True
            )
            return last[-1]
        return self._channels_first(network.forward_features(images))

    @cached_property
    def depth(self) -> int:
        """Return the blocks or stages that the network tells apart."""
        told = getattr(self.network, "feature_info", None)
        return len(told) if told and hasattr(self.network, "forward_intermediates") else 1

    def layers(self, images: Tensor, wanted: Sequence[int]) -> list[Tensor | Tokens]:
        """Encode images (B, 3, S, S) as the maps of some blocks or stages."""
        if list(wanted) == [self.depth]:
            return [self.maps(images)]
        network: Any = self.network
        last, found = network.forward_intermediates(
            images, indices=[layer - 1 for layer in wanted], norm=True, output_fmt="NCHW"
        )
        # Beyond its last stage a convolutional network may have a layer of its own.
        if wanted[-1] == self.depth and not self._has_tokens:
            found[-1] = self._channels_first(last)
        return list(found)

    def _channels_first(self, features: Tensor) -> Tensor:
        channels_last = getattr(self.network, "output_fmt", "NCHW") == "NHWC"
        return features.permute(0, 3, 1, 2) if channels_last else features

    @cached_property
    def _has_tokens(self) -> bool:
        network: Any = self.network
        return self._try(network.forward_features, self._blank()).ndim == 3


class TorchvisionEncoder(LibraryEncoder):
    """A network of torchvision whose classifier was replaced by the identity."""

    def maps(self, images: Tensor) -> Tensor:
        """Encode images by what comes before the average pooling."""
        features = images
        for name, part in self.network.named_children():
            if name == "avgpool":
                return features
            features = part(features)
        raise NotImplementedError(f"{self.name} has no pooling of a name of its own")


def timm_names() -> list[str]:
    """List timm's architectures, without pretrained tags."""
    return timm.list_models()


def timm_encoder(
    name: str, image_size: int, num_heads: int | None = None, tubelet: int | None = None
) -> Encoder:
    """Build a timm network; vision transformers get the adapter that can drop tokens.

    Args:
        name: Of the network.
        image_size: Side of the images, px.
        num_heads: Attention heads of a vision transformer's block; None: the network's own.
        tubelet: Frames of a patch of a vision transformer for clips, which then has no token but
            those; None: it is for images.

    Raises:
        ValueError: the image size or the heads do not suit the network.
    """
    if timm.models.is_model_in_modules(name, _TIMM_VIT_MODULES):
        heads: dict[str, Any] = {} if num_heads is None else {"num_heads": num_heads}
        if tubelet is not None:
            heads |= {"in_chans": 3 * tubelet, "class_token": False, "global_pool": "avg"}
            heads |= {"reg_tokens": 0}
        try:
            vit = timm.create_model(
                name,
                pretrained=False,
                num_classes=0,
                img_size=image_size,
                # the last norm belongs to the tokens: a decoder reads them, not only their mean
                fc_norm=False,
                # Xavier, as MAE and MoCo v3 start from; but LeCun's normal for the patch embedding
                weight_init="jax",
                dynamic_img_size=True,  # small crops of multi-crop
                **heads,
            )
        except AssertionError as error:
            if num_heads is None:
                raise
            raise ValueError(
                f"encoder.num_heads={num_heads} does not suit encoder.name={name}: {error}"
            ) from error
        if isinstance(vit, VisionTransformer):
            _check_divisible(name, image_size, vit.patch_embed.patch_size[0])
            return VisionTransformerEncoder(vit)
    config = timm.get_pretrained_cfg(name)
    size: dict[str, Any] = (
        {"img_size": image_size} if config is not None and config.fixed_input_size else {}
    )
    return TimmEncoder(
        timm.create_model(name, pretrained=False, num_classes=0, **size), image_size, name
    )


def _check_divisible(name: str, image_size: int, patch_size: int) -> None:
    if image_size % patch_size:
        raise ValueError(
            f"views.size must be a multiple of {patch_size}, the patch size of encoder.name={name},"
            f" got {image_size}"
        )


def torchvision_names() -> list[str]:
    """List torchvision's classifiers of images that return one tensor, and of clips that take any
    size."""
    of_images = set(list_models(module=torchvision.models)) - _TORCHVISION_EXCLUDED
    return sorted(of_images | set(CLIP_NETWORKS))


def torchvision_encoder(name: str, image_size: int) -> Encoder:
    """Build a torchvision network of images whose classifier is replaced by the identity.

    Raises:
        ValueError: the image size does not suit the network.
    """
    size = {"image_size": image_size} if name.startswith("vit_") else {}
    return TorchvisionEncoder(torchvision_network(name, **size), image_size, f"torchvision:{name}")


def torchvision_network(name: str, **settings: Any) -> nn.Module:
    """Build a torchvision network with the identity in place of its classifier."""
    network: nn.Module = get_model(name, weights=None, **settings)
    setattr(network, torchvision_classifier(network), nn.Identity())
    return network


def torchvision_classifier(network: nn.Module) -> str:
    """Return the name of a torchvision network's classifier."""
    return next(part for part in _TORCHVISION_CLASSIFIERS if hasattr(network, part))
