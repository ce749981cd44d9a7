"""An artifact of images and captions, as a run with captions writes it."""

import torch

from models import artifact
from models.encoders.factory import EncoderConfig
from models.multimodal.clip import CLIP
from models.registry import build_method
from models.texts.tokenizer import learn

SIDE = 32
ENCODER = EncoderConfig(name="resnet18_small", width=8)
TEXTS = ("a dog on grass", "a red car", "two people in a street", "a cat sleeps")


def save_captioned(out: str, seed: int = 0, noise: float = 0.05) -> str:
    """Write an artifact whose weights are no longer those of its seed; returns its digest."""
    method = build_method(CLIP.small, ENCODER, CLIP.default_views(SIDE), seed).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=noise)
    tower = method.ships().text
    assert tower is not None
    tower.tokenizer = learn(TEXTS * 5, 400)
    views = method.views
    return artifact.save(
        out,
        method.encoder,
        config={"encoder": ENCODER.model_dump(mode="json"), "seed": seed},
        preprocess={"image_size": SIDE, "mean": views.mean, "std": views.std},
        provenance={"source": "pairs"},
        text=tower,
    )
