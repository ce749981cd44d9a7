"""The colour changes of one view on the CPU, compiled: planar 16-bit integers, in pieces that stay
in the cache.

The formulas are those of `augment.execution.photometric`, with each image's ops in its own order.
A view is kept in 128ths of a grey level, and changed in 16ths: six times as much, of which the hue
makes its circle, fits 16 bits.
"""

import math
from typing import Any

import numpy as np
from numba import types
from numba.extending import overload, register_jitable

from augment.kernels.compiled import compiled
from augment.kernels.lanes import lanewise, weigh_pairs
from augment.kernels.vectors import LANES, Lanes

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)  # augment.sample.JITTER_OPS
NOTHING = -1  # in the place of one that is left out
# of a view between two changes: pixels with the same weight in a blur add up to less than 2^16
LEVEL = 128
NEVER = 65535  # a threshold of the solarisation
# The changes of one view: the jitter's ops in their order with factors below 8, or turns of the
# hue, at most half a one; remove the colour; the blur's width in px, 0 for none; the first level
# that is inverted, in 128ths of grey.
CHANGES = np.dtype(
    [
        ("ops", np.int64, 4),
        ("amounts", np.float32, 4),
        ("grey", np.bool_),
        ("sigma", np.float32),
        ("threshold", np.uint16),
    ],
    align=True,
)
_TAIL = 3.2  # deviations kept of a blur's Gaussian; what is cut off weighs 0.0014
_FINE = 16  # of a grey level while it is changed
_WHITE = 255 * _FINE
_OUT_TYPES = (np.uint8, np.float32)
# a factor of 1: what is a 65536th of a grey level, times 16, times this, is its upper half
_ONE = 65536 // _FINE
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as in Kornia
_RED, _GREEN, _BLUE = (round(65536 * weight) for weight in LUMA)
_CHUNK = 1024  # pixels at a time: their three channels take 6 kB of the first-level cache


@lanewise
def _scale(red: Lanes, green: Lanes, blue: Lanes, factor: Lanes, base: Lanes) -> tuple[Lanes, ...]:
    return _mixed((red, green, blue), factor, base)


@lanewise
def _saturate(red: Lanes, green: Lanes, blue: Lanes, factor: Lanes, _: Lanes) -> tuple[Lanes, ...]:
    luma = _four_lumas(red, green, blue)
    base = (luma >> 2) - (luma << 2) * factor
    return _mixed((red, green, blue), factor, base)


@lanewise
def _shift_hue(
    red: Lanes, green: Lanes, blue: Lanes, sextants: Lanes, _: Lanes
) -> tuple[Lanes, ...]:
    """Go along the circle of six sextants, red at 0, measured in chromas: so nothing is divided by
    the chroma."""
    value = red.at_least(green).at_least(blue)
    low = red.at_most(green).at_most(blue)
    chroma = value - low
    two = chroma << 1
    four = chroma << 2
    turn = two + four
    before_green = green - blue
    before_green = before_green.wrapped(before_green + turn)
    beyond_green = (two + (blue - red)).where(green.equals(value), four + (red - green))
    place = before_green.where(red.equals(value), beyond_green) + (chroma << 4) * sextants
    place = place.wrapped(place - turn)
    from_cyan, from_green, from_blue = (abs(place - colour) for colour in (two + chroma, two, four))
    ramps = from_cyan.beyond(chroma), two.beyond(from_green), two.beyond(from_blue)
    return tuple(low + ramp.at_most(chroma) for ramp in ramps)


@lanewise
def _turn_grey(red: Lanes, green: Lanes, blue: Lanes, *_: Lanes) -> tuple[Lanes, ...]:
    return (_four_lumas(red, green, blue) >> 2,) * 3


def _four_lumas(red: Lanes, green: Lanes, blue: Lanes) -> Lanes:
    return (red << 2) * _RED + (green << 2) * _GREEN + (blue << 2) * _BLUE


def _mixed(colours: tuple[Lanes, ...], factor: Lanes, base: Lanes) -> tuple[Lanes, ...]:
    return tuple(((colour << 4) * factor + base).at_least(0).at_most(_WHITE) for colour in colours)


