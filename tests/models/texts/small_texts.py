"""Texts by grammar, for tests: a few words of each of some topics, in an order that each topic
has."""

from typing import Any

import torch

from augment.texts.special_tokens import END, PAD, START
from augment.texts.text_views import TEXT
from models.encoders.factory import EncoderConfig
from models.encoders.texts.text_settings import TextSettings
from models.method import Batch
from models.texts.mlm import MLM
from models.texts.sentence_order import SentenceOrder
from models.texts.simcse import SimCSE
from models.texts.skipgram import SkipGram
from models.texts.text_method import TextMethod

KINDS: dict[str, type[TextMethod]] = {
    "skipgram": SkipGram,
    "mlm": MLM,
    "sentence_order": SentenceOrder,
    "simcse": SimCSE,
}
VOCAB = 512
LENGTH = 16
ENCODERS = {
    "skipgram": EncoderConfig(
        name="word_vectors", text=TextSettings(vocab_size=VOCAB, width=16, depth=1)
    ),
    "": EncoderConfig(
        name="text_transformer",
        text=TextSettings(vocab_size=VOCAB, width=16, depth=2, num_heads=2),
    ),
}


def texts(num: int, epoch: int = 0) -> torch.Tensor:
    """Texts of 6 to 14 words, (num, LENGTH) int64: those of a topic are taken in turn."""
    rows = []
    for row in range(num):
        topic, count = row % 4, 6 + (row * 5 + epoch) % 9
        words = [3 + 20 * topic + (row + place) % 12 for place in range(count)]
        rows.append([START, *words, END, *[PAD] * (LENGTH - count - 2)])
    return torch.tensor(rows)


def batch_of(tokens: torch.Tensor, epoch: int = 0) -> Batch:
    """A batch of texts, all valid."""
    sample_id = torch.arange(len(tokens)) * 7919 + 13
    return Batch(
        views={TEXT: tokens.unsqueeze(0)},
        sample_id=sample_id,
        row=torch.arange(len(tokens)),
        epoch=torch.full_like(sample_id, epoch),
        valid=torch.ones(len(tokens), dtype=torch.bool),
    )


def build(name: str, **settings: Any) -> TextMethod:
    """A method of texts at its small size."""
    kind = KINDS[name]
    config = kind.small.model_copy(update=settings)
    encoder = ENCODERS.get(name, ENCODERS[""])
    torch.manual_seed(0)
    return kind(config, encoder, kind.default_views(LENGTH), 0)
