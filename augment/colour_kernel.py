"""The colour changes of one view on the CPU, compiled: planar float32, in pieces that stay in the first-level cache.

The formulas are those of `augment.photometric`, with each image's ops in its own order.
"""

import numpy as np
from numba import njit

from augment.lanes import WIDE, weigh_pairs

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)  # augment.sample.JITTER_OPS
NOTHING = -1  # in the place of one that the recipe leaves out
_RED, _GREEN, _BLUE = np.float32(0.299), np.float32(0.587), np.float32(0.114)
_ZERO, _ONE, _HALF, _WHITE = np.float32(0), np.float32(1), np.float32(0.5), np.float32(255)
_LEVELS = np.float32(128 * 255)
_TWO, _THREE, _FOUR, _TURN, _SIXTH = np.float32(2), np.float32(3), np.float32(4), np.float32(6), np.float32(1 / 6)
_CHUNK = 1024  # pixels at a time: their three channels take 12 kB of the first-level cache
_FAST = {"contract", "nnan", "ninf", "nsz", "arcp", "reassoc"}  # sums in any order, products and sums fused


@njit(nogil=True, cache=True, fastmath=_FAST, error_model="numpy")
def jitter(
    image: np.ndarray, ops: np.ndarray, amounts: np.ndarray, grey: bool, out: np.ndarray
) -> None:  # pragma: no cover - compiled
    """Apply changes in order, then turn grey if asked.

    Args:
        image: (3, H, W) uint8.
        ops: (N,) int64 in the order of application, the contrast at most once.
        amounts: (N,) float32: factors, and turns of the hue.
        grey: Remove the colour.
        out: (3, H, W) float32 in [0, 1], overwritten.
    """
    split = 0  # the contrast needs the mean of all that comes before it, so the pixels are gone through twice
    for position in range(ops.size):
        if ops[position] == CONTRAST:
            split = position
    has_contrast = ops.size > 0 and ops[split] == CONTRAST
    pixels, result = image.reshape(3, -1), out.reshape(3, -1)
    total = 0.0
    for start in range(0, pixels.shape[1], _CHUNK):
        red, green, blue = _chunk(result, start)
        _to_unit(pixels[0, start : start + _CHUNK], red)
        _to_unit(pixels[1, start : start + _CHUNK], green)
        _to_unit(pixels[2, start : start + _CHUNK], blue)
        if has_contrast:
            _change_row(red, green, blue, ops[:split], amounts[:split], _ZERO)
            total += _sum_luma(red, green, blue)
        else:
            _change_row(red, green, blue, ops, amounts, _ZERO)
            if grey:
                _turn_grey(red, green, blue)
    if not has_contrast:
        return
    mean = np.float32(total / pixels.shape[1])
    for start in range(0, pixels.shape[1], _CHUNK):
        red, green, blue = _chunk(result, start)
        _change_row(red, green, blue, ops[split:], amounts[split:], mean)
        if grey:
            _turn_grey(red, green, blue)


