"""The masks of joint-embedding prediction: several target blocks and the context without them."""

from typing import NamedTuple

import torch
from torch import Tensor

from augment.masking import Grid, MaskKey, rectangle, through_time

_TRIED = 512
_WITH_ENOUGH = 0.9
_LEAST_CONTEXT = 2
_ANY_SEED = 0


class MultiBlock(NamedTuple):
    """How many blocks of which sizes are drawn (I-JEPA, arXiv:2301.08243, appendix A.1).

    Attributes:
        grid: Rows and columns of tokens.
        num_targets: Target blocks, M.
        target_scale: Least and greatest share of the tokens in a target.
        target_aspect: Least and greatest height over width of a target.
        context_scale: Least and greatest share of the tokens in the context, a square block, before
            the targets are taken out.
    """

    grid: Grid
    num_targets: int = 4
    target_scale: tuple[float, float] = (0.15, 0.2)
    target_aspect: tuple[float, float] = (0.75, 1.5)
    context_scale: tuple[float, float] = (0.85, 1.0)


class Blocks(NamedTuple):
    """The drawn blocks, of one shape for all samples.

    Attributes:
        context: Tokens of the context, ascending, (B, K) int64. A sample with more than K shows K
            of them, drawn at random; one with fewer shows some twice, which weighs them in
            attention and tells nothing more.
        targets: Tokens of each target, (B, M, T) int64 in raster order; a smaller one repeats its
            tokens.
        counted: Which of `targets` are no repeats, (B, M, T) bool.
        in_context: The tokens the context may show, (B, N) bool: none of a target.
        in_target: The tokens of each target, (B, M, N) bool.
    """

    context: Tensor
    targets: Tensor
    counted: Tensor
    in_context: Tensor
    in_target: Tensor


def multi_block(recipe: MultiBlock, num_context: int, key: MaskKey) -> Blocks:
    """Draw the blocks of each sample.

    The paper's collator gives all samples of a batch blocks of one size, so that they can be
    stacked. Here every sample has its own sizes and the number of tokens is fixed instead: what a
    sample shows then depends on no other sample, nor on how the batch is split among workers.

    Args:
        recipe: Sizes of the blocks.
        num_context: Tokens K of a context, from `usual_context`.
        key: Of the draw.
    """
    num_targets = recipe.num_targets
    draws = key.uniform(4 * (num_targets + 1), "multi_block").unflatten(1, (num_targets + 1, 4))
    in_target = _drawn(recipe, recipe.target_scale, recipe.target_aspect, draws[:, 1:])
    in_context = _drawn(recipe, recipe.context_scale, (1.0, 1.0), draws[:, :1])[:, 0]
    in_context = in_context & ~in_target.any(1)  # (B, N)
    # Once in many thousands the targets cover all: one token is then context and no target.
    in_context[:, 0] |= ~in_context.any(1)
    in_target = in_target & ~in_context.unsqueeze(1)
    most = largest_target(recipe)
    targets, counted = _first(in_target, most)
    order = torch.where(in_context, key.uniform(in_context.shape[1], "context"), 2.0)
    chosen = order.argsort(dim=1, stable=True)  # (B, N), the context first
    size = in_context.sum(1, keepdim=True).clamp(max=num_context)  # (B, 1)
    place = torch.arange(num_context, device=size.device) % size
    context = chosen.gather(1, place).sort(1).values
    return Blocks(context, targets, counted, in_context, in_target)


class Tubes(NamedTuple):
    """What is seen and what is asked for, at all instants of a clip alike.

    Attributes:
        context: Tokens that may be seen, (B, K) int64, instant by instant.
        asked: Tokens that are to be told, (B, A) int64, instant by instant; none of the context.
        counted: Which of `asked` are no repeats, (B, A) bool.
        in_context: The places of one instant that may be seen, (B, N) bool.
    """

    context: Tensor
    asked: Tensor
    counted: Tensor
    in_context: Tensor


def tubes(recipe: MultiBlock, num_context: int, times: int, key: MaskKey) -> Tubes:
    """Draw blocks of a frame, hide them at every instant, and ask for all of them together (V-JEPA,
    arXiv:2404.08471, section 3.2).

    Args:
        recipe: Sizes of the blocks; its context is all that lies outside.
        num_context: Places K of an instant that are seen, from `usual_context`.
        times: Instants.
        key: Of the draw.
    """
    blocks = multi_block(recipe, num_context, key)
    num_places = blocks.in_context.shape[1]
    asked, counted = _first(~blocks.in_context, num_places - num_context)
    return Tubes(
        through_time(blocks.context, num_places, times),
        through_time(asked, num_places, times),
        counted.repeat(1, times),
        blocks.in_context,
    )


def largest_target(recipe: MultiBlock) -> int:
    """Return the most tokens T that a target can have: its greatest side by its greatest other."""
    grid = recipe.grid
    area = grid[0] * grid[1] * torch.linspace(*recipe.target_scale, 65, dtype=torch.float64)
    aspect = torch.linspace(*recipe.target_aspect, 257, dtype=torch.float64)
    height, width = _sides(grid, area.unsqueeze(1), aspect)
    return int((height * width).max())


def usual_context(recipe: MultiBlock) -> int:
    """Return the context tokens that nine of ten samples have at least, tried on 512 draws.

    Raises:
        ValueError: many samples have none.
    """
    sample = torch.arange(_TRIED)
    key = MaskKey(_ANY_SEED, torch.zeros_like(sample), sample)
    num_tokens = recipe.grid[0] * recipe.grid[1]
    sizes = multi_block(recipe, num_tokens, key).in_context.sum(1).sort(descending=True).values
    usual = int(sizes[int(_WITH_ENOUGH * _TRIED)])
    if usual < _LEAST_CONTEXT:
        raise ValueError(
            f"method.num_targets={recipe.num_targets} targets of {recipe.target_scale} of the"
            f" image leave next to no context of the {num_tokens} patches: lower"
            " method.num_targets or method.target_scale"
        )
    return usual


def _drawn(
    recipe: MultiBlock, scale: tuple[float, float], aspect: tuple[float, float], draws: Tensor
) -> Tensor:
    """Place rectangles by four draws each, (..., 4), as (..., N) bool."""
    size, shape, top, left = draws.unbind(-1)
    num_tokens = recipe.grid[0] * recipe.grid[1]
    area = num_tokens * (scale[0] + (scale[1] - scale[0]) * size)
    height, width = _sides(recipe.grid, area, aspect[0] + (aspect[1] - aspect[0]) * shape)
    return rectangle(recipe.grid, height, width, top, left)


def _sides(grid: Grid, area: Tensor, aspect: Tensor) -> tuple[Tensor, Tensor]:
    height = (area * aspect).sqrt().round().clamp(1, grid[0])
    width = (area / aspect).sqrt().round().clamp(1, grid[1])
    return height, width


def _first(inside: Tensor, num: int) -> tuple[Tensor, Tensor]:
    """Return `num` of the tokens inside (..., N), repeating them where they are fewer, and which
    are no repeats."""
    order = (~inside).int().argsort(dim=-1, stable=True)
    count = inside.sum(-1, keepdim=True)
    place = torch.arange(num, device=inside.device).expand(*inside.shape[:-1], num)
    tokens = order.gather(-1, place % count.clamp(min=1))
    return tokens, place < count
