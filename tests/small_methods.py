"""Every registered method at a size that runs in a moment, and a batch of real photographs for
it."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import numpy as np
import pytest
import skimage.data
import torch

from augment.generator import ViewGenerator, generator_of
from augment.sound.sound_recipe import SoundViews
from models.encoders import vit_small
from models.encoders.factory import EncoderConfig
from models.encoders.texts.text_settings import TextSettings
from models.method import Batch, Method
from models.multimodal.soundtrack_method import SoundtrackConfig
from models.registry import METHODS, build_method
from tests.texts_of_words import VOCAB, tokens_of, zen

SIZE = 16
NUM_SAMPLES = 12
TEXT_SIZES = TextSettings(vocab_size=VOCAB, width=16, depth=2, num_heads=2)
NUM_ROWS = 20  # of a manifest that holds more than the photographs
ENCODERS = (
    EncoderConfig(name="resnet18_small", width=8),
    EncoderConfig(name="vit_tiny_small", width=8),
    EncoderConfig(name="resnet18_small", width=8, norm="layer", patch_size=8, patch_stride=2),
    EncoderConfig(name="amdim", width=8),
    EncoderConfig(
        name="resnet18_small", width=8, norm="layer", patch_size=8, patch_stride=8, patch_norm=True
    ),
    EncoderConfig(name="resnet18_small", width=8, split="lab"),
    EncoderConfig(name="vit_tiny_small", width=8, causal="raster"),
    EncoderConfig(name="resnet18_small", width=4, time="inflated"),
    EncoderConfig(name="vit_tiny_small", width=8, time="tubelets"),
    EncoderConfig(name="resnet18_small", width=4, time="frames"),
    EncoderConfig(name="resnet18_small", width=4, norm="layer", time="frames"),
    EncoderConfig(name="wave_gru", width=4),
    EncoderConfig(name="wave_transformer_small", width=4),
    EncoderConfig(name="word_vectors", text=TEXT_SIZES),
    EncoderConfig(name="text_transformer", text=TEXT_SIZES),
)
NUM_FRAMES = 6


@cache
def photographs() -> tuple[np.ndarray, ...]:
    """Tiles of three photographs, as decoded images of different sizes."""
    tiles = []
    for image in (skimage.data.astronaut(), skimage.data.coffee(), skimage.data.chelsea()):
        for index in range(NUM_SAMPLES // 3):
            top, left, side = 40 * index, 60 * index, 96 + 16 * index
            tiles.append(np.ascontiguousarray(image[top : top + side, left : left + side]))
    return tuple(tiles)


def clips() -> list[np.ndarray]:
    """Pans over the photographs' tiles, ever faster, as decoded clips."""
    return [
        np.stack([tile[:80, frame**2 : frame**2 + 64] for frame in range(NUM_FRAMES)])
        for tile in photographs()
    ]


