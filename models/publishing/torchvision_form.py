"""Weights under torchvision's own names, which its networks load strictly."""

import copy
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
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
from models.publishing.form import (
    EMBEDDING,
    Form,
    Outputs,
    Tell,
    Unsupported,
    as_words,
    classifier_of,
    told_of,
)
from models.publishing.timm_form import RESNETS, TORCHVISION, check_pooling, shown
from models.supervised.head import Head

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


@dataclass(frozen=True)
class _Network:
    """A network of torchvision.

    Attributes:
        lines: Makes the Python that builds it as `model`, with more keyword arguments, each
            behind a comma.
        build: Builds it with so many classes.
        classifier: Its attribute that holds the classifier.
        weights: Of the encoder, by the network's names.
    """

    lines: Callable[[str], str]
    build: Callable[[int], nn.Module]
    classifier: str
    weights: dict[str, Tensor]

    def without_classifier(self) -> nn.Module:
        """Build it as an encoder."""
        network = self.build(1)
        setattr(network, self.classifier, nn.Identity())
        return network


class TorchvisionForm(Form):
    """The encoder as a network of torchvision, with a linear head as its classifier or with the
    identity in its place."""

    name = "torchvision"
    packages = ("torchvision",)
    scores = "logits"
    files = (_WEIGHTS,)

    def find_network(self) -> None:
        """Find the network.

        Raises:
            Unsupported: there is none.
        """
        self._network = _as_torchvision(self.artifact, self.config.name)
        self._weights = self._network.weights

    def check_head(self, head: Head) -> None:
        """Take a linear head, under the name that the network has for it.

        Raises:
            Unsupported: the head, or the network's classifier, is no linear layer.
        """
        super().check_head(head)
        weight, bias = classifier_of(head)
        with torch.device("meta"):
            own = getattr(self._network.build(len(bias)), self._network.classifier)
        # fc of a ResNet is a layer, heads of a transformer hold one
        named = {name: each for name, each in own.named_modules() if not list(each.children())}
        [name, *others] = named
        last = named[name]
        if others or not isinstance(last, nn.Linear) or last.weight.shape != weight.shape:
            raise Unsupported(f"the classifier of its {self.config.name} is not one linear layer")
        place = f"{self._network.classifier}.{name}".rstrip(".")
        self._weights = {**self._weights, f"{place}.weight": weight, f"{place}.bias": bias}

    def write(self, folder: str) -> None:
        """Write the weights, and what their scores mean."""
        weights = {name: each.detach().contiguous() for name, each in self._weights.items()}
        place = os.path.join(folder, _WEIGHTS)
        said = {"format": "pt"}
        if self.head is not None:
            said["head"] = json.dumps(told_of(self.artifact))
        safetensors.torch.save_file(weights, place, metadata=said)

    def load(self, folder: str) -> Tell:
        """Build the network and load the file strictly."""
        weights = safetensors.torch.load_file(os.path.join(folder, _WEIGHTS))
        if self.head is None:
            network = self._network.without_classifier()
        else:
            network = self._network.build(len(self.head.config.classes))
        network.load_state_dict(weights, strict=True)
        network.eval()
        embedder = copy.deepcopy(network)
        setattr(embedder, self._network.classifier, nn.Identity())

        def tell(images: Tensor) -> Outputs:
            told: Outputs = {EMBEDDING: embedder(images).flatten(1)}
            return told if self.head is None else {**told, self.scores: network(images)}

        return torch.inference_mode()(tell)

    def usage(self) -> str:
        """Return the lines that build the network, load the weights, tell and embed."""
        build = self._network.lines
        alone = f"model.{self._network.classifier} = torch.nn.Identity()\n"
        load = f'model.load_state_dict(safetensors.torch.load_file("{_WEIGHTS}"))\n'
        if self.head is None:
            steps = f"{build('')}\n{alone}{load}"
        else:
            classes = f", num_classes={len(self.head.config.classes)}"
            steps = f"{build(classes)}\n{load}logits = model.eval()(images)\n{alone}"
        return (
            "import safetensors.torch\nimport torch\nimport torchvision\n\n"
            f"{steps}embedding = model.eval()(images).flatten(1)"
        )


