"""Masks over a grid of tokens: how many are hidden is fixed, where is keyed to the sample.

Every mask is a function of its `MaskKey` and nothing else, so it can be drawn again; it is made on
the device of the key, without a loop over samples and without waiting for the device.
"""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from augment.rng import uniform

Grid = tuple[int, int]
"""Rows and columns of tokens."""

Order = Literal[
    "top_from_bottom",
    "bottom_from_top",
    "left_from_right",
    "right_from_left",
    "past_from_present",
    "future_from_past",
]
"""What is hidden, and from what it is to be told: whole sides of the image; or, in raster order,
what comes before ("past") or after ("future") the rest."""


@dataclass(frozen=True)
class MaskKey:
    """What a mask is a function of.

    Attributes:
        seed: The run's seed.
        epoch: (B,) int64.
        sample_id: (B,) int64, on the device where masks are wanted.
        view: Index of the masked view among all views of the sample.
        index: Which one, where a view has several masks.
    """

    seed: int
    epoch: Tensor
    sample_id: Tensor
    view: int = 0
    index: int = 0

    def uniform(self, num: int, op: str) -> Tensor:
        """Draw (B, num) float32 in [0, 1) for one purpose, `op`."""
        return uniform(
            num,
            seed=self.seed,
            epoch=self.epoch,
            sample_id=self.sample_id,
            view=self.view,
            op=f"{op}/{self.index}" if self.index else op,
        )


def num_to_hide(num_tokens: int, mask_ratio: float) -> int:
    """Round the share of tokens to hide to whole ones.

    Raises:
        ValueError: the ratio leaves no token visible, or hides none.
    """
    num_hidden = round(num_tokens * mask_ratio)
    if not 0 < num_hidden < num_tokens:
        raise ValueError(
            f"mask_ratio must be in (0, 1) and hide some but not all of the {num_tokens} tokens,"
            f" got {mask_ratio}"
        )
    return num_hidden


def drawn_num_hidden(
    num_tokens: int, ratios: tuple[float, float], probability: float, key: MaskKey
) -> Tensor:
    """Draw how many tokens of each sample are hidden (iBOT, arXiv:2111.07832, section 4.1).

    Args:
        num_tokens: Tokens of a sample, N.
        ratios: Least and greatest share of hidden tokens; the draw is uniform between them.
        probability: Share of samples with a mask; the others hide none.
        key: Of the draw.

    Returns:
        (B,) int64.
    """
    draws = key.uniform(2, "num_hidden")
    share = ratios[0] + (ratios[1] - ratios[0]) * draws[:, 0]
    return (share * num_tokens).round().long() * (draws[:, 1] < probability)


def hide_first(scores: Tensor, num_hidden: int | Tensor) -> Tensor:
    """Hide the tokens with the lowest scores; of equal ones those that come first.

    Args:
        scores: (B, N).
        num_hidden: For all samples, or (B,) int64.

    Returns:
        (B, N) bool, true where hidden.
    """
    # stable: ties fall alike on every device
    rank = scores.argsort(dim=1, stable=True).argsort(dim=1)
    bound = num_hidden.unsqueeze(1) if isinstance(num_hidden, Tensor) else num_hidden
    return rank < bound


def visible_tokens(mask: Tensor, num_visible: int) -> Tensor:
    """Return which tokens a mask (B, N) leaves visible, ascending, (B, num_visible) int64.

    Args:
        mask: True where hidden; every sample shows `num_visible` tokens.
        num_visible: As many.
    """
    return mask.int().argsort(dim=1, stable=True)[:, :num_visible]


def random_mask(num_tokens: int, mask_ratio: float, key: MaskKey) -> tuple[Tensor, Tensor]:
    """Hide the same number of tokens of every sample, each set equally likely (MAE,
    arXiv:2111.06377, section 3).

    Args:
        num_tokens: Tokens of a sample, N.
        mask_ratio: Share to hide, in (0, 1); rounded to whole tokens. Paper: 0.75.
        key: Of the draw.

    Returns:
        Indices of the visible tokens in ascending order, (B, K) int64, and the mask, (B, N) bool,
        true where hidden; on sample_id's device.

    Raises:
        ValueError: the ratio leaves no token visible, or hides none.
    """
    num_visible = num_tokens - num_to_hide(num_tokens, mask_ratio)
    scores = key.uniform(num_tokens, "mask")
    visible = scores.argsort(dim=1, stable=True)[:, :num_visible].sort(dim=1).values
    mask = torch.ones_like(scores, dtype=torch.bool).scatter_(1, visible, False)
    return visible, mask


