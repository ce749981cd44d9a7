"""How other codebases name the tensors of an encoder: rules to read, in the order they are tried.

Which of them a file follows is not asked of the user: the part of the file and the layout that fill
most of the encoder win, the earlier one where several fill as much.
"""

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from torch import Tensor

WRAPPERS = (
    # the better of two networks in one file comes first
    "teacher",  # DINO, DINOv2, DINOv3
    "target_encoder",  # I-JEPA, V-JEPA
    "state_dict_ema",
    "model_ema",
    "ema",
    "base_encoder",  # MoCo v3
    "encoder_q",  # MoCo v1, v2
    "state_dict",
    "model",
    "method",  # a checkpoint of this project
    "module",  # data-parallel training
    "_orig_mod",  # torch.compile
    "_fsdp_wrapped_module",
    "backbone",
    "encoder",
    "network",
    "net",
    "vit",
    "patch_encoder",
    "each",
    "visual",
    "trunk",
    "student",
    "student_encoder",
    "momentum_encoder",
    "encoder_k",
)
"""Words before a tensor's name that only say what holds it."""

ALWAYS = ((r"^blocks\.\d+\.(\d+)\.", r"blocks.\1."),)
"""Renames that no layout needs otherwise: DINOv2 and DINOv3 train blocks in chunks."""

VIDEO_POSITIONS = 16
"""Frames of a clip of V-JEPA; its files do not say it."""


class Layout(NamedTuple):
    """Names of one codebase.

    Attributes:
        name: For people.
        renames: Regular expression and what takes its place, one after the other.
    """

    name: str
    renames: tuple[tuple[str, str], ...] = ()

    def rename(self, name: str) -> str:
        """Return the name that the encoder has for a tensor of this layout."""
        for pattern, replacement in (*ALWAYS, *self.renames):
            name = re.sub(pattern, replacement, name)
        return name


_BLOCK = r"^encoder\.layers\.encoder_layer_(\d+)\."

LAYOUTS = (
    Layout("the encoder's own names"),
    Layout(
        "a vision transformer of torchvision",
        (
            (r"^class_token$", "cls_token"),
            (r"^conv_proj\.", "patch_embed.proj."),
            (r"^encoder\.pos_embedding$", "pos_embed"),
            (r"^encoder\.ln\.", "norm."),
            (_BLOCK, r"blocks.\1."),
            (r"\.ln_(\d)\.", r".norm\1."),
            (r"\.self_attention\.in_proj_", ".attn.qkv."),
            (r"\.self_attention\.out_proj\.", ".attn.proj."),
            (r"\.mlp\.(0|linear_1)\.", ".mlp.fc1."),
            (r"\.mlp\.(3|linear_2)\.", ".mlp.fc2."),
        ),
    ),
    Layout(
        "a vision transformer of timm for one of torchvision",
        (
            (r"^cls_token$", "class_token"),
            (r"^patch_embed\.proj\.", "conv_proj."),
            (r"^pos_embed$", "encoder.pos_embedding"),
            (r"^norm\.", "encoder.ln."),
            (r"^blocks\.(\d+)\.", r"encoder.layers.encoder_layer_\1."),
            (r"\.norm(\d)\.", r".ln_\1."),
            (r"\.attn\.qkv\.", ".self_attention.in_proj_"),
            (r"\.attn\.proj\.", ".self_attention.out_proj."),
            (r"\.mlp\.fc1\.", ".mlp.0."),
            (r"\.mlp\.fc2\.", ".mlp.3."),
        ),
    ),
    Layout("a vision transformer fine-tuned on its mean", ((r"^fc_norm\.", "norm."),)),
    Layout(
        "a ResNet-18 of timm or torchvision for resnet18_small",
        (
            (r"^conv1\.", "stem.0."),
            (r"^bn1\.", "stem.1."),
            (r"^layer1\.", "stages.0."),
            (r"^layer2\.", "stages.1."),
            (r"^layer3\.", "stages.2."),
            (r"^layer4\.", "stages.3."),
        ),
    ),
    Layout(
        "the children of a ResNet in a row",  # lightly
        (
            (r"^0\.", "conv1."),
            (r"^1\.", "bn1."),
            (r"^4\.", "layer1."),
            (r"^5\.", "layer2."),
            (r"^6\.", "layer3."),
            (r"^7\.", "layer4."),
        ),
    ),
)


def parts(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield every part of a file that may be a network: its prefix and its tensors without it.

    All of the file comes first, then the parts in the order of `WRAPPERS`.
    """
    prefixes: set[tuple[str, ...]] = {()}
    for name in tensors:
        words = name.split(".")
        for length in range(1, len(words)):
            if words[length - 1] not in WRAPPERS:
                break
            prefixes.add(tuple(words[:length]))
    for wrapping in sorted(prefixes, key=lambda words: [WRAPPERS.index(word) for word in words]):
        prefix = "".join(f"{word}." for word in wrapping)
        below = {name for name in tensors if name.startswith(prefix)}
        yield (
            prefix,
            {name.removeprefix(prefix): tensors[name] for name in tensors if name in below},
        )
