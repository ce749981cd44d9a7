"""An artifact of images and captions, as a run with captions writes it."""

import numpy as np
import torch
from torch import Tensor

from models import artifact
from models.encoders.factory import EncoderConfig
from models.method import Batch
from models.multimodal.clip import CLIP
from models.registry import build_method
from models.texts.tokenizer import encode, learn

SIDE = 32
ENCODER = EncoderConfig(name="resnet18_small", width=8)
TEXTS = ("a dog on grass", "a red car", "two people in a street", "a cat sleeps")


COLOURS = {
    "red": (220, 30, 30),
    "dark_green": (20, 110, 30),
    "blue": (30, 40, 220),
    "yellow": (230, 220, 40),
}


def save_captioned(out: str, seed: int = 0, noise: float = 0.05) -> str:
    """Write an artifact whose weights are no longer those of its seed; returns its digest."""
    method = _built(seed).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=noise)
    return _saved(out, method, learn(TEXTS * 5, 400), seed)


def save_trained_on_colours(out: str, seed: int = 0) -> str:
    """Write an artifact that has learnt to tell squares of `COLOURS` by their names."""
    method = _built(seed)
    texts = [f"a photo of a {name.replace('_', ' ')} thing" for name in COLOURS]
    tokenizer = learn(texts * 5, 400)
    tokens = torch.from_numpy(encode(tokenizer, texts, CLIP.small.context_length))
    optimizer = torch.optim.AdamW(method.parameters(), lr=3e-3)
    generator = np.random.default_rng(seed)
    for _ in range(60):
        pixels = np.stack([square(name, generator) for name in COLOURS])
        out_of = method(_batch(method, torch.from_numpy(pixels).permute(0, 3, 1, 2), tokens))
        optimizer.zero_grad()
        out_of["loss"].backward()
        optimizer.step()
    return _saved(out, method.eval(), tokenizer, seed)


def square(name: str, generator: np.random.Generator) -> np.ndarray:
    """Draw a noisy square of a colour, (S, S, 3) uint8."""
    noise = generator.normal(0, 12, (SIDE, SIDE, 3))
    return np.clip(np.array(COLOURS[name]) + noise, 0, 255).astype(np.uint8)


def _built(seed: int) -> CLIP:
    method = build_method(CLIP.small, ENCODER, CLIP.default_views(SIDE), seed)
    assert isinstance(method, CLIP)
    return method


def _batch(method: CLIP, images: Tensor, tokens: Tensor) -> Batch:
    count = len(images)
    return Batch(
        views={"global_crops": method.from_rgb(images / 255).unsqueeze(0)},
        sample_id=torch.arange(count),
        row=torch.arange(count),
        epoch=torch.zeros(count, dtype=torch.int64),
        valid=torch.ones(count, dtype=torch.bool),
        targets={"caption": tokens},
    )


def _saved(out: str, method: CLIP, tokenizer: str, seed: int) -> str:
    tower = method.ships().text
    assert tower is not None
    tower.tokenizer = tokenizer
    views = method.views
    return artifact.save(
        out,
        method.encoder,
        config={"encoder": ENCODER.model_dump(mode="json"), "seed": seed},
        preprocess={"image_size": SIDE, "mean": views.mean, "std": views.std},
        provenance={"source": "pairs"},
        text=tower,
    )