def tube_mask(
    num_places: int, times: int, mask_ratio: float, key: MaskKey
) -> tuple[Tensor, Tensor]:
    """Hide the same places of a frame at every instant of a clip (VideoMAE, arXiv:2203.12602,
    section 3.3): what stands still cannot then be looked up in another frame.

    Args:
        num_places: Tokens of an instant.
        times: Instants.
        mask_ratio: Share to hide, in (0, 1). Paper: 0.9.
        key: Of the draw.

    Returns:
        As `random_mask`, of N = times * num_places tokens, instant by instant.

    Raises:
        ValueError: the ratio leaves no token visible, or hides none.
    """
    visible, mask = random_mask(num_places, mask_ratio, key)
    return through_time(visible, num_places, times), mask.repeat(1, times)


def through_time(places: Tensor, num_places: int, times: int) -> Tensor:
    """Return the tokens of places (B, K) of an instant's `num_places` at every instant, (B, times *
    K)."""
    starts = num_places * torch.arange(times, device=places.device).unsqueeze(1)  # (times, 1)
    return (places.unsqueeze(1) + starts).flatten(1)


def coarse_mask(grid: Grid, unit: int, mask_ratio: float, key: MaskKey) -> Tensor:
    """Hide squares of `unit` x `unit` tokens, the same number in every sample (SimMIM,
    arXiv:2111.09886, section 3.2).

    Args:
        grid: Rows and columns of tokens, multiples of `unit`.
        unit: Side of a square, tokens. Paper: as many as 32 px are.
        mask_ratio: Share of the squares to hide.
        key: Of the draw.

    Returns:
        (B, N) bool, true where hidden.

    Raises:
        ValueError: the squares do not cover the grid, or the ratio hides none or all of them.
    """
    rows, columns = grid
    if rows % unit or columns % unit:
        raise ValueError(f"squares of {unit} tokens do not cover a grid of {rows} x {columns}")
    coarse = (rows // unit, columns // unit)
    _, mask = random_mask(coarse[0] * coarse[1], mask_ratio, key)
    squares = mask.unflatten(1, coarse)
    tokens: Tensor = squares.repeat_interleave(unit, 1).repeat_interleave(unit, 2).flatten(1)
    return tokens


_MOST_BLOCKS = 16
_LOWEST_ASPECT = 0.3


def block_mask(grid: Grid, num_hidden: int | Tensor, key: MaskKey, *, min_block: int = 4) -> Tensor:
    """Hide blocks until as many tokens are hidden as wanted (BEiT, arXiv:2106.08254, algorithm 1;
    iBOT).

    A block has from `min_block` tokens to as many as are still to be hidden, is 0.3 to 1 / 0.3
    times as high as wide, and may overlap others. The last one is cut to the exact number.

    Args:
        grid: Rows and columns of tokens.
        num_hidden: Tokens to hide in every sample, or in each (B,) int64; at most all.
        key: Of the draw.
        min_block: Fewest tokens of a block. Papers: 16 of BEiT, 4 of iBOT.

    Returns:
        (B, N) bool, true where hidden.
    """
    rows, columns = grid
    draws = key.uniform(4 * _MOST_BLOCKS, "blocks").unflatten(1, (_MOST_BLOCKS, 4))
    count = torch.zeros_like(key.sample_id) + num_hidden  # (B,)
    turn = draws.new_full((len(draws), rows * columns), _MOST_BLOCKS)  # the block that covers it
    for block in range(_MOST_BLOCKS):
        size, shape, top, left = draws[:, block].unbind(1)
        wanting = (count - (turn < _MOST_BLOCKS).sum(1)).clamp(min=min_block)
        area = min_block + size * (wanting - min_block)
        aspect = torch.exp((2 * shape - 1) * math.log(1 / _LOWEST_ASPECT))
        height = (area * aspect).sqrt().round().clamp(1, rows)
        width = (area / aspect).sqrt().round().clamp(1, columns)
        covered = rectangle(grid, height, width, top, left)
        turn = torch.where(covered & (turn == _MOST_BLOCKS), float(block), turn)
    return hide_first(turn, count)


def rectangle(grid: Grid, height: Tensor, width: Tensor, top: Tensor, left: Tensor) -> Tensor:
    """Place rectangles in a grid.

    Args:
        grid: Rows and columns of tokens.
        height: Of each, whole tokens, at most the rows; any shape S.
        width: The same, at most the columns.
        top: Where in the room above and below it lies, uniform in [0, 1); S.
        left: The same to both sides; S.

    Returns:
        (*S, N) bool, true inside, in raster order.
    """
    rows, columns = grid
    row = torch.arange(rows, device=height.device).unsqueeze(1)
    column = torch.arange(columns, device=height.device)
    height, width, top, left = (x[..., None, None] for x in (height, width, top, left))
    first_row = (top * (rows - height + 1)).floor()
    first_column = (left * (columns - width + 1)).floor()
    in_rows = (row >= first_row) & (row < first_row + height)  # (*S, rows, 1)
    in_columns = (column >= first_column) & (column < first_column + width)
    return (in_rows & in_columns).flatten(-2)


def inverse_block_mask(
    grid: Grid, mask_ratio: float, key: MaskKey, *, block: int = 3, adjust: float = 0.07
) -> Tensor:
    """Keep blocks visible and hide the rest (data2vec 2.0, arXiv:2212.07525, section 3.3).

    Blocks of `block` x `block` tokens lie around places drawn without replacement and may overlap;
    then tokens are hidden or shown at random until their number is exact.

    Args:
        grid: Rows and columns of tokens.
        mask_ratio: Share R to hide. Paper: 0.8.
        key: Of the draw.
        block: Side B of a block, tokens. Paper: 3.
        adjust: A, drawn blocks beyond what would do without overlap, as a share of all tokens.
            Paper: 0.07 for ViT-B.

    Returns:
        (B, N) bool, true where hidden.

    Raises:
        ValueError: the ratio leaves no token visible, or hides none.
    """
    rows, columns = grid
    num_tokens = rows * columns
    num_hidden = num_to_hide(num_tokens, mask_ratio)
    share = 1 - num_hidden / num_tokens + adjust
    num_blocks = min(max(round(num_tokens * share / block**2), 1), num_tokens)
    starts = hide_first(key.uniform(num_tokens, "starts"), num_blocks).view(-1, 1, rows, columns)
    # an even block has its longer half below and to the right of its place
    before = (block - 1) // 2
    after = block - 1 - before
    padded = torch.nn.functional.pad(starts.float(), (after, before, after, before))
    kept = torch.nn.functional.max_pool2d(padded, block, stride=1).flatten(1)
    return hide_first(kept + key.uniform(num_tokens, "exact"), num_hidden)


def rolled_block_mask(grid: Grid, mask_ratio: float, key: MaskKey) -> Tensor:
    """Keep one block visible, which goes on at the opposite border where it leaves the image (CAPI,
    arXiv:2502.08769, section 3).

    So every token is hidden equally often, though a single block inside would seldom show the
    border.

    Args:
        grid: Rows and columns of tokens.
        mask_ratio: Share to hide. Paper: 0.65.
        key: Of the draw.

    Returns:
        (B, N) bool, true where hidden.

    Raises:
        ValueError: the ratio leaves no token visible, or hides none.
    """
    rows, columns = grid
    num_visible = rows * columns - num_to_hide(rows * columns, mask_ratio)
    shape, top, left = (draw[:, None, None] for draw in key.uniform(3, "roll").unbind(1))
    aspect = torch.exp((2 * shape - 1) * math.log(1 / _LOWEST_ASPECT))
    lowest = math.ceil(num_visible / columns)
    height = (num_visible * aspect).sqrt().round().clamp(lowest, rows)
    width = (num_visible / height).ceil()
    row = torch.arange(rows, device=top.device).unsqueeze(1)
    column = torch.arange(columns, device=top.device)
    own_row = (row - (top * rows).floor()) % rows  # (B, h, 1), from the block's corner on
    own_column = (column - (left * columns).floor()) % columns
    # the block's last row is cut to the exact number
    shown = (own_column < width) & (own_row * width + own_column < num_visible)
    return ~shown.flatten(1)


def ordered_mask(grid: Grid, num_hidden: int | Tensor, order: Order, key: MaskKey) -> Tensor:
    """Hide one side of the image, or what comes before or after the rest in raster order.

    Args:
        grid: Rows and columns of tokens.
        num_hidden: Tokens to hide in every sample, or in each (B,) int64. A side hides whole rows
            or columns: as many as make the number when rounded.
        order: Which.
        key: Its samples and their device; nothing is drawn.

    Returns:
        (B, N) bool, true where hidden.

    Raises:
        ValueError: an unknown order.
    """
    if order not in get_args(Order):
        raise ValueError(f"order must be one of {', '.join(get_args(Order))}, got {order}")
    rows, columns = grid
    token = torch.arange(rows * columns, device=key.sample_id.device)
    count = torch.zeros_like(key.sample_id) + num_hidden
    sideways = order in ("left_from_right", "right_from_left")
    line = token % columns if sideways else token // columns
    num_lines = columns if sideways else rows
    across = rows if sideways else columns  # tokens of a line
    if order in ("past_from_present", "future_from_past"):
        line, num_lines, across = token, rows * columns, 1
    if order in ("bottom_from_top", "right_from_left", "future_from_past"):
        line = num_lines - 1 - line
    hidden_lines = (count / across).round()
    return line < hidden_lines.unsqueeze(1)
