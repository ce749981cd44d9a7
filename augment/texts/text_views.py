"""What a view of a text is: so many tokens of it."""

import math
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from augment.recipe import AnyViews, ViewGroup
from augment.texts.special_tokens import PAD, is_word

_COLOURS = (7919, 104_729, 1_299_709)  # by which tokens are spread over red, green and blue
TEXT = "text"
"""The group of views that methods of texts eat."""


class TextGroup(ViewGroup):
    """Views drawn alike: stretches of a text."""

    count: int = Field(default=1, ge=1, description="stretches of this kind per sample")
    window: Literal["drawn", "first"] = Field(
        default="drawn",
        description="what is taken of a text of more tokens: any stretch, or its beginning",
    )


class TextViews(AnyViews):
    """All views of one text."""

    default_size: ClassVar[int] = 64
    smallest: ClassVar[int] = 8

    size: int = Field(
        default=64,
        ge=8,
        le=1 << 16,
        description="tokens of a view, its start and its end among them; less is padded",
    )
    groups: dict[str, TextGroup] = Field(
        default_factory=lambda: {TEXT: TextGroup()},
        min_length=1,
        description="kinds of views by name",
    )


def text_views(size: int) -> TextViews:
    """Make the one view of `size` tokens that all methods of texts eat."""
    return TextViews(size=size)


class TextViewGenerator:
    """Makes the views of a recipe: the stream has drawn and cut them already.

    Args:
        views: The recipe.
        seed: The run's seed.
    """

    def __init__(self, views: TextViews, seed: int) -> None:
        self.views = views
        self.seed = seed

    def __call__(
        self,
        rows: dict[str, Tensor],
        epoch: Tensor,
        sample_id: Tensor,
        *,
        photometric_done: bool = False,
    ) -> dict[str, Tensor]:
        """Turn tokens (B, V, L) int32 by group into views (V, B, L) int64."""
        return {name: tokens.transpose(0, 1).long().contiguous() for name, tokens in rows.items()}


def token_pictures(tokens: Tensor, size: int) -> Tensor:
    """Draw texts as squares, a token each, row by row: one token has one colour everywhere, and
    what is no word is grey.

    Args:
        tokens: (B, L) int64.
        size: S, side of the pictures, px.

    Returns:
        (B, 3, S, S) uint8 RGB.
    """
    side = math.ceil(tokens.shape[1] ** 0.5)
    cells = functional.pad(tokens, (0, side * side - tokens.shape[1]), value=PAD)
    spread = torch.tensor(_COLOURS, device=tokens.device)
    colours = 32 + (cells.unsqueeze(1) * spread[:, None] % 224)  # (B, 3, side^2)
    colours = torch.where(is_word(cells).unsqueeze(1), colours, cells.unsqueeze(1) * 24)
    squares = colours.unflatten(2, (side, side)).float()
    return functional.interpolate(squares, size=(size, size), mode="nearest").to(torch.uint8)
