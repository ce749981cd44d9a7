"""Weights under torchvision's own names, which its networks load strictly."""

import os
from collections.abc import Callable
from functools import partial
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn
from torchvision.models import VisionTransformer, get_model

from models.artifact import Artifact
from models.encoders.library import TimmEncoder, TorchvisionEncoder, torchvision_classifier
from models.encoders.resnet_small import ResNetSmall
from models.encoders.vit import VisionTransformerEncoder
from models.publishing.form import Embed, Form, Unsupported, as_words
from models.publishing.timm_form import RESNETS, TORCHVISION, check_pooling, shown

_WEIGHTS = "torchvision.safetensors"
_WIDTH = 64  # of torchvision's ResNets
_OF_BLOCKS = {
    "norm1": "ln_1",
    "attn.qkv.": "self_attention.in_proj_",
    "attn.proj": "self_attention.out_proj",
    "norm2": "ln_2",
    "mlp.fc1": "mlp.0",
    "mlp.fc2": "mlp.3",
}
_OUTSIDE_BLOCKS = {
    "cls_token": "class_token",
    "pos_embed": "encoder.pos_embedding",
    "patch_embed.proj": "conv_proj",
    "norm": "encoder.ln",
}


class TorchvisionForm(Form):
    """The encoder as a network of torchvision whose classifier is the identity."""

    name = "torchvision"
    packages = ("torchvision",)
    files = (_WEIGHTS,)

    def __init__(self, artifact: Artifact) -> None:
        super().__init__(artifact)
        self._lines, self._build, self._weights = _as_torchvision(artifact, self.config.name)

    def write(self, folder: str) -> None:
        """Write the weights."""
        weights = {name: each.detach().contiguous() for name, each in self._weights.items()}
        place = os.path.join(folder, _WEIGHTS)
        safetensors.torch.save_file(weights, place, metadata={"format": "pt"})

    def load(self, folder: str) -> Embed:
        """Build the network and load the file strictly."""
        network = self._build()
        weights = safetensors.torch.load_file(os.path.join(folder, _WEIGHTS))
        network.load_state_dict(weights, strict=True)
        network.eval()

        def embed(images: Tensor) -> Tensor:
            embedding: Tensor = network(images).flatten(1)
            return embedding

        return torch.inference_mode()(embed)

    def usage(self) -> str:
        """Return the lines that build the network, load the weights and embed."""
        return (
            "import safetensors.torch\nimport torch\nimport torchvision\n\n"
            f"{self._lines}\n"
            f'model.load_state_dict(safetensors.torch.load_file("{_WEIGHTS}"))\n'
            "embedding = model.eval()(images).flatten(1)"
        )


_Found = tuple[str, Callable[[], nn.Module], dict[str, Tensor]]


def _as_torchvision(artifact: Artifact, name: str) -> _Found:
    """Find the network of torchvision that an encoder equals.

    Returns:
        The lines that build it, the function that does, and its weights.

    Raises:
        Unsupported: there is none.
    """
    encoder = artifact.encoder
    if isinstance(encoder, ResNetSmall):
        return _small_resnet(encoder, artifact.config["encoder"].get("norm", "batch"))
    if isinstance(encoder, VisionTransformerEncoder):
        return _vision_transformer(encoder, artifact.image_size)
    if isinstance(encoder, TimmEncoder | TorchvisionEncoder):
        network = name.removeprefix(TORCHVISION)
        if isinstance(encoder, TimmEncoder) and network not in RESNETS:
            raise Unsupported(f"torchvision has no network with timm's weights of {network}")
        check_pooling(encoder, "torchvision")
        size = {"image_size": artifact.image_size} if network.startswith("vit_") else {}
        return *_by_name(network, size), dict(encoder.network.state_dict())
    raise Unsupported(f"torchvision has no network like {shown(encoder)}")


def _by_name(name: str, settings: dict[str, Any]) -> tuple[str, Callable[[], nn.Module]]:
    """Build a network by its name, without classifier."""

    def build() -> nn.Module:
        network: nn.Module = get_model(name, weights=None, **settings)
        setattr(network, torchvision_classifier(network), nn.Identity())
        return network

    with torch.device("meta"):
        classifier = torchvision_classifier(get_model(name, weights=None, **settings))
    lines = (
        f'model = torchvision.models.get_model("{name}"{as_words(settings)})\n'
        f"model.{classifier} = torch.nn.Identity()"
    )
    return lines, build


