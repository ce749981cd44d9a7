"""Two halves of a text in their order or the other one (arXiv:1810.04805, arXiv:1909.11942)."""

from typing import NamedTuple

import torch
from torch import Tensor

from augment.masking import MaskKey
from augment.texts.special_tokens import END, PAD, START, is_word

LEAST_WORDS = 4  # of a text that can be asked about, its ends left out


class Segments(NamedTuple):
    """Texts in two segments.

    Attributes:
        tokens: (B, L) int64: start, one segment, end, the other, end, padding.
        swapped: Whether the second stands first, (B,) int64, 0 or 1.
        asked: Whether the text is long enough to tell, (B,) bool.
    """

    tokens: Tensor
    swapped: Tensor
    asked: Tensor


def segments(tokens: Tensor, trim: int, key: MaskKey) -> Segments:
    """Cut each text in two, between its first and its third quarter, and swap half of them.

    Args:
        tokens: (B, L) int64: start, words, end, padding.
        trim: Words left out at either end of a text.
        key: Of the draws.
    """
    length = tokens.shape[1]
    # one more token stands in it than before
    num_words = (is_word(tokens).sum(dim=1) - 2 * trim).clamp(max=length - 3)
    asked = num_words >= LEAST_WORDS
    num_words = num_words.clamp(min=LEAST_WORDS)
    least = (num_words + 3) // 4
    places = num_words - 2 * least + 1
    first = least + (key.uniform(1, "cut")[:, 0] * places).long()  # words of the first segment
    swapped = key.uniform(1, "order")[:, 0] < 0.5
    begin = 1 + trim
    ahead = torch.where(swapped, num_words - first, first).unsqueeze(1)
    source = torch.where(swapped, begin + first, torch.full_like(first, begin)).unsqueeze(1)
    other = torch.where(swapped, torch.full_like(first, begin), begin + first).unsqueeze(1)
    place = torch.arange(length, device=tokens.device)
    taken = torch.where(place <= ahead, source + place - 1, other + place - ahead - 2)
    told = tokens.gather(1, taken.clamp(0, length - 1))
    last = num_words.unsqueeze(1) + 2
    told = told.masked_fill((place == ahead + 1) | (place == last), END)
    told = told.masked_fill(place > last, PAD).masked_fill(place == 0, START)
    return Segments(told, swapped.long(), asked)
