"""Weights that `timm.create_model(name, checkpoint_path=...)` loads, in the layout of a hub."""

import copy
import json
import os
from typing import Any

import timm
import torch
from timm.models import save_for_hf
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from models.artifact import Artifact
from models.encoders.encoder import Encoder
from models.encoders.library import TimmEncoder, TorchvisionEncoder
from models.encoders.patch_grid import PatchGridEncoder
from models.encoders.resnet_small import ResNetSmall
from models.encoders.split import SplitEncoder
from models.encoders.vit import VisionTransformerEncoder
from models.publishing.form import (
    EMBEDDING,
    Form,
    Outputs,
    Tell,
    Unsupported,
    as_words,
    classifier_of,
)
from models.supervised.head import Head

# Equal networks under equal names, of weights too, in timm and torchvision.
RESNETS = (
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
    *("resnext50_32x4d", "resnext101_32x8d", "wide_resnet50_2", "wide_resnet101_2"),
)
TORCHVISION = "torchvision:"
_WEIGHTS = "model.safetensors"
_SETTINGS = "config.json"
_POOLINGS = {"auto": "avg", "mean": "avg", "max": "max", "class": "token"}
# What timm's configuration says of the weights that it has published under the same name.
_OF_OTHER_WEIGHTS = ("tag", "license", "origin_url", "paper_name", "paper_ids", "notes")


class TimmForm(Form):
    """The encoder as a model of timm, with a linear head as its classifier or without one."""

    name = "timm"
    packages = ("timm",)
    scores = "logits"
    files = (_WEIGHTS, _SETTINGS)

    def find_network(self) -> None:
        """Find the model.

        Raises:
            Unsupported: there is none.
        """
        self.model, self.settings, self._weights = _as_timm(self.artifact, self.config.name)

    def check_head(self, head: Head) -> None:
        """Take a linear head, under the name that the model has for it.

        Raises:
            Unsupported: the head, or the model's classifier, is no linear layer.
        """
        super().check_head(head)
        weight, bias = classifier_of(head)
        settings = {**self.settings, "num_classes": len(bias)}
        with torch.device("meta"):
            model = timm.create_model(self.model, **settings)
        own: nn.Module = model.get_classifier()  # type: ignore[operator]
        if not isinstance(own, nn.Linear) or own.weight.shape != weight.shape or own.bias is None:
            raise Unsupported(f"the classifier of its {self.model} is not one linear layer")
        name = next(name for name, module in model.named_modules() if module is own)
        self._weights |= {f"{name}.weight": weight, f"{name}.bias": bias}
        self.settings = settings

    def write(self, folder: str) -> None:
        """Write weights and, for a hub, the configuration beside them."""
        model = timm.create_model(self.model, **self.settings)
        model.load_state_dict(self._weights, strict=True)
        prepared = self.artifact.of_images
        data = {
            "input_size": (3, prepared.image_size, prepared.image_size),
            "interpolation": "bilinear",
            "mean": prepared.mean,
            "std": prepared.std,
            "crop_pct": 1.0,
            "crop_mode": "center",
        }
        args = {key: value for key, value in self.settings.items() if key != "num_classes"}
        save_for_hf(
            model,
            folder,
            model_config={} if self.head is None else {"label_names": self.head.config.classes},
            model_args=args,
            data_config=data,
            safe_serialization=True,
        )
        place = os.path.join(folder, _SETTINGS)
        with open(place) as file:
            described = json.load(file)
        kept = described["pretrained_cfg"].items()
        described["pretrained_cfg"] = {
            key: value for key, value in kept if key not in _OF_OTHER_WEIGHTS
        }
        with open(place, "w") as file:
            json.dump(described, file, indent=2)

    def load(self, folder: str) -> Tell:
        """Build the model by name with the file as its checkpoint."""
        place = os.path.join(folder, _WEIGHTS)
        model = timm.create_model(self.model, checkpoint_path=place, **self.settings).eval()

        embedder = copy.deepcopy(model)
        embedder.reset_classifier(0)  # type: ignore[operator]

        def tell(images: Tensor) -> Outputs:
            told: Outputs = {EMBEDDING: embedder(images).flatten(1)}
            return told if self.head is None else {**told, self.scores: model(images)}

        return torch.inference_mode()(tell)

    def usage(self) -> str:
        """Return the lines that build the model, tell and embed."""
        told = "logits = model(images)\nmodel.reset_classifier(0)\n"
        return (
            "import timm\n\n"
            f'model = timm.create_model("{self.model}", checkpoint_path="{_WEIGHTS}"'
            f"{as_words(self.settings)}).eval()\n"
            f"{'' if self.head is None else told}"
            "embedding = model(images).flatten(1)"
        )


