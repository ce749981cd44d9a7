"""Byte-pair tokens of texts (Sennrich 2016, arXiv:1508.07909), learnt from a run's own captions."""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from augment.texts.special_tokens import END, PAD, START

_SPECIAL = ("<pad>", "<start>", "<end>")


def learn(texts: Iterable[str], vocab_size: int) -> str:
    """Learn which bytes to join from texts.

    Args:
        texts: What to learn from; case is no matter.
        vocab_size: Tokens at most, `PAD`, `START`, `END` and the 256 bytes among them: whatever is
            written can be told.

    Returns:
        The tokenizer as JSON, as `tokenizers` reads it.

    Raises:
        ValueError: `tokenizers` is missing; with the remedy.
    """
    library = _library()
    tokenizer = library.Tokenizer(library.models.BPE())
    tokenizer.normalizer = library.normalizers.Sequence(
        [library.normalizers.NFC(), library.normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = library.decoders.ByteLevel()
    trainer = library.trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(_SPECIAL),
        initial_alphabet=library.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    text: str = tokenizer.to_str()
    return text


def encode(tokenizer: str, texts: Sequence[str], length: int) -> np.ndarray:
    """Turn texts into tokens.

    Args:
        tokenizer: As `learn` returned it.
        texts: N of them.
        length: L, at least 2; what is longer is cut off.

    Returns:
        (N, L) int32: `START`, the text's, `END`, then `PAD`.
    """
    opened = _opened(tokenizer)
    tokens = np.full((len(texts), length), PAD, np.int32)
    for row, found in zip(tokens, opened.encode_batch(list(texts)), strict=True):
        ids = [START, *found.ids[: length - 2], END]
        row[: len(ids)] = ids
    return tokens


def word_ids(tokenizer: str, text: str) -> list[int]:
    """Turn one text into its tokens alone, however many there are."""
    ids: list[int] = _opened(tokenizer).encode(text).ids
    return ids


def decode(tokenizer: str, tokens: np.ndarray) -> str:
    """Turn tokens (L,) back into a text, in lower case."""
    text: str = _opened(tokenizer).decode([int(one) for one in tokens if one > END])
    return text.strip()


@lru_cache(maxsize=4)
def _opened(tokenizer: str) -> Any:
    return _library().Tokenizer.from_str(tokenizer)


def _library() -> Any:
    try:
        import tokenizers  # an extra
    except ModuleNotFoundError:
        remedy = "pip install 'afield[text]'"
        raise ValueError(f"captions need Hugging Face's tokenizers: {remedy}") from None
    return tokenizers
