"""Every registered method at a size that runs in a moment, and a batch of real photographs for it."""

import copy
from functools import cache
from typing import Any

import numpy as np
import pytest
import skimage.data
import torch

from augment.generator import ViewGenerator
from models.encoders.factory import EncoderConfig
from models.method import Batch, Method
from models.registry import METHODS, build_method

SIZE = 16
NUM_SAMPLES = 12
NUM_ROWS = 20  # of a manifest that holds more than the photographs
ENCODERS = (
    EncoderConfig(name="resnet18_small", width=8),
    EncoderConfig(name="vit_tiny_small", width=8),
    EncoderConfig(name="resnet18_small", width=8, norm="layer", patch_size=8, patch_stride=2),
    EncoderConfig(name="amdim", width=8),
)
# Only where the paper's heads would make the tests slow, or its averages move too much in a few steps.
SMALL: dict[str, dict[str, Any]] = {
    "simclr": {"hidden_dim": 64, "projection_dim": 32},
    "moco": {"hidden_dim": 64, "projection_dim": 32, "queue_size": 30},
    "moco_v3": {"hidden_dim": 64, "projection_dim": 32, "projection_layers": 2},
    "instance_discrimination": {"num_noise": 16, "projection_dim": 32},
    "exemplar": {"num_exemplars": 11},
    "cpc": {"context_dim": 16, "context_layers": 2},
    "cpc_v2": {"context_dim": 16, "context_layers": 2, "target_dim": 32},
    "amdim": {"score_dim": 32},
    "yadim": {"score_dim": 32},
    "byol": {"hidden_dim": 64, "projection_dim": 32},
    "simsiam": {"projection_dim": 32, "prediction_dim": 16},
    "barlow_twins": {"projection_dim": 32},
    "vicreg": {"projection_dim": 32},
    "deepcluster": {"num_clusters": 3, "pca_dim": 4, "first_rows": 6},
    "swav": {"hidden_dim": 64, "projection_dim": 32, "num_prototypes": 10, "queue_size": 18},
    "dino": {"hidden_dim": 64, "bottleneck_dim": 16, "num_prototypes": 20, "center_momentum": 0.99},
    "mae": {"decoder_dim": 32, "decoder_depth": 1, "decoder_heads": 2},
}


def photographs() -> list[np.ndarray]:
    """Tiles of three photographs, as decoded images of different sizes."""
    tiles = []
    for image in (skimage.data.astronaut(), skimage.data.coffee(), skimage.data.chelsea()):
        for index in range(NUM_SAMPLES // 3):
            top, left, side = 40 * index, 60 * index, 96 + 16 * index
            tiles.append(np.ascontiguousarray(image[top : top + side, left : left + side]))
    return tiles


def build(name: str, seed: int = 0) -> tuple[Method, EncoderConfig]:
    """The method on the first of the small encoders that it accepts."""
    kind = METHODS[name]
    views, config, refusals = (
        kind.default_views(SIZE),
        kind.Config(name=name, **SMALL.get(name, {})),
        [],
    )
    for encoder_config in ENCODERS:
        try:
            method = build_method(config, encoder_config, views, seed)
            method.expect_rows(NUM_ROWS)
            return method, encoder_config
        except ValueError as error:
            refusals.append(str(error))
    pytest.fail(f"{name} accepts no small encoder: {refusals}")


def make_batch(name: str, epoch: int = 0) -> Batch:
    """The views of the photographs; a copy, so that a test may change it."""
    return copy.deepcopy(_make_batch(name, epoch))


@cache
def _make_batch(name: str, epoch: int) -> Batch:
    images = photographs()
    sample_id = torch.arange(len(images)) * 7919 + 13
    epochs = torch.full_like(sample_id, epoch)
    generator = ViewGenerator(METHODS[name].default_views(SIZE), seed=0)
    crops = {
        group: torch.from_numpy(array)
        for group, array in generator.make_crops(images, epochs, sample_id).items()
    }
    views = generator(crops, epochs, sample_id)
    row = torch.arange(len(images)) * 7 % NUM_ROWS
    valid = torch.ones(len(images), dtype=torch.bool)
    return Batch(views=views, sample_id=sample_id, row=row, epoch=epochs, valid=valid)