def _as_timm(artifact: Artifact, name: str) -> tuple[str, dict[str, Any], dict[str, Tensor]]:
    """Find the model of timm that an encoder equals.

    Returns:
        Its name, the arguments that make it equal, and its weights.

    Raises:
        Unsupported: there is none.
    """
    encoder = artifact.encoder
    size = artifact.image_size
    settings: dict[str, Any] = {"num_classes": 0}
    if encoder.media == "clip":
        raise Unsupported("timm's networks see still images, and it sees clips")
    if encoder.supports("causal"):
        raise Unsupported("timm's transformers see the whole image at every patch")
    if isinstance(encoder, VisionTransformerEncoder):
        network, settings, weights = _vision_transformer(encoder, name, size)
        heads = artifact.config["encoder"].get("num_heads")
        return network, settings | ({} if heads is None else {"num_heads": heads}), weights
    if isinstance(encoder, TimmEncoder | TorchvisionEncoder):
        network = name.removeprefix(TORCHVISION)
        if isinstance(encoder, TorchvisionEncoder) and network not in RESNETS:
            raise Unsupported(f"timm has no model with torchvision's weights of {network}")
        check_pooling(encoder, "timm")
        known = timm.get_pretrained_cfg(network)
        if isinstance(encoder, TimmEncoder) and known is not None and known.fixed_input_size:
            settings["img_size"] = size
        return network, settings, dict(encoder.network.state_dict())
    if isinstance(encoder, ResNetSmall):
        raise Unsupported("timm.create_model builds no ResNet whose stem is one 3x3 of stride 1")
    raise Unsupported(f"timm has no network like {shown(encoder)}")


def shown(encoder: Encoder) -> str:
    """Name an encoder for a message."""
    if isinstance(encoder, PatchGridEncoder):
        return f"{encoder.name} over patches (encoder.patch_size)"
    if isinstance(encoder, SplitEncoder):
        return f"{encoder.name} in two halves (encoder.split)"
    return encoder.name


def check_pooling(encoder: TimmEncoder | TorchvisionEncoder, library: str) -> None:
    """Refuse a pooling that is not the network's own.

    Raises:
        Unsupported: it is another one.
    """
    own = encoder.pooling == "auto"
    if not own and not (encoder.pooling == "mean" and encoder.averages_its_maps):
        raise Unsupported(
            f"{library}'s {encoder.name} does not embed by encoder.pooling={encoder.pooling}"
        )


def _vision_transformer(
    encoder: VisionTransformerEncoder, name: str, size: int
) -> tuple[str, dict[str, Any], dict[str, Tensor]]:
    vit = encoder.vit
    if type(vit) is not VisionTransformer:
        raise Unsupported(f"timm's {name} embeds by its own tokens, and the encoder by its patches")
    if encoder.pooling not in _POOLINGS:
        raise Unsupported(f"timm's transformers have no pooling {encoder.pooling}")
    settings: dict[str, Any] = {
        "num_classes": 0,
        "img_size": size,
        "global_pool": _POOLINGS[encoder.pooling],
        "fc_norm": False,
    }
    if name == "vit_tiny_small":
        name = "vit_tiny_patch16_224"
        settings |= {
            "patch_size": encoder.patch_size,
            "class_token": False,
            "embed_dim": encoder.embed_dim,
        }
    return name, settings, dict(vit.state_dict())