def _small_resnet(encoder: ResNetSmall, norm: str) -> _Found:
    """Take torchvision's ResNet-18 with the stem for small images, as is usual for CIFAR."""
    width = encoder.embed_dim // 8
    if width != _WIDTH or norm == "none":
        given = f"encoder.width={width}" if width != _WIDTH else f"encoder.norm={norm}"
        raise Unsupported(f"torchvision's ResNet-18 has width {_WIDTH} and a norm, not {given}")
    if encoder.pooling not in ("auto", "mean"):
        raise Unsupported(f"torchvision's resnet18 has no pooling {encoder.pooling}")
    norm_layer = partial(nn.GroupNorm, 1) if norm == "layer" else nn.BatchNorm2d
    words = "norm_layer=lambda width: torch.nn.GroupNorm(1, width)" if norm == "layer" else ""

    def build() -> nn.Module:
        network: nn.Module = get_model("resnet18", weights=None, norm_layer=norm_layer)
        network.conv1 = nn.Conv2d(3, _WIDTH, kernel_size=3, padding=1, bias=False)
        network.maxpool = nn.Identity()
        network.fc = nn.Identity()
        return network

    lines = (
        f"model = torchvision.models.resnet18({words})\n"
        f"model.conv1 = torch.nn.Conv2d(3, {_WIDTH}, kernel_size=3, padding=1, bias=False)\n"
        "model.maxpool = torch.nn.Identity()  # the stem for small images\n"
        "model.fc = torch.nn.Identity()"
    )
    return lines, build, {_resnet_name(key): each for key, each in encoder.state_dict().items()}


def _resnet_name(name: str) -> str:
    """Translate a name of ours: stem.0 is conv1, stem.1 is bn1, stages.0 is layer1."""
    part, number, rest = name.split(".", 2)
    if part == "stem":
        return f"{('conv1', 'bn1')[int(number)]}.{rest}"
    return f"layer{int(number) + 1}.{rest}"


def _vision_transformer(encoder: VisionTransformerEncoder, size: int) -> _Found:
    if encoder.pooling != "class":
        own = "the mean of its patches" if encoder.pooling in ("auto", "mean") else encoder.pooling
        raise Unsupported(
            f"torchvision's transformers embed by the class token, and this encoder by {own}"
        )
    vit = encoder.vit
    block: Any = vit.blocks[0]
    settings = {
        "image_size": size,
        "patch_size": encoder.patch_size,
        "num_layers": len(vit.blocks),
        "num_heads": block.attn.num_heads,
        "hidden_dim": encoder.embed_dim,
        "mlp_dim": block.mlp.fc1.out_features,
    }
    weights = {_vit_name(name): each for name, each in vit.state_dict().items()}

    def build() -> nn.Module:
        network: nn.Module = VisionTransformer(**settings)
        network.heads = nn.Identity()
        return network

    with torch.device("meta"):
        wanted = {name: each.shape for name, each in build().state_dict().items()}
    if wanted != {name: each.shape for name, each in weights.items()}:
        raise Unsupported(f"torchvision's transformers lack parts of {encoder.name}")
    lines = (
        f"model = torchvision.models.VisionTransformer({as_words(settings).removeprefix(', ')})\n"
        "model.heads = torch.nn.Identity()"
    )
    return lines, build, weights


def _vit_name(name: str) -> str:
    """Translate a name of timm's vision transformer."""
    if not name.startswith("blocks."):
        found = next((old for old in _OUTSIDE_BLOCKS if name.startswith(old)), None)
        return name if found is None else _OUTSIDE_BLOCKS[found] + name.removeprefix(found)
    _, number, rest = name.split(".", 2)
    for old, new in _OF_BLOCKS.items():
        if rest.startswith(old):
            rest = new + rest.removeprefix(old)
            break
    return f"encoder.layers.encoder_layer_{number}.{rest}"
