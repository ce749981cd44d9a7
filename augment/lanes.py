"""Vector instructions for compiled kernels, where a compiler left to itself vectorises the wrong loop.

Numba's cache goes by the files of the kernels: after a change here, remove `augment/__pycache__`.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

LANES = 32  # rows that a 512-bit register of 16-bit integers holds
SQUARE = 16  # rows and columns that are transposed at once
WIDE = 64  # 16-bit sums side by side, in two or more registers: one would wait for its own sum

_BYTE, _SHORT, _INDEX = ir.IntType(8), ir.IntType(16), ir.IntType(32)
_BYTES, _SHORTS = ir.VectorType(_BYTE, LANES), ir.VectorType(_SHORT, LANES)
_SQUARE_BYTES = ir.VectorType(_BYTE, SQUARE)
_WIDE_BYTES, _WIDE_SHORTS = ir.VectorType(_BYTE, WIDE), ir.VectorType(_SHORT, WIDE)


@intrinsic
def transpose(_: Any, source: Any, start: Any, stride: Any, target: Any, into: Any, target_stride: Any) -> Any:
    """Turn 16 rows of 16 bytes into columns.

    Args:
        source: Contiguous uint8.
        start: Where the first row begins in it, bytes.
        stride: From one row to the next, bytes.
        target: Contiguous uint8.
        into: Where the first column goes, bytes.
        target_stride: From one column to the next, bytes.
    """
    if source.layout != "C" or target.layout != "C":
        return None

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        def at(array: int, row: int) -> Any:
            offset = builder.add(values[array + 1], builder.mul(values[array + 2], values[array + 1].type(row)))
            return _pointer(context, builder, signature, values, array, offset, _SQUARE_BYTES)

        vectors = [builder.load(at(0, row), align=1) for row in range(SQUARE)]
        half = SQUARE // 2
        masks = [
            ir.Constant(
                ir.VectorType(_INDEX, SQUARE), [part * half + lane // 2 + lane % 2 * SQUARE for lane in range(SQUARE)]
            )
            for part in range(2)
        ]
        for _stage in range(4):  # log2(SQUARE) perfect shuffles
            vectors = [
                builder.shuffle_vector(vectors[row], vectors[row + half], mask) for row in range(half) for mask in masks
            ]
        for row, vector in enumerate(vectors):
            builder.store(vector, at(3, row), align=1)
        return context.get_dummy_value()

    return types.void(source, types.int64, types.int64, target, types.int64, types.int64), codegen


@intrinsic
def weigh_rows(
    _: Any, image: Any, top: Any, column: Any, weights: Any, y: Any, num: Any, out: Any, row: Any, into: Any
) -> Any:
    """Average 64 bytes of `num` rows.

    Args:
        image: (H, N) uint8.
        top: The first row.
        column: The first of the 64.
        weights: (S, K) uint16, K >= num, of which row `y` is taken; they add up to 65536.
        y: See `weights`.
        num: How many rows.
        out: (M, L) uint8.
        row: Row of the result.
        into: Where in it the first goes.
    """
    if any(array.layout != "C" for array in (image, weights, out)):
        return None

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        _, top, column, _, y, num, _, row, into = values

        def at(array: int, row: Any, column: Any, kind: Any) -> Any:
            shape = context.make_array(signature.args[array])(context, builder, values[array]).shape
            offset = builder.add(builder.mul(row, builder.extract_value(shape, 1)), column)
            return _pointer(context, builder, signature, values, array, offset, kind)

        total = cgutils.alloca_once(builder, _WIDE_SHORTS)
        builder.store(ir.Constant(_WIDE_SHORTS, [128] * WIDE), total)
        with cgutils.for_range(builder, num) as loop:
            weight = _spread(builder, builder.load(at(3, y, loop.index, _SHORT), align=2), _WIDE_SHORTS)
            taken = builder.load(at(0, builder.add(top, loop.index), column, _WIDE_BYTES), align=1)
            builder.store(builder.add(builder.load(total), _product(builder, taken, weight)), total)
        mean = builder.lshr(builder.load(total), ir.Constant(_WIDE_SHORTS, [8] * WIDE))
        builder.store(builder.trunc(mean, _WIDE_BYTES), at(6, row, into, _WIDE_BYTES), align=1)
        return context.get_dummy_value()

    whole = types.int64
    return types.void(image, whole, whole, weights, whole, whole, out, whole, whole), codegen


@intrinsic
def weigh_lanes(_: Any, lanes: Any, first: Any, weights: Any, x: Any, num: Any, out: Any) -> Any:
    """Average `num` pixels of 32 rows at once into pixel `x` of the result, a channel after the other.

    Args:
        lanes: (3 * W, 32) uint8: a column holds one channel of a pixel in each row.
        first: The first pixel.
        weights: (S, K) uint16, K >= num, of which row `x` is taken; they add up to 65536.
        x: Pixel of the result.
        num: How many pixels.
        out: (3, S, 32) uint8.
    """
    if any(array.layout != "C" for array in (lanes, weights, out)):
        return None

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        _, first, _, x, num, _ = values
        index = first.type
        shape = context.make_array(signature.args[2])(context, builder, values[2]).shape
        size, most = (builder.extract_value(shape, axis) for axis in range(2))
        half = ir.Constant(_SHORTS, [128] * LANES)
        sums = [cgutils.alloca_once_value(builder, half) for _channel in range(3)]
        for total in sums:
            builder.store(half, total)
        row = builder.mul(x, most)
        with cgutils.for_range(builder, num) as loop:
            weight = builder.load(
                _pointer(context, builder, signature, values, 2, builder.add(row, loop.index), _SHORT), align=2
            )
            spread = _spread(builder, weight, _SHORTS)
            column = builder.mul(builder.add(first, loop.index), index(3 * LANES))
            for channel, total in enumerate(sums):
                offset = builder.add(column, index(channel * LANES))
                pixels = builder.load(_pointer(context, builder, signature, values, 0, offset, _BYTES), align=1)
                builder.store(builder.add(builder.load(total), _product(builder, pixels, spread)), total)
        for channel, total in enumerate(sums):
            mean = builder.lshr(builder.load(total), ir.Constant(_SHORTS, [8] * LANES))
            place = builder.mul(builder.add(builder.mul(size, index(channel)), x), index(LANES))
            target = _pointer(context, builder, signature, values, 5, place, _BYTES)
            builder.store(builder.trunc(mean, _BYTES), target, align=1)
        return context.get_dummy_value()

    return types.void(lanes, types.int64, weights, types.int64, types.int64, out), codegen


@intrinsic
def weigh_pairs(_: Any, source: Any, start: Any, pairs: Any, weights: Any, out: Any, into: Any) -> Any:
    """Weigh 64 neighbouring numbers and those at given distances from them: a symmetric filter.

    Args:
        source: (N,) uint16, below 2^15.
        start: The first of the 64.
        pairs: (K, 2) int64: distances of two that have the same weight.
        weights: (1 + K,) uint16: that of the number itself, then those of the pairs; in 65536ths.
        out: (M,) uint16.
        into: Where the first result goes.
    """
    if any(array.layout != "C" for array in (source, pairs, weights, out)):
        return None

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        _, start, _, _, _, into = values
        index = start.type

        def load(array: int, offset: Any, kind: Any) -> Any:
            return builder.load(_pointer(context, builder, signature, values, array, offset, kind), align=2)

        def weighed(numbers: Any, position: Any) -> Any:
            return _upper(builder, numbers, _spread(builder, load(3, position, _SHORT), _WIDE_SHORTS))

        total = cgutils.alloca_once(builder, _WIDE_SHORTS)
        builder.store(weighed(load(0, start, _WIDE_SHORTS), index(0)), total)
        num = builder.extract_value(context.make_array(signature.args[2])(context, builder, values[2]).shape, 0)
        with cgutils.for_range(builder, num) as loop:
            pair = builder.mul(loop.index, index(2))
            before, behind = (
                load(0, builder.add(start, load(2, builder.add(pair, index(side)), index)), _WIDE_SHORTS)
                for side in range(2)
            )
            product = weighed(builder.add(before, behind), builder.add(loop.index, index(1)))
            builder.store(builder.add(builder.load(total), product), total)
        target = _pointer(context, builder, signature, values, 4, into, _WIDE_SHORTS)
        builder.store(builder.load(total), target, align=2)
        return context.get_dummy_value()

    return types.void(source, types.int64, pairs, weights, out, types.int64), codegen


def _pointer(context: Any, builder: Any, signature: Any, values: Any, array: int, offset: Any, kind: Any) -> Any:
    """Where `kind` lies in an array among the arguments, `offset` elements of the array from its start."""
    data = context.make_array(signature.args[array])(context, builder, values[array]).data
    return builder.bitcast(builder.gep(data, [offset]), kind.as_pointer())


def _product(builder: Any, pixels: Any, weights: Any) -> Any:
    """Bytes times weights in 65536ths, in 256ths of a grey level."""
    eight = ir.Constant(weights.type, [8] * weights.type.count)
    return _upper(builder, builder.shl(builder.zext(pixels, weights.type), eight), weights)


def _upper(builder: Any, first: Any, second: Any) -> Any:
    """The upper halves of products of 16-bit integers."""
    wide = ir.VectorType(_INDEX, first.type.count)
    product = builder.mul(builder.zext(first, wide), builder.zext(second, wide))
    return builder.trunc(builder.lshr(product, ir.Constant(wide, [16] * wide.count)), first.type)


def _spread(builder: Any, value: Any, kind: Any) -> Any:
    """A vector of one number over and over."""
    undefined = ir.Constant(kind, ir.Undefined)
    single = builder.insert_element(undefined, value, ir.Constant(_INDEX, 0))
    return builder.shuffle_vector(single, undefined, ir.Constant(ir.VectorType(_INDEX, kind.count), [0] * kind.count))