def melodies(num_windows: int, length: int) -> np.ndarray:
    """Four notes each, with overtones and a touch of breath, no two melodies alike: windows of
    16 kHz, (B, 1, L) int16."""
    rng = np.random.default_rng(0)
    scale = 220 * 2 ** (np.arange(24) / 12)  # Hz
    notes = scale[rng.integers(0, len(scale), (num_windows, 4))]
    pitch = notes.repeat(-(-length // 4), axis=1)[:, :length]
    phase = 2 * np.pi * np.cumsum(pitch / 16_000, axis=1)
    tones = sum(np.sin(overtone * phase) / overtone for overtone in (1, 2, 3, 5))
    breath = rng.normal(0, 0.05, tones.shape)
    return np.round((tones + breath) * 6_000).astype(np.int16)[:, None]


@contextmanager
def shallow_transformers() -> Iterator[None]:
    """Give vit_tiny_small two of its twelve blocks, in this process: for tests of every method,
    which ask nothing of depth."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vit_small, "_DEPTH", 2)
        yield


def fill_free_memory() -> None:
    """Leave values that are not numbers in memory that kernels may be given next, and may take for
    zeros where they forget to write."""
    sizes = [2**power + extra for power in range(4, 21) for extra in (0, 2 ** (power - 1))]
    filled = [torch.full((size,), torch.nan) for size in sizes for _ in range(max(2, 4096 // size))]
    del filled


def build(name: str, seed: int = 0) -> tuple[Method, EncoderConfig]:
    """The method on the first of the small encoders that it accepts."""
    kind = METHODS[name]
    views = kind.default_views(kind.small_px)
    encoder_config = _accepted_by(name)
    method = build_method(kind.small, encoder_config, views, seed)
    method.expect_rows(NUM_ROWS)
    return method, encoder_config


@cache
def _accepted_by(name: str) -> EncoderConfig:
    kind = METHODS[name]
    views, refusals = kind.default_views(kind.small_px), []
    for encoder_config in ENCODERS:
        if kind.pairs and not kind.posed and encoder_config.split is None:
            continue  # it would see second images, which these batches have not
        try:
            build_method(kind.small, encoder_config, views, 0)
            return encoder_config
        except ValueError as error:
            refusals.append(str(error))
    pytest.fail(f"{name} accepts no small encoder: {refusals}")


def make_batch(name: str, epoch: int = 0, media: str = "") -> Batch:
    """The views of the photographs, or of clips; a copy, so that a test may change it."""
    return copy.deepcopy(kept_batch(name, epoch, media or METHODS[name].media))


@cache
def kept_batch(name: str, epoch: int, media: str) -> Batch:
    if media == "audio":
        return _batch_of_sounds(name, epoch)
    if media == "text":
        return _batch_of_texts(name, epoch)
    images = clips() if media == "clip" else photographs()
    sample_id = torch.arange(len(images)) * 7919 + 13
    epochs = torch.full_like(sample_id, epoch)
    kind = METHODS[name]
    generator = ViewGenerator(kind.default_views(kind.small_px), seed=0)
    crops = {
        group: torch.from_numpy(array)
        for group, array in generator.make_crops(images, epochs, sample_id).items()
    }
    views = generator(crops, epochs, sample_id)
    row = torch.arange(len(images)) * 7 % NUM_ROWS
    valid = torch.ones(len(images), dtype=torch.bool)
    batch = Batch(views=views, sample_id=sample_id, row=row, epoch=epochs, valid=valid)
    if kind.posed:
        batch["targets"] = _frames_further_right(next(iter(crops.values())), epoch)
    if "caption" in kind.columns:
        batch["targets"] = {"caption": _captions(len(images), epoch)}
    if "sound" in kind.columns:
        batch["targets"] = {"sound": _sounds_beside(kind, epoch)}
    if kind.flow:
        batch["targets"] = {"flow": _flow_of_bright_places(next(iter(crops.values())))}
    return batch


def _batch_of_sounds(name: str, epoch: int) -> Batch:
    kind = METHODS[name]
    recipe = kind.default_views(kind.small_px)
    assert isinstance(recipe, SoundViews)
    windows = torch.from_numpy(melodies(NUM_SAMPLES, recipe.size))
    sample_id = torch.arange(NUM_SAMPLES) * 7919 + 13
    epochs = torch.full_like(sample_id, epoch)
    rows = {
        group: windows.roll(int(1000 * epoch), dims=-1).expand(-1, each.count, -1)
        for group, each in recipe.groups.items()
    }
    return Batch(
        views=generator_of(recipe, seed=0)(rows, epochs, sample_id),
        sample_id=sample_id,
        row=torch.arange(NUM_SAMPLES) * 7 % NUM_ROWS,
        epoch=epochs,
        valid=torch.ones(NUM_SAMPLES, dtype=torch.bool),
    )


def _batch_of_texts(name: str, epoch: int) -> Batch:
    recipe = METHODS[name].default_views(METHODS[name].small_px)
    lines = zen()[epoch % 3 :][:NUM_SAMPLES]
    tokens = torch.from_numpy(tokens_of(lines, recipe.size))
    sample_id = torch.arange(NUM_SAMPLES) * 7919 + 13
    epochs = torch.full_like(sample_id, epoch)
    rows = {
        group: tokens.unsqueeze(1).expand(-1, each.count, -1)
        for group, each in recipe.groups.items()
    }
    return Batch(
        views=generator_of(recipe, seed=0)(rows, epochs, sample_id),
        sample_id=sample_id,
        row=torch.arange(NUM_SAMPLES) * 7 % NUM_ROWS,
        epoch=epochs,
        valid=torch.ones(NUM_SAMPLES, dtype=torch.bool),
    )


def _sounds_beside(kind: type[Method], epoch: int) -> torch.Tensor:
    """Let a melody be heard with each sample, and before it where a second stretch is asked for:
    (B, V, L) int16."""
    assert isinstance(kind.small, SoundtrackConfig)
    length = kind.small.sound_samples
    sounds = torch.from_numpy(melodies(NUM_SAMPLES, 2 * length)).roll(1_000 * epoch, dims=-1)
    count = 1 if kind.small.elsewhere_s is None else 2
    return torch.stack(sounds[:, 0].split(length, dim=1)[-count:][::-1], dim=1)


def _captions(num_samples: int, epoch: int) -> torch.Tensor:
    """Write five tokens of each sample between start and end, then padding: (B, 8) int32."""
    words = torch.arange(num_samples * 5).unflatten(0, (num_samples, 5)) * 7 + epoch
    start, end = torch.ones(num_samples, 1), torch.full((num_samples, 1), 2)
    tokens = torch.cat([start, words % 500 + 3, end, torch.zeros(num_samples, 1)], dim=1)
    return tokens.int()


def _frames_further_right(crops: torch.Tensor, epoch: int) -> dict[str, torch.Tensor]:
    """Let a camera turn to the right by 0 to 3 px of views (B, V, 3, S, S), so far as its rank
    says."""
    steps = (torch.arange(len(crops)) + epoch) % 4
    moved = [crop.roll(-int(step), dims=-1) for crop, step in zip(crops, steps, strict=True)]
    return {"pair": torch.stack(moved), "motion": ((steps + 0.5) / 4).unsqueeze(1).expand(-1, 6)}


def _flow_of_bright_places(crops: torch.Tensor) -> torch.Tensor:
    """Let what is brighter than the rest of a view (B, V, T, 3, S, S) move to the right, and the
    rest down: (B, V, T - 1, 2, S, S)."""
    grey = crops[:, :, :-1].float().mean(dim=3)  # (B, V, T - 1, S, S)
    bright = grey > grey.flatten(3).median(dim=3).values[..., None, None]
    return torch.stack([bright, ~bright], dim=3).to(torch.float16)


def rows_of(batch: Batch, rows: slice) -> Batch:
    """Take some samples of a batch."""
    taken = Batch(
        views={group: views[:, rows] for group, views in batch["views"].items()},
        sample_id=batch["sample_id"][rows],
        row=batch["row"][rows],
        epoch=batch["epoch"][rows],
        valid=batch["valid"][rows],
    )
    if "targets" in batch:
        taken["targets"] = {name: values[rows] for name, values in batch["targets"].items()}
    return taken
