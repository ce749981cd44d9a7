"""The antialiased resize of the decode task, compiled: 32 rows at a time in 16-bit integers."""

import math

import numpy as np

from augment.kernels.compiled import compiled
from augment.kernels.lanes import SQUARE, transpose, weigh_lanes, weigh_rows
from augment.kernels.vectors import LANES, WIDE

# every weight may lose a 256th of a grey level, and there are twice as many of them; see the tests
MAX_SCALE = 16


def resize_box(
    image: np.ndarray, box: tuple[float, float, float, float], flip: bool, out: np.ndarray
) -> None:
    """Resize a box to a square by a triangle filter as wide as the scale.

    Args:
        image: (H, W, 3) uint8, contiguous.
        box: Top, left, height and width, px, perhaps through the middle of pixels; inside the
            image and at most `MAX_SCALE` times as high and wide as the result.
        flip: Mirror left to right.
        out: (3, S, S) uint8, contiguous, overwritten; S >= `LANES`.

    Raises:
        ValueError: an array or the box is none of these. The compiled code writes to memory
            unchecked.
    """
    top, left, height, width = box
    size = out.shape[-1]
    rows, columns = image.shape[:2]
    if out.shape != (3, size, size) or size < LANES or not _is_plain(out):
        raise ValueError(f"out must be contiguous uint8 (3, S, S), S >= {LANES}; got {out.shape}")
    if image.shape != (rows, columns, 3) or not _is_plain(image):
        raise ValueError(f"image must be contiguous uint8 (H, W, 3), got {image.shape}")
    if not (0 <= top <= rows - height and 0 <= left <= columns - width):
        raise ValueError(f"box {box} must lie inside the image of {rows} x {columns} px")
    if not (0 < height <= MAX_SCALE * size and 0 < width <= MAX_SCALE * size):
        raise ValueError(f"box {box} must be at most {MAX_SCALE} times the result's {size} px")
    _resize_box(image.reshape(rows, 3 * columns), top, left, height, width, flip, out)


def _is_plain(array: np.ndarray) -> bool:
    return array.dtype == np.uint8 and array.flags.c_contiguous


@compiled()
def _resize_box(
    image: np.ndarray,
    top: float,
    left: float,
    height: float,
    width: float,
    flip: bool,
    out: np.ndarray,
) -> None:  # pragma: no cover - compiled
    """Resize first down the columns, then along the rows; the image is (H, 3 * W)."""
    size = out.shape[1]
    first_row, row_weights, num_rows = _triangles(top, height, size)
    first_column, column_weights, num_columns = _triangles(left, width, size)
    start_column = int(left)
    first_column -= start_column
    if flip:
        first_column = first_column[::-1].copy()
        num_columns = num_columns[::-1].copy()
        column_weights = column_weights[:, ::-1].copy()
    length = 3 * (math.ceil(left + width) - start_column)
    padded = -(-length // SQUARE) * SQUARE
    rows = np.empty((LANES, padded), np.uint8)
    lanes = np.empty((padded, LANES), np.uint8)
    result = np.empty((size, 3, LANES), np.uint8)
    for start in range(0, size, LANES):
        start = min(start, size - LANES)
        for row in range(LANES):
            y = start + row
            _weigh_rows(
                image,
                first_row[y],
                3 * start_column,
                row_weights,
                y,
                num_rows[y],
                rows,
                row,
                length,
            )
        for x in range(0, padded, SQUARE):
            transpose(rows, x, padded, SQUARE * padded, lanes, x * LANES, LANES, SQUARE)  # type: ignore[call-arg]
        for x in range(size):
            weigh_lanes(lanes, first_column[x], column_weights, x, num_columns[x], result)  # type: ignore[call-arg]
        for channel in range(3):
            for x in range(0, size, SQUARE):
                x = min(x, size - SQUARE)
                taken = (3 * x + channel) * LANES
                into = (channel * size + start) * size + x
                transpose(result, taken, 3 * LANES, SQUARE, out, into, size, SQUARE * size)  # type: ignore[call-arg]


@compiled(error_model="numpy")
def _triangles(
    begin: float, length: float, size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # pragma: no cover - compiled
    """Return for each of `size` pixels its first input, its weights (sum 65536) and their number.

    The inputs are what lies in [begin, begin + length); a pixel that is cut weighs so much less.
    """
    scale = length / size
    end = begin + length
    support = max(scale, 1.0)
    slope = 1 / support
    lowest = int(begin)
    highest = math.ceil(end)
    most = int(2 * support) + 2
    first = np.empty(size, np.int64)
    num = np.empty(size, np.int64)
    weights = np.empty((most, size), np.uint16)
    sums = np.empty((most, size), np.float64)
    for i in range(size):
        centre = begin + (i + 0.5) * scale
        first[i] = max(int(centre - support + 0.5), lowest)
        num[i] = min(int(centre + support + 0.5), highest) - first[i]
    total = np.zeros(size, np.float64)
    before = np.zeros(size, np.int32)
    for k in range(most):
        for i in range(size):
            place = float(first[i] + k)
            centre = begin + (i + 0.5) * scale
            inside = max(0.0, min(place + 1.0, end) - max(place, begin))
            total[i] += inside * max(0.0, 1 - abs(place + 0.5 - centre) * slope)
            sums[k, i] = total[i]
    # Rounded sums, not rounded weights: the errors cancel, and a flat colour stays what it is.
    for k in range(most):
        for i in range(size):
            upto = np.int32(sums[k, i] * (65536 / total[i]) + 0.5)
            # a pixel that is copied stays what it is all the same
            weights[k, i] = min(upto - before[i], 65535)
            before[i] = upto
    return first, weights, num


@compiled()
def _weigh_rows(
    image: np.ndarray,
    top: int,
    start: int,
    weights: np.ndarray,
    y: int,
    num: int,
    out: np.ndarray,
    row: int,
    length: int,
) -> None:  # pragma: no cover - compiled
    """Average `num` rows of `length` bytes, from column `start` on, into a row of the result."""
    if length >= WIDE:
        weigh_rows(image, top, start, weights, y, num, out, row, length)  # type: ignore[call-arg]
    else:
        for x in range(length):
            total = 128
            for k in range(num):
                total += image[top + k, start + x] * weights[k, y] >> 8
            out[row, x] = total >> 8