def change_colours(
    image: np.ndarray,
    changes: np.ndarray,
    index: int,
    taps: int,
    levels: np.ndarray,
    out: np.ndarray,
) -> None:
    """Change the colours of a view, blur and solarise it, as one of `changes` says.

    Args:
        image: (3, H, W) uint8, contiguous.
        changes: (B,) of `CHANGES`, the contrast at most once in each.
        index: Which of them.
        taps: Length of the longest kernel of a blur, px; below 2 * H and 2 * W.
        levels: (3, H, W) uint16, contiguous, overwritten: what lies between two changes.
        out: (3, H, W) uint8, or float32 in [0, 1]; contiguous, overwritten; may be the image.

    Raises:
        ValueError: an array is none of these. The compiled code writes to memory unchecked.
    """
    shape = image.shape
    if len(shape) != 3 or shape[0] != 3 or levels.shape != shape or out.shape != shape:
        raise ValueError(
            f"image, levels and out must be (3, H, W): {shape}, {levels.shape}, {out.shape}"
        )
    if image.dtype != np.uint8 or levels.dtype != np.uint16 or out.dtype not in _OUT_TYPES:
        raise ValueError(
            "image must be uint8, levels uint16, out uint8 or float32; "
            f"got {image.dtype}, {levels.dtype}, {out.dtype}"
        )
    if not (image.flags.c_contiguous and levels.flags.c_contiguous and out.flags.c_contiguous):
        raise ValueError("image, levels and out must be contiguous")
    if changes.dtype != CHANGES or not 0 <= index < len(changes):
        raise ValueError(f"changes must be of CHANGES and hold index {index}, got {changes.shape}")
    if changes[index]["sigma"] > 0:
        if not 0 < taps < 2 * min(shape[1:]):
            raise ValueError(f"taps must be below twice the side of {shape}, got {taps}")
        _change(image, changes, index, levels, levels)
        _blur(levels, changes, index, taps, out)
    else:
        _change(image, changes, index, levels, out)


@compiled()
def _change(
    image: np.ndarray, changes: np.ndarray, index: int, levels: np.ndarray, out: np.ndarray
) -> None:  # pragma: no cover - compiled
    """Name a change and its numbers; a key of further draws is left out.

    Args:
        image: (3, H, W) uint8.
        changes: (B,) of `CHANGES`, the contrast at most once in each.
        index: Which of them.
        levels: (3, H, W) uint16, overwritten, for what lies between two changes.
        out: (3, H, W) uint8, float32 in [0, 1], or uint16 in 128ths of a grey level, overwritten;
            it may be the image or the levels.
    """
    drawn = changes[index]
    ops = drawn.ops
    amounts = drawn.amounts
    grey = drawn.grey
    threshold = NEVER if drawn.sigma > 0 else drawn.threshold
    # the contrast needs the mean of all that comes before it, so the pixels are gone through twice
    split = 0
    for position in range(ops.size):
        if ops[position] == CONTRAST:
            split = position
    pixels = image.reshape(3, -1)
    between = levels.reshape(3, -1)
    result = out.reshape(3, -1)
    size = pixels.shape[1]
    planes = np.zeros((3, _CHUNK), np.uint16)
    numbers = np.zeros((ops.size, 2), np.uint16)
    for position in range(ops.size):
        amount = float(amounts[position])
        numbers[position, 0] = int(
            _ONE * (6 * (amount % 1) if ops[position] == HUE else amount) + 0.5
        )
    mean = 0.0
    if split > 0:
        for start in range(0, size, _CHUNK):
            _take_bytes(pixels, start, planes)
            _change_planes(planes, ops[:split], numbers[:split], False)
            mean += _sum_luma(planes, min(_CHUNK, size - start)) / size
            _give(planes, NEVER, between, start)
    elif ops[0] == CONTRAST:
        mean = _FINE * _sum_luma(pixels, size) / size
    numbers[split, 1] = math.floor((1 - amounts[split]) * mean + 0.5)  # in two's complement
    for start in range(0, size, _CHUNK):
        if split > 0:
            _take_levels(between, start, planes)
        else:
            _take_bytes(pixels, start, planes)
        _change_planes(planes, ops[split:], numbers[split:], grey)
        _give(planes, threshold, result, start)


@compiled()
def _change_planes(
    planes: np.ndarray, ops: np.ndarray, numbers: np.ndarray, grey: bool
) -> None:  # pragma: no cover - compiled
    for position in range(ops.size):
        first = numbers[position, 0]
        second = numbers[position, 1]
        if ops[position] == HUE:
            _shift_hue(planes, first, second)
        elif ops[position] == SATURATION:
            _saturate(planes, first, second)
        elif ops[position] != NOTHING:
            _scale(planes, first, second)
    if grey:
        _turn_grey(planes, np.uint16(0), np.uint16(0))


@compiled()
def _take_bytes(
    image: np.ndarray, start: int, planes: np.ndarray
) -> None:  # pragma: no cover - compiled
    for channel in range(3):
        row = image[channel, start : start + _CHUNK]
        plane = planes[channel]
        for x in range(row.size):
            plane[x] = np.uint16(row[x]) * _FINE


@compiled()
def _take_levels(
    levels: np.ndarray, start: int, planes: np.ndarray
) -> None:  # pragma: no cover - compiled
    for channel in range(3):
        row = levels[channel, start : start + _CHUNK]
        plane = planes[channel]
        for x in range(row.size):
            plane[x] = row[x] // np.uint16(LEVEL // _FINE)


