"""Words of a text that stand near each other (arXiv:1301.3781, section 3.2)."""

from typing import NamedTuple

import torch
from torch import Tensor

from augment.masking import MaskKey
from augment.texts.special_tokens import is_word


class WordPairs(NamedTuple):
    """Words and others near by.

    Attributes:
        middle: Places of the words, (B, P) int64.
        near: Places of the others, (B, P) int64.
        counts: Which pairs lie in the text, (B, P) bool.
    """

    middle: Tensor
    near: Tensor
    counts: Tensor


def near_words(tokens: Tensor, num_pairs: int, window: int, key: MaskKey) -> WordPairs:
    """Draw pairs of words of each text.

    A word is drawn evenly, and the distance to the other so that the nearer is the likelier: as
    often as if the window of each word were drawn from 1 to `window`, and all of it taken.

    Args:
        tokens: (B, L) int64: start, words, end, padding.
        num_pairs: P, of each text.
        window: Words from one to the other, at most.
        key: Of the draws.
    """
    num_words = is_word(tokens).sum(dim=1, keepdim=True)  # (B, 1)
    middle = 1 + (key.uniform(num_pairs, "words") * num_words).long()
    weights = torch.arange(window, 0, -1, device=tokens.device, dtype=torch.float32)
    bounds = weights.cumsum(0) / weights.sum()
    draws = key.uniform(num_pairs, "distances").to(bounds.dtype)
    distance = 1 + torch.searchsorted(bounds[:-1].contiguous(), draws, right=True)
    before = key.uniform(num_pairs, "sides") < 0.5
    near = torch.where(before, middle - distance, middle + distance)
    counts = (near >= 1) & (near <= num_words)
    last = tokens.shape[1] - 1
    return WordPairs(middle.clamp(max=last), near.clamp(0, last), counts)
