"""Tokens that are no part of a text: padding, and what stands before and behind it."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

PAD, START, END = range(3)
NUM_SPECIAL = 3


def is_word(tokens: "Tensor") -> "Tensor":
    """Tell which of tokens, of any shape, are parts of the text itself, bool of the same shape."""
    return tokens >= NUM_SPECIAL
