"""Vector instructions for compiled kernels, where a compiler left to itself vectorises the wrong
loop.

`README.md` draws the registers and gives every intrinsic in NumPy.
"""

from collections.abc import Callable, Iterable
from typing import Any

from numba import types
from numba.extending import intrinsic

from augment.kernels.vectors import (
    LANES,
    PLACE,
    SHORT,
    WIDE,
    Call,
    Index,
    Lanes,
    contiguous,
    mask_of,
    pack,
    unpack,
)

SQUARE = 16  # rows and columns that are transposed at once
# for which code without an inner loop is made
MOST_ROWS = 6
MOST_PAIRS = 6

_HALF_A_LEVEL = SHORT(128)  # in 256ths of one: what sums start from that are rounded


def lanewise(change: Callable[..., Iterable[Lanes]]) -> Any:
    """Make a compiled kernel of what is done to the colours of a pixel.

    Args:
        change: Takes red, green and blue, and two numbers, spread over all lanes; returns red,
            green and blue.

    Returns:
        A function for compiled code: planes (3, N) uint16, contiguous, N a multiple of 32, changed
        in place, and the two numbers, uint16.
    """

    def emit(call: Call) -> None:
        size = call.length(0, 1)
        numbers = [Lanes.of(call.builder, value) for value in call.values[1:]]
        for x in call.steps(size, LANES):
            places = [size * channel + x for channel in range(3)]
            colours = [call.lanes(0, place) for place in places]
            for place, changed in zip(places, change(*colours, *numbers), strict=True):
                call.store(changed.vector, 0, place)

    @intrinsic
    def kernel(_: Any, planes: Any, first: Any, second: Any) -> Any:
        return contiguous(types.void(planes, types.uint16, types.uint16), emit)

    return kernel


@intrinsic
def transpose(
    _: Any,
    source: Any,
    start: Any,
    stride: Any,
    distance: Any,
    target: Any,
    into: Any,
    target_stride: Any,
    target_distance: Any,
) -> Any:
    """Turn 16 rows of 16 bytes into columns, in two places at once.

    Args:
        source: Contiguous uint8.
        start: Where the first row begins in it, bytes.
        stride: From one row to the next, bytes.
        distance: From the one place to the other, bytes.
        target: Contiguous uint8.
        into: Where the first column goes, bytes.
        target_stride: From one column to the next, bytes.
        target_distance: From the one place to the other, bytes.
    """

    def emit(call: Call) -> None:
        start, stride, distance = (call.index(n) for n in (1, 2, 3))
        into, target_stride, target_distance = (call.index(n) for n in (5, 6, 7))
        shuffle = call.builder.shuffle_vector
        vectors = []
        for row in range(SQUARE):
            parts = [
                call.bytes(0, start + stride * row + distance * place, SQUARE) for place in range(2)
            ]
            vectors.append(shuffle(*parts, mask_of(range(2 * SQUARE))))
        half = SQUARE // 2
        masks = [  # perfect shuffles of two rows, in each place by itself
            mask_of(
                [
                    place + part * half + n // 2 + n % 2 * 2 * SQUARE
                    for place in (0, SQUARE)
                    for n in range(SQUARE)
                ]
            )
            for part in range(2)
        ]
        for _stage in range(4):  # log2(SQUARE)
            vectors = [
                shuffle(vectors[row], vectors[row + half], mask)
                for row in range(half)
                for mask in masks
            ]
        for row, vector in enumerate(vectors):
            for place in range(2):
                part = shuffle(vector, vector, mask_of(range(place * SQUARE, (place + 1) * SQUARE)))
                call.store(part, 4, into + target_stride * row + target_distance * place)

    whole = types.int64
    return contiguous(types.void(source, whole, whole, whole, target, whole, whole, whole), emit)