@compiled()
def _give(
    planes: np.ndarray, threshold: int, out: np.ndarray, start: int
) -> None:  # pragma: no cover - compiled
    for channel in range(3):
        row = out[channel, start : start + _CHUNK]
        plane = planes[channel]
        for x in range(row.size):
            row[x] = _finished(np.uint16(plane[x] * (LEVEL // _FINE)), threshold, row)


def _finished(level: np.uint16, threshold: int, out: np.ndarray) -> Any:
    """Invert a level at and above a threshold, and turn it into the unit of an array: the next
    gives compiled forms."""
    raise NotImplementedError


@overload(_finished, strict=False)  # lambdas have no annotations
def _finished_for(level: Any, threshold: Any, out: Any) -> Any:
    if out.dtype == types.uint16:
        return lambda level, threshold, out: _solarised(level, threshold)
    if out.dtype == types.uint8:
        return lambda level, threshold, out: np.uint8(
            np.uint16(_solarised(level, threshold) + np.uint16(LEVEL // 2)) >> np.uint16(7)
        )
    return lambda level, threshold, out: (
        np.float32(_solarised(level, threshold)) * np.float32(1 / (255 * LEVEL))
    )


@compiled()
def _solarised(level: np.uint16, threshold: int) -> np.uint16:  # pragma: no cover - compiled
    if threshold == NEVER:  # the same for all: a loop of its own
        return level
    return np.uint16(np.uint16(255 * LEVEL) - level) if level >= np.uint16(threshold) else level


@compiled()
def _sum_luma(planes: np.ndarray, size: int) -> float:  # pragma: no cover - compiled
    """Add up the first of (3, N) uint8 or uint16, in their unit."""
    luma = 0.0
    for channel in range(3):
        for start in range(0, size, _CHUNK):
            row = planes[channel, start : min(start + _CHUNK, size)]
            total = np.uint32(0)
            for x in range(row.size):
                total = np.uint32(total + row[x])
            luma += LUMA[channel] * total
    return luma


@compiled()
def _half_gaussian(sigma: float, reach: int) -> np.ndarray:  # pragma: no cover - compiled
    """Return the middle and one side of a blur's kernel, to its Gaussian's end, in 65536ths."""
    reach = min(reach, blur_reach(sigma))
    weights = np.empty(reach + 1, np.float64)
    whole = -1.0
    for place in range(reach + 1):
        weights[place] = math.exp(-(place**2) / (2 * sigma**2))
        whole += 2 * weights[place]
    return np.minimum(65536 / whole * weights + 0.5, 65535).astype(np.uint16)


@register_jitable
def blur_reach(sigma: float) -> int:
    """Return how many pixels to each side a blur weighs before its Gaussian has faded."""
    return max(1, math.ceil(_TAIL * sigma - 0.5))


@compiled()
def _blur(
    image: np.ndarray, changes: np.ndarray, index: int, taps: int, out: np.ndarray
) -> None:  # pragma: no cover - compiled
    """Make a blur for views of this side; small images are not blurred.

    Args:
        image: (3, H, W) uint16, contiguous: what `_change` made of the view, 128ths of a grey
            level.
        changes: (B,) of `CHANGES`.
        index: Which of them.
        taps: Most of the kernel; below 2 * H and 2 * W.
        out: (3, H, W) uint8, or float32 in [0, 1], overwritten; every weight may have lost a 128th
            of a grey level.
    """
    drawn = changes[index]
    grey = drawn.grey
    threshold = drawn.threshold
    weights = _half_gaussian(drawn.sigma, taps // 2)
    height = image.shape[1]
    width = image.shape[2]
    reach = weights.size - 1
    begin = -(-reach // LANES) * LANES
    line = np.empty(begin + width + reach, np.uint16)
    row = np.empty(width, np.uint16)
    # what is weighed alike
    down = np.empty((reach, 2), np.int64)
    across = np.empty((reach, 2), np.int64)
    for k in range(1, reach + 1):
        across[k - 1, 0], across[k - 1, 1] = -k, k
    for channel in range(1 if grey else 3):
        levels = image[channel].reshape(-1)
        for y in range(height):
            for k in range(1, reach + 1):
                down[k - 1, 0] = (abs(y - k) - y) * width
                down[k - 1, 1] = (height - 1 - abs(height - 1 - (y + k)) - y) * width
            _weigh_row(levels, y * width, down, weights, line, begin, width)
            for k in range(1, reach + 1):
                line[begin - k] = line[begin + k]
                line[begin + width - 1 + k] = line[begin + width - 1 - k]
            _weigh_row(line, begin, across, weights, row, 0, width)
            for same in range(channel, 3 if grey else channel + 1):
                target = out[same, y]
                for x in range(width):
                    target[x] = _finished(row[x], threshold, target)


@compiled(inline="always")
def _weigh_row(
    source: np.ndarray,
    start: int,
    pairs: np.ndarray,
    weights: np.ndarray,
    out: np.ndarray,
    into: int,
    width: int,
) -> None:  # pragma: no cover - compiled
    if width >= LANES:
        weigh_pairs(source, start, pairs, weights, out, into, width)  # type: ignore[call-arg]
    else:
        for x in range(width):
            total = source[start + x] * weights[0] >> 16
            for k in range(pairs.shape[0]):
                pair = source[start + x + pairs[k, 0]] + source[start + x + pairs[k, 1]]
                total += pair * weights[k + 1] >> 16
            out[into + x] = total
