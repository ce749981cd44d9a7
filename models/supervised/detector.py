"""A detector on an encoder's maps: a pyramid of scales made of one map, and RetinaNet's head."""

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.retinanet import RetinaNet, RetinaNetHead

from models.encoders.encoder import Encoder
from models.supervised.head import MOST, Boxes, Head, HeadConfig

WIDTH = 128  # channels where none are given
_NUM_LEVELS = 4
_SIDES = tuple(4 * 2 ** (third / 3) for third in range(3))  # of anchors, in strides of their level
_ASPECTS = (0.5, 1.0, 2.0)


class Pyramid(nn.Module):
    """Maps at twice, once, half and a quarter of the resolution of one map.

    A plain transformer has maps of one scale alone, and needs no others: ViTDet's simple pyramid
    (Li 2022, arXiv:2203.16527).

    Args:
        dim: Channels of the map.
        width: Channels of each level.
    """

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.out_channels = width
        # The scales of maps differ a hundredfold between encoders, and one rate is to fit all.
        self.norm = nn.GroupNorm(1, dim)
        self.up = nn.ConvTranspose2d(dim, dim, kernel_size=2, stride=2)
        self.levels = nn.ModuleList(_level(dim, width) for _ in range(_NUM_LEVELS))

    def forward(self, maps: Tensor) -> list[Tensor]:
        """Make the levels of maps (B, D, h, w), finest first, (B, width, ...)."""
        maps = self.norm(maps)
        scaled = [nn.functional.gelu(self.up(maps)), maps]
        for _ in range(_NUM_LEVELS - 2):
            scaled.append(nn.functional.max_pool2d(scaled[-1], 2, ceil_mode=True))
        return [level(one) for level, one in zip(self.levels, scaled, strict=True)]


def _level(dim: int, width: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(dim, width, 1, bias=False),
        _norm(width),
        nn.Conv2d(width, width, 3, padding=1, bias=False),
        _norm(width),
    )


def _norm(width: int) -> nn.Module:
    # Not batch norm: boxes of an image must not depend on the others. A group of one channel would
    # be one value where a level is one place, and its norm nothing.
    groups = math.gcd(32, width)
    while width < 4 * groups and groups % 2 == 0:
        groups //= 2
    return nn.GroupNorm(groups, width)


class BoxHead(Head):
    """Boxes of objects by RetinaNet (arXiv:1708.02002), built of torchvision's.

    Its loss is a mean over images of sums over their own anchors, without draws: the same however a
    batch is split among workers.
    """

    def __init__(self, config: HeadConfig, encoder: Encoder) -> None:
        super().__init__()
        encoder.require("maps", "probe.name=detect")
        self.config = config
        width = config.width or WIDTH
        num_anchors = len(_SIDES) * len(_ASPECTS)
        num_classes = len(config.classes)
        self.detector = RetinaNet(
            Pyramid(encoder.map_dim, width),
            num_classes,
            anchor_generator=AnchorGenerator(
                sizes=(_SIDES,) * _NUM_LEVELS, aspect_ratios=(_ASPECTS,) * _NUM_LEVELS
            ),
            head=RetinaNetHead(width, num_anchors, num_classes, norm_layer=partial(_norm)),
            detections_per_img=MOST,
        )

    def features(self, encoder: Encoder, images: Tensor) -> Tensor:
        """Return the maps (B, D, h, w)."""
        return encoder.maps(images)

    def losses(
        self, features: Tensor, size: tuple[int, int], boxes: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Compare what is told of images with their boxes.

        Args:
            features: Maps (B, D, h, w).
            size: Height and width of the images, px.
            boxes: (B, M, 5), left, top, right and bottom in px, and the class; below 0 for none.

        Returns:
            Of each image (B,): the focal loss of the classes and the L1 loss of the boxes, each by
            the number of anchors that lie on a box.
        """
        told, anchors, _ = self._told(features, size)
        each: list[dict[str, Tensor]] = []
        for index, rows in enumerate(boxes):
            real = rows[rows[:, 4] >= 0]
            target = {"boxes": real[:, :4], "labels": real[:, 4].long()}
            own = {name: values[index : index + 1] for name, values in told.items()}
            each.append(self.detector.compute_loss([target], own, [anchors[index]]))
        return (
            torch.stack([one["classification"] for one in each]),
            torch.stack([one["bbox_regression"] for one in each]),
        )

    def boxes(self, encoder: Encoder, images: Tensor) -> list[Boxes]:
        """Tell the boxes of normalised images (B, 3, H, W), in their px."""
        features = self.features(encoder, images)
        size = (images.shape[2], images.shape[3])
        told, anchors, counts = self._told(features, size)
        by_level = {name: list(values.split(counts, dim=1)) for name, values in told.items()}
        split = [list(one.split(counts)) for one in anchors]
        found: list[dict[str, Tensor]] = self.detector.postprocess_detections(
            by_level, split, [size] * len(features)
        )
        return [Boxes(one["boxes"], one["labels"], one["scores"]) for one in found]

    def _told(
        self, features: Tensor, size: tuple[int, int]
    ) -> tuple[dict[str, Tensor], list[Tensor], list[int]]:
        """Return logits and offsets of all anchors, the anchors of each image, and how many there
        are a level."""
        levels = self.detector.backbone(features.float())
        told: dict[str, Tensor] = self.detector.head(levels)
        anchors = self._anchors(levels, size)
        counts = [len(one) for one in anchors]
        return told, [torch.cat(anchors)] * len(features), counts

    def _anchors(self, levels: list[Tensor], size: tuple[int, int]) -> list[Tensor]:
        """Return the anchors of each level, whose sides count in strides of the level."""
        found = []
        for level in levels:
            stride = max(size[0] / level.shape[2], size[1] / level.shape[3])
            sides = tuple(side * stride for side in _SIDES)
            generator = AnchorGenerator(sizes=(sides,), aspect_ratios=(_ASPECTS,))
            image: Any = ImageList(level.new_zeros((1, 3, *size)), [size])
            found.append(generator(image, [level])[0])
        return found