@intrinsic
def weigh_rows(
    _: Any,
    image: Any,
    top: Any,
    column: Any,
    weights: Any,
    y: Any,
    num: Any,
    out: Any,
    row: Any,
    length: Any,
) -> Any:
    """Average `num` rows.

    Args:
        image: (H, N) uint8.
        top: The first row.
        column: The first byte of each row.
        weights: (K, S) uint16, K >= num, of which column `y` is taken; they add up to 65536.
        y: See `weights`.
        num: How many rows.
        out: (M, L) uint8.
        row: Row of the result, from its start on.
        length: How many bytes, at least 64.
    """

    def emit(call: Call) -> None:
        top, column, y, num, row, length = (call.index(n) for n in (1, 2, 4, 5, 7, 8))

        def weight_of(k: Index) -> Lanes:
            return call.spread(3, k * call.length(3, 1) + y)

        def whole_row(known: int | None) -> None:
            ready = call.ready(known, weight_of)
            for x in call.steps(length, WIDE):

                def weighed(k: Index, weight: Lanes, x: Index = x) -> list[Lanes]:
                    pixels = call.bytes(0, (top + k) * call.length(0, 1) + column + x, WIDE)
                    return [part * weight for part in unpack(call.builder, pixels)]

                sums = call.summed(
                    [Lanes.of(call.builder, _HALF_A_LEVEL)] * 2, num, ready, weight_of, weighed
                )
                mean = pack(call.builder, *(total >> 8 for total in sums))
                call.store(mean, 6, row * call.length(6, 1) + x)

        call.cases(num, MOST_ROWS, whole_row)

    whole = types.int64
    return contiguous(
        types.void(image, whole, whole, weights, whole, whole, out, whole, whole), emit
    )


@intrinsic
def weigh_lanes(_: Any, lanes: Any, first: Any, weights: Any, x: Any, num: Any, out: Any) -> Any:
    """Average `num` pixels of 32 rows at once into pixel `x` of the result, a channel after the
    other.

    Args:
        lanes: (3 * W, 32) uint8: a column holds one channel of a pixel in each row.
        first: The first pixel.
        weights: (K, S) uint16, K >= num, of which column `x` is taken; they add up to 65536.
        x: Pixel of the result.
        num: How many pixels.
        out: (S, 3, 32) uint8.
    """

    def emit(call: Call) -> None:
        first, x, num = (call.index(n) for n in (1, 3, 4))

        def weight_of(k: Index) -> Lanes:
            return call.spread(2, k * call.length(2, 1) + x)

        def weighed(k: Index, weight: Lanes) -> list[Lanes]:
            place = (first + k) * (3 * LANES)
            red_and_green = call.bytes(0, place, WIDE)
            blue = call.bytes(0, place + WIDE, LANES)
            parts = (*unpack(call.builder, red_and_green), Lanes.widened(call.builder, blue) << 8)
            return [part * weight for part in parts]

        sums = call.summed(
            [Lanes.of(call.builder, _HALF_A_LEVEL)] * 3, num, None, weight_of, weighed
        )
        *red_and_green, blue = (total >> 8 for total in sums)
        call.store(pack(call.builder, *red_and_green), 5, x * (3 * LANES))
        call.store(blue.narrowed(), 5, x * (3 * LANES) + WIDE)

    return contiguous(types.void(lanes, types.int64, weights, types.int64, types.int64, out), emit)


@intrinsic
def weigh_pairs(
    _: Any, source: Any, start: Any, pairs: Any, weights: Any, out: Any, into: Any, width: Any
) -> Any:
    """Weigh neighbouring numbers and those at given distances from them: a symmetric filter.

    Args:
        source: (N,) uint16, below 2^15.
        start: The first of the numbers.
        pairs: (K, 2) int64: distances of two that have the same weight.
        weights: (1 + K,) uint16: that of the number itself, then those of the pairs; in 65536ths.
        out: (M,) uint16.
        into: Where the first result goes.
        width: How many numbers, at least 32.
    """

    def emit(call: Call) -> None:
        start, into, width = (call.index(n) for n in (1, 5, 6))
        number = call.length(2, 0)

        def distances_and_weight(k: Index) -> tuple[list[Index], Lanes]:
            distances = [
                Index(call.builder, call.load(2, k * 2 + side, PLACE)) for side in range(2)
            ]
            return distances, call.spread(3, k + 1)

        def whole_row(known: int | None) -> None:
            middle = call.spread(3, call.constant(0))
            ready = call.ready(known, distances_and_weight)
            for x in call.steps(width, LANES):

                def weighed(_: Index, pair: tuple[list[Index], Lanes], x: Index = x) -> list[Lanes]:
                    distances, weight = pair
                    before, behind = (call.lanes(0, start + x + distance) for distance in distances)
                    return [(before + behind) * weight]

                sums = [call.lanes(0, start + x) * middle]
                (total,) = call.summed(sums, number, ready, distances_and_weight, weighed)
                call.store(total.vector, 4, into + x)

        call.cases(number, MOST_PAIRS, whole_row)

    whole = types.int64
    return contiguous(types.void(source, whole, pairs, weights, out, whole, whole), emit)
