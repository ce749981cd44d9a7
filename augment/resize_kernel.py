"""The antialiased resize of the decode task, compiled: 16 rows at a time in 16-bit integers."""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

MAX_SCALE = 4  # up to here eight bits a weight keep within two grey levels; see the tests
LANES = 16  # rows that a 256-bit register of uint16 holds
_HALF = np.uint16(128)  # rounds the division by 256
_BYTE = np.uint16(8)


@njit(nogil=True, cache=True)
def resize_box(
    image: np.ndarray, top: int, left: int, height: int, width: int, flip: bool, out: np.ndarray
) -> None:  # pragma: no cover - compiled
    """Resize a box by a triangle filter as wide as the scale, first down the columns, then along the rows.

    Args:
        image: (H, 3 * W) uint8, contiguous.
        top, left, height, width: The box, px; at most `MAX_SCALE` times as high and wide as the result.
        flip: Mirror left to right.
        out: (3, S, S) uint8, overwritten; S >= 16.
    """
    size = out.shape[1]
    first_row, row_weights, num_rows = _triangles(height, size)
    first_column, column_weights, num_columns = _triangles(width, size)
    if flip:
        first_column, num_columns = first_column[::-1].copy(), num_columns[::-1].copy()
        column_weights = column_weights[::-1].copy()
    length = 3 * width
    sums, rows = np.empty(length, np.uint16), np.empty((LANES, length), np.uint8)
    words = np.empty((length, 2), np.uint64)
    lanes = words.view(np.uint8)
    lane_sums = np.empty((size, LANES), np.uint16)
    result = np.empty((size, 2), np.uint64)
    for start in range(0, size, LANES):
        start = min(start, size - LANES)
        for row in range(LANES):
            y = start + row
            _weigh_rows(image, top + first_row[y], 3 * left, row_weights[y], num_rows[y], sums, rows[row])
        _weave(rows, words)
        for channel in range(3):
            _weigh_lanes(lanes, first_column * 3 + channel, column_weights, num_columns, lane_sums)
            _round_lanes(lane_sums.reshape(-1), result.view(np.uint8).reshape(-1))
            _unweave(result, out[channel, start : start + LANES])


@njit(nogil=True, cache=True)
def _triangles(length: int, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # pragma: no cover - compiled
    """For each of `size` pixels: its first input of `length`, the weights (sum 256) and how many those are."""
    scale = length / size
    support = max(scale, 1.0)
    most = int(2 * support) + 2
    first, num = np.empty(size, np.int64), np.empty(size, np.int64)
    weights = np.zeros((size, most), np.uint16)
    for i in range(size):
        centre = (i + 0.5) * scale
        first[i] = max(int(centre - support + 0.5), 0)
        num[i] = min(int(centre + support + 0.5), length) - first[i]
        total = 0.0
        for k in range(num[i]):
            total += max(0.0, 1 - abs(first[i] + k + 0.5 - centre) / support)
        # Rounded sums, not rounded weights: the errors cancel, and a flat colour stays what it is.
        upto, given = 0.0, 0
        for k in range(num[i]):
            upto += max(0.0, 1 - abs(first[i] + k + 0.5 - centre) / support)
            weights[i, k] = int(upto / total * 256 + 0.5) - given
            given += weights[i, k]
    return first, weights, num


@njit(nogil=True, cache=True)
def _weigh_rows(
    image: np.ndarray, top: int, start: int, weights: np.ndarray, num: int, sums: np.ndarray, out: np.ndarray
) -> None:  # pragma: no cover - compiled
    """Average `num` rows of bytes, from column `start` on."""
    row, weight = image[top, start : start + sums.size], weights[0]
    for x in range(sums.size):
        sums[x] = row[x] * weight + _HALF
    for k in range(1, num):
        row, weight = image[top + k, start : start + sums.size], weights[k]
        for x in range(sums.size):
            sums[x] += row[x] * weight
    for x in range(sums.size):
        out[x] = sums[x] >> _BYTE


@njit(nogil=True, cache=True)
def _weave(rows: np.ndarray, words: np.ndarray) -> None:  # pragma: no cover - compiled
    """Turn 16 rows into a column of 16 bytes each, eight in a word: a compiler vectorises this, not a transpose."""
    for half in range(2):
        for x in range(words.shape[0]):
            word = np.uint64(0)
            for lane in range(8):
                word |= np.uint64(rows[8 * half + lane, x]) << np.uint64(8 * lane)
            words[x, half] = word


@njit(nogil=True, cache=True)
def _unweave(words: np.ndarray, out: np.ndarray) -> None:  # pragma: no cover - compiled
    for half in range(2):
        for lane in range(8):
            row, shift = out[8 * half + lane], np.uint64(8 * lane)
            for x in range(words.shape[0]):
                row[x] = np.uint8(words[x, half] >> shift)


@njit(nogil=True, cache=True)
def _weigh_lanes(
    lanes: np.ndarray, first: np.ndarray, weights: np.ndarray, num: np.ndarray, sums: np.ndarray
) -> None:  # pragma: no cover - compiled
    """Average along 16 rows at once; neighbours are three bytes, so three columns, apart."""
    sums[:] = _HALF
    for x in range(sums.shape[0]):
        for k in range(num[x]):
            _add_lanes(lanes, first[x] + 3 * k, weights[x, k], sums, x)  # type: ignore[call-arg]


@njit(nogil=True, cache=True)
def _round_lanes(sums: np.ndarray, out: np.ndarray) -> None:  # pragma: no cover - compiled
    for x in range(sums.size):
        out[x] = sums[x] >> _BYTE


@intrinsic
def _add_lanes(_: Any, lanes: Any, column: Any, weight: Any, sums: Any, x: Any) -> Any:
    """Write `sums[x] += lanes[column] * weight` in vectors; left to itself LLVM would vectorise over the weights."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        index, short = ir.IntType(32), ir.IntType(16)
        shorts, lanes_type = ir.VectorType(short, LANES), ir.VectorType(ir.IntType(8), LANES)

        def vector_at(array: int, row: int, kind: Any) -> Any:
            data = context.make_array(signature.args[array])(context, builder, values[array]).data
            start = builder.mul(values[row], ir.Constant(values[row].type, LANES))
            return builder.bitcast(builder.gep(data, [start]), kind.as_pointer())

        pixels = builder.load(vector_at(0, 1, lanes_type), align=1)
        target = vector_at(3, 4, shorts)
        undefined = ir.Constant(shorts, ir.Undefined)
        first = builder.insert_element(undefined, values[2], ir.Constant(index, 0))
        spread = builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(index, LANES), [0] * LANES))
        product = builder.mul(builder.zext(pixels, shorts), spread)
        builder.store(builder.add(builder.load(target, align=2), product), target, align=2)
        return context.get_dummy_value()

    return types.void(lanes, column, weight, sums, x), codegen
