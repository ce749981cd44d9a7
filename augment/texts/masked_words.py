"""Words of a text that are hidden, and are to be told by the rest (arXiv:1810.04805, section
3.1)."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from augment.masking import MaskKey
from augment.texts.special_tokens import NUM_SPECIAL, is_word

HIDDEN_SHARE = 0.8
RANDOM_SHARE = 0.1
_LATE = 2.0  # behind every draw


class MaskedWords(NamedTuple):
    """Words that are asked for.

    Attributes:
        places: Where they stand, (B, K) int64; K is the same for all texts of a length.
        asked: Which of the places count, (B, K) bool: short texts have fewer.
        tokens: The texts with other words in some of the places, (B, L) int64.
        hidden: In whose place nothing is to be seen, (B, L) bool.
    """

    places: Tensor
    asked: Tensor
    tokens: Tensor
    hidden: Tensor


def num_places(length: int, ratio: float) -> int:
    """Return K, the most words that are asked for in a text of `length` tokens."""
    return max(1, math.ceil(ratio * (length - 2)))


def mask_words(tokens: Tensor, ratio: float, vocab_size: int, key: MaskKey) -> MaskedWords:
    """Draw which words of each text are asked for: 80 % of them are hidden, 10 % have become any
    other word, 10 % stay, so that no word can be trusted as it stands.

    Args:
        tokens: (B, L) int64: start, words, end, padding.
        ratio: Share of a text's words that are asked for, in (0, 1); of each text with words at
            least one.
        vocab_size: Tokens that there are, the special ones among them.
        key: Of the draws.
    """
    words = is_word(tokens)
    length = tokens.shape[1]
    order = key.uniform(length, "masked words").masked_fill(~words, _LATE).argsort(dim=1)
    places = order[:, : num_places(length, ratio)]  # (B, K)
    num_words = words.sum(dim=1, keepdim=True)
    wanted = (num_words * ratio).round().long().clamp(min=1).minimum(num_words)
    asked = torch.arange(places.shape[1], device=tokens.device) < wanted
    fate = key.uniform(places.shape[1], "what becomes of masked words")
    other = key.uniform(places.shape[1], "other words") * (vocab_size - NUM_SPECIAL)
    exchanged = asked & (fate >= HIDDEN_SHARE) & (fate < HIDDEN_SHARE + RANDOM_SHARE)
    found = tokens.gather(1, places)
    put = torch.where(exchanged, other.long() + NUM_SPECIAL, found)
    return MaskedWords(
        places,
        asked,
        tokens.scatter(1, places, put),
        torch.zeros_like(words).scatter(1, places, asked & (fate < HIDDEN_SHARE)),
    )