@njit(nogil=True, cache=True)
def _chunk(planes: np.ndarray, start: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # pragma: no cover - compiled
    stop = start + _CHUNK
    return planes[0, start:stop], planes[1, start:stop], planes[2, start:stop]


@njit(nogil=True, cache=True, fastmath=_FAST, error_model="numpy")
def _change_row(
    red: np.ndarray, green: np.ndarray, blue: np.ndarray, ops: np.ndarray, amounts: np.ndarray, mean: np.float32
) -> None:  # pragma: no cover - compiled
    for position in range(ops.size):
        factor = amounts[position]
        rest = _ONE - factor
        if ops[position] == HUE:
            _shift_hue(red, green, blue, _TURN * factor)
        elif ops[position] == SATURATION:
            _saturate(red, green, blue, factor)
        elif ops[position] != NOTHING:
            base = rest * mean if ops[position] == CONTRAST else _ZERO
            _scale(red, factor, base)
            _scale(green, factor, base)
            _scale(blue, factor, base)


@njit(nogil=True, cache=True, fastmath=_FAST, error_model="numpy")
def _scale(row: np.ndarray, factor: np.float32, base: np.float32) -> None:  # pragma: no cover - compiled
    if factor <= _ONE:  # a mean of two values in [0, 1] needs no clipping
        for x in range(row.size):
            row[x] = factor * row[x] + base
    else:
        for x in range(row.size):
            row[x] = min(max(factor * row[x] + base, _ZERO), _ONE)


@njit(nogil=True, cache=True, fastmath=_FAST, error_model="numpy")
def _saturate(
    red: np.ndarray, green: np.ndarray, blue: np.ndarray, factor: np.float32
) -> None:  # pragma: no cover - compiled
    rest = _ONE - factor
    if factor <= _ONE:
        for x in range(red.size):
            base = rest * (_RED * red[x] + _GREEN * green[x] + _BLUE * blue[x])
            red[x], green[x], blue[x] = factor * red[x] + base, factor * green[x] + base, factor * blue[x] + base
    else:
        for x in range(red.size):
            base = rest * (_RED * red[x] + _GREEN * green[x] + _BLUE * blue[x])
            red[x] = min(max(factor * red[x] + base, _ZERO), _ONE)
            green[x] = min(max(factor * green[x] + base, _ZERO), _ONE)
            blue[x] = min(max(factor * blue[x] + base, _ZERO), _ONE)


@njit(nogil=True, cache=True, fastmath=_FAST, error_model="numpy")
def _shift_hue(
    red: np.ndarray, green: np.ndarray, blue: np.ndarray, sextants: np.float32
) -> None:  # pragma: no cover - compiled
    for x in range(red.size):
        r, g, b = red[x], green[x], blue[x]
        value, low = max(max(r, g), b), min(min(r, g), b)
        chroma = value - low
        inverse = _ONE / (chroma if chroma > _ZERO else _ONE)
        beyond_green = _TWO + (b - r) * inverse if g == value else _FOUR + (r - g) * inverse
        place = sextants + ((g - b) * inverse if r == value else beyond_green)
        place -= _TURN * np.floor(place * _SIXTH)  # on the circle of six, red at 0
        red[x] = low + chroma * min(max(abs(place - _THREE) - _ONE, _ZERO), _ONE)
        green[x] = low + chroma * min(max(_TWO - abs(place - _TWO), _ZERO), _ONE)
        blue[x] = low + chroma * min(max(_TWO - abs(place - _FOUR), _ZERO), _ONE)


@njit(nogil=True, cache=True, fastmath=_FAST, error_model="numpy")
def _sum_luma(red: np.ndarray, green: np.ndarray, blue: np.ndarray) -> float:  # pragma: no cover - compiled
    total = np.float32(0)
    for x in range(red.size):
        total += _RED * red[x] + _GREEN * green[x] + _BLUE * blue[x]
    return float(total)


@njit(nogil=True, cache=True, fastmath=_FAST, error_model="numpy")
def _turn_grey(red: np.ndarray, green: np.ndarray, blue: np.ndarray) -> None:  # pragma: no cover - compiled
    for x in range(red.size):
        luma = _RED * red[x] + _GREEN * green[x] + _BLUE * blue[x]
        red[x] = luma
        green[x] = luma
        blue[x] = luma


@njit(nogil=True, cache=True, fastmath=_FAST, error_model="numpy")
def blur(image: np.ndarray, weights: np.ndarray, out: np.ndarray) -> None:  # pragma: no cover - compiled
    """Blur by a symmetric kernel along both axes, mirrored at the edges without repeating them.

    Args:
        image: (3, H, W) float32 in [0, 1], contiguous.
        weights: (1 + N,) uint16: the middle and one side, outwards, in 65536ths; longer than neither H nor W.
        out: (3, H, W) uint16, overwritten: 128ths of a grey level, of which every weight may have lost one.
    """
    height, width, reach = image.shape[1], image.shape[2], weights.size - 1
    levels, line = np.empty(height * width, np.uint16), np.empty(width + 2 * reach, np.uint16)
    pairs = np.empty((reach, 2), np.int64)  # what is weighed alike: places before and behind
    for channel in range(3):
        plane, target = image[channel].reshape(-1), out[channel].reshape(-1)
        for x in range(levels.size):
            levels[x] = np.uint16(np.int32(plane[x] * _LEVELS + _HALF))
        for y in range(height):
            for k in range(1, reach + 1):
                pairs[k - 1, 0] = (abs(y - k) - y) * width
                pairs[k - 1, 1] = (height - 1 - abs(height - 1 - (y + k)) - y) * width
            _weigh_row(levels, y * width, pairs, weights, line, reach, width)
            for k in range(1, reach + 1):
                line[reach - k] = line[reach + k]
                line[reach + width - 1 + k] = line[reach + width - 1 - k]
                pairs[k - 1, 0], pairs[k - 1, 1] = -k, k
            _weigh_row(line, reach, pairs, weights, target, y * width, width)


@njit(nogil=True, cache=True, fastmath=_FAST, error_model="numpy")
def _weigh_row(
    source: np.ndarray, start: int, pairs: np.ndarray, weights: np.ndarray, out: np.ndarray, into: int, width: int
) -> None:  # pragma: no cover - compiled
    if width >= WIDE:
        for x in range(0, width, WIDE):
            x = min(x, width - WIDE)
            weigh_pairs(source, start + x, pairs, weights, out, into + x)  # type: ignore[call-arg]
    else:
        for x in range(width):
            total = source[start + x] * weights[0] >> 16
            for k in range(pairs.shape[0]):
                pair = source[start + x + pairs[k, 0]] + source[start + x + pairs[k, 1]]
                total += pair * weights[k + 1] >> 16
            out[into + x] = total


@njit(nogil=True, cache=True, fastmath=_FAST, error_model="numpy")
def levels_to_unit(levels: np.ndarray, out: np.ndarray) -> None:  # pragma: no cover - compiled
    """What `blur` gave, in [0, 1]; levels (N,) uint16, out (N,) float32."""
    for x in range(levels.size):
        out[x] = np.float32(levels[x]) * np.float32(1 / (128 * 255))


@njit(nogil=True, cache=True, fastmath=_FAST, error_model="numpy")
def levels_to_bytes(levels: np.ndarray, out: np.ndarray) -> None:  # pragma: no cover - compiled
    """What `blur` gave, rounded to grey levels; levels (N,) uint16, out (N,) uint8."""
    for x in range(levels.size):
        out[x] = np.uint8(np.uint16(levels[x] + np.uint16(64)) >> np.uint16(7))


@njit(nogil=True, cache=True, fastmath=_FAST, error_model="numpy")
def solarise(image: np.ndarray, threshold: np.float32) -> None:  # pragma: no cover - compiled
    """Invert values at and above a threshold, in place; image (N,) float32."""
    for x in range(image.size):
        image[x] = _ONE - image[x] if image[x] >= threshold else image[x]


@njit(nogil=True, cache=True, fastmath=_FAST, error_model="numpy")
def to_bytes(image: np.ndarray, out: np.ndarray) -> None:  # pragma: no cover - compiled
    """Round [0, 1] to grey levels; image (N,) float32, out (N,) uint8."""
    for x in range(image.size):
        out[x] = np.uint8(np.int32(image[x] * _WHITE + _HALF))


@njit(nogil=True, cache=True, fastmath=_FAST, error_model="numpy")
def _to_unit(row: np.ndarray, out: np.ndarray) -> None:  # pragma: no cover - compiled
    for x in range(row.size):
        out[x] = np.float32(row[x]) * np.float32(1 / 255)