def _as_torchvision(artifact: Artifact, name: str) -> _Network:
    """Find the network of torchvision that an encoder equals.

    Raises:
        Unsupported: there is none.
    """
    encoder = artifact.encoder
    if encoder.media == "clip":
        raise Unsupported("this form is for networks of still images, and it sees clips")
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
        return _by_name(network, size, dict(encoder.network.state_dict()))
    raise Unsupported(f"torchvision has no network like {shown(encoder)}")


def _by_name(name: str, settings: dict[str, Any], weights: dict[str, Tensor]) -> _Network:
    """Build a network by its name."""

    def build(num_classes: int) -> nn.Module:
        network: nn.Module = get_model(name, weights=None, num_classes=num_classes, **settings)
        return network

    def lines(more: str) -> str:
        return f'model = torchvision.models.get_model("{name}"{as_words(settings)}{more})'

    with torch.device("meta"):
        classifier = torchvision_classifier(build(1))
    return _Network(lines, build, classifier, weights)


def _small_resnet(encoder: ResNetSmall, norm: str) -> _Network:
    """Take torchvision's ResNet-18 with the stem for small images, as is usual for CIFAR."""
    width = encoder.embed_dim // 8
    if width != _WIDTH or norm == "none":
        given = f"encoder.width={width}" if width != _WIDTH else f"encoder.norm={norm}"
        raise Unsupported(f"torchvision's ResNet-18 has width {_WIDTH} and a norm, not {given}")
    if encoder.pooling not in ("auto", "mean"):
        raise Unsupported(f"torchvision's resnet18 has no pooling {encoder.pooling}")
    norm_layer = partial(nn.GroupNorm, 1) if norm == "layer" else nn.BatchNorm2d
    words = "norm_layer=lambda width: torch.nn.GroupNorm(1, width)" if norm == "layer" else ""

    def build(num_classes: int) -> nn.Module:
        network: nn.Module = get_model(
            "resnet18", weights=None, num_classes=num_classes, norm_layer=norm_layer
        )
        network.conv1 = nn.Conv2d(3, _WIDTH, kernel_size=3, padding=1, bias=False)
        network.maxpool = nn.Identity()
        return network

    def lines(more: str) -> str:
        return (
            f"model = torchvision.models.resnet18({(words + more).removeprefix(', ')})\n"
            f"model.conv1 = torch.nn.Conv2d(3, {_WIDTH}, kernel_size=3, padding=1, bias=False)\n"
            "model.maxpool = torch.nn.Identity()  # the stem for small images"
        )

    weights = {_resnet_name(key): each for key, each in encoder.state_dict().items()}
    return _Network(lines, build, "fc", weights)


def _resnet_name(name: str) -> str:
    """Translate a name of ours: stem.0 is conv1, stem.1 is bn1, stages.0 is layer1."""
    part, number, rest = name.split(".", 2)
    if part == "stem":
        return f"{('conv1', 'bn1')[int(number)]}.{rest}"
    return f"layer{int(number) + 1}.{rest}"


def _vision_transformer(encoder: VisionTransformerEncoder, size: int) -> _Network:
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

    def build(num_classes: int) -> nn.Module:
        network: nn.Module = VisionTransformer(**settings, num_classes=num_classes)
        return network

    def lines(more: str) -> str:
        words = (as_words(settings) + more).removeprefix(", ")
        return f"model = torchvision.models.VisionTransformer({words})"

    found = _Network(lines, build, "heads", weights)
    with torch.device("meta"):
        network = found.without_classifier()
    wanted = {name: each.shape for name, each in network.state_dict().items()}
    if wanted != {name: each.shape for name, each in weights.items()}:
        raise Unsupported(f"torchvision's transformers lack parts of {encoder.name}")
    return found


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
