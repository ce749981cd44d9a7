"""Vector instructions for compiled kernels, where a compiler left to itself vectorises the wrong loop.

Numba's cache goes by the files of the kernels: after a change here, remove `augment/__pycache__`.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Union

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

LANES = 32  # rows that a 512-bit register of 16-bit integers holds
SQUARE = 16  # rows and columns that are transposed at once
MOST_ROWS, MOST_PAIRS = 6, 6  # for which code without an inner loop is made
WIDE = 64  # 16-bit sums side by side, in two or more registers: one would wait for its own sum

_BYTE, _SHORT, _INDEX = ir.IntType(8), ir.IntType(16), ir.IntType(32)
_BYTES, _SHORTS = ir.VectorType(_BYTE, LANES), ir.VectorType(_SHORT, LANES)
_SQUARE_BYTES = ir.VectorType(_BYTE, SQUARE)
_WIDE_BYTES, _WIDE_SHORTS = ir.VectorType(_BYTE, WIDE), ir.VectorType(_SHORT, WIDE)
# The bytes of a vector that go into the one and the other half: eight of every sixteen, as registers are cut into.
_HALVES = [[n for n in range(WIDE) if n % 16 // 8 == half] for half in range(2)]


class Lanes:
    """16-bit integers side by side, while a kernel is compiled: what is done to them becomes vector instructions."""

    def __init__(self, builder: Any, vector: Any) -> None:
        self.builder, self.vector = builder, vector

    def __add__(self, other: "Operand") -> "Lanes":
        return Lanes(self.builder, self.builder.add(self.vector, self._vector_of(other)))

    def __sub__(self, other: "Operand") -> "Lanes":
        return Lanes(self.builder, self.builder.sub(self.vector, self._vector_of(other)))

    def __lshift__(self, bits: int) -> "Lanes":
        return Lanes(self.builder, self.builder.shl(self.vector, self._vector_of(bits)))

    def __rshift__(self, bits: int) -> "Lanes":
        return Lanes(self.builder, self.builder.lshr(self.vector, self._vector_of(bits)))

    def __mul__(self, other: "Operand") -> "Lanes":
        """The upper halves of the products of unsigned integers: times 65536ths."""
        return Lanes(self.builder, _upper(self.builder, self.vector, self._vector_of(other)))

    def at_most(self, other: "Operand") -> "Lanes":
        """The smaller one of signed integers."""
        return self.where(self.builder.icmp_signed("<", self.vector, self._vector_of(other)), self, other)

    def at_least(self, other: "Operand") -> "Lanes":
        """The larger one of signed integers."""
        return self.where(self.builder.icmp_signed(">", self.vector, self._vector_of(other)), self, other)

    def wrapped(self, other: "Lanes") -> "Lanes":
        """The smaller one of unsigned integers: of two that lie a turn apart, the one that is not below 0."""
        return self.where(self.builder.icmp_unsigned("<", self.vector, other.vector), self, other)

    def distance(self, other: "Lanes") -> "Lanes":
        """How far apart signed integers are."""
        difference = self - other
        return difference.at_least(other - self)

    def equals(self, other: "Lanes") -> Any:
        """A mask for `where`."""
        return self.builder.icmp_signed("==", self.vector, other.vector)

    def where(self, mask: Any, chosen: "Operand", otherwise: "Operand") -> "Lanes":
        """One of two, lane by lane."""
        return Lanes(self.builder, self.builder.select(mask, self._vector_of(chosen), self._vector_of(otherwise)))

    def _vector_of(self, operand: "Operand") -> Any:
        if isinstance(operand, Lanes):
            return operand.vector
        return ir.Constant(self.vector.type, [operand] * self.vector.type.count)


Operand = Union[Lanes, int]


def lanewise(change: Callable[..., tuple[Lanes, Lanes, Lanes]]) -> Any:
    """Make a compiled kernel of what is done to the colours of a pixel.

    Args:
        change: Takes red, green and blue, and two numbers, spread over all lanes; returns red, green and blue.

    Returns:
        A function for compiled code: planes (3, N) uint16, contiguous, N a multiple of 32, changed in place, and the two
        numbers, uint16.
    """

    @intrinsic
    def kernel(_: Any, planes: Any, first: Any, second: Any) -> Any:
        if planes.layout != "C":
            return None

        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            shape = context.make_array(signature.args[0])(context, builder, values[0]).shape
            size = builder.extract_value(shape, 1)
            index = size.type
            numbers = [Lanes(builder, _spread(builder, value, _SHORTS)) for value in values[1:]]
            with cgutils.for_range_slice(builder, index(0), size, index(LANES), index) as (start, _count):
                places = [
                    _pointer(context, builder, signature, values, 0, builder.add(builder.mul(size, index(c)), start), _SHORTS)
                    for c in range(3)
                ]
                colours = [Lanes(builder, builder.load(place, align=2)) for place in places]
                for place, changed in zip(places, change(*colours, *numbers), strict=True):
                    builder.store(changed.vector, place, align=2)
            return context.get_dummy_value()

        return types.void(planes, types.uint16, types.uint16), codegen

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
    if source.layout != "C" or target.layout != "C":
        return None

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        def at(array: int, place: int, row: int) -> Any:
            start, stride, distance = values[array + 1 : array + 4]
            offset = builder.add(start, builder.mul(stride, stride.type(row)))
            offset = builder.add(offset, builder.mul(distance, distance.type(place)))
            return _pointer(context, builder, signature, values, array, offset, _SQUARE_BYTES)

        halves = _mask(range(SQUARE)), _mask(range(SQUARE, 2 * SQUARE))
        whole = _mask(range(2 * SQUARE))
        vectors = []
        for row in range(SQUARE):
            pair = [builder.load(at(0, place, row), align=1) for place in range(2)]
            vectors.append(builder.shuffle_vector(*pair, whole))
        half = SQUARE // 2
        # Perfect shuffles of two rows, in each place by itself.
        masks = [
            _mask([place + part * half + n // 2 + n % 2 * 2 * SQUARE for place in (0, SQUARE) for n in range(SQUARE)])
            for part in range(2)
        ]
        for _stage in range(4):  # log2(SQUARE)
            vectors = [
                builder.shuffle_vector(vectors[row], vectors[row + half], mask) for row in range(half) for mask in masks
            ]
        for row, vector in enumerate(vectors):
            for place, part in enumerate(halves):
                builder.store(builder.shuffle_vector(vector, vector, part), at(4, place, row), align=1)
        return context.get_dummy_value()

    place = types.int64
    return types.void(source, place, place, place, target, place, place, place), codegen


@intrinsic
def weigh_rows(
    _: Any, image: Any, top: Any, column: Any, weights: Any, y: Any, num: Any, out: Any, row: Any, length: Any
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
    if any(array.layout != "C" for array in (image, weights, out)):
        return None

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        _, top, column, _, y, num, _, row, length = values
        index = top.type

        def at(array: int, row: Any, column: Any, kind: Any) -> Any:
            shape = context.make_array(signature.args[array])(context, builder, values[array]).shape
            offset = builder.add(builder.mul(row, builder.extract_value(shape, 1)), column)
            return _pointer(context, builder, signature, values, array, offset, kind)

        def weight_of(k: Any) -> Lanes:
            return Lanes(builder, _spread(builder, builder.load(at(3, k, y, _SHORT), align=2), _SHORTS))

        def weighed(k: Any, x: Any, weight: Lanes) -> list[Lanes]:
            place = at(0, builder.add(top, k), builder.add(column, x), _WIDE_BYTES)
            return [part * weight for part in _unpack(builder, builder.load(place, align=1))]

        def emit(unrolled: int | None) -> None:
            known = [(index(k), weight_of(index(k))) for k in range(unrolled or 0)]
            for x in _steps(builder, length, WIDE):
                sums = [Lanes(builder, ir.Constant(_SHORTS, [128] * LANES)) for _half in range(2)]
                for k, weight in known:
                    sums = [total + part for total, part in zip(sums, weighed(k, x, weight), strict=True)]
                if unrolled is None:
                    kept = [cgutils.alloca_once(builder, _SHORTS) for _half in range(2)]
                    for total, place in zip(sums, kept, strict=True):
                        builder.store(total.vector, place)
                    with cgutils.for_range(builder, num) as loop:
                        for part, place in zip(weighed(loop.index, x, weight_of(loop.index)), kept, strict=True):
                            builder.store((Lanes(builder, builder.load(place)) + part).vector, place)
                    sums = [Lanes(builder, builder.load(place)) for place in kept]
                builder.store(_pack(builder, *(total >> 8 for total in sums)), at(6, row, x, _WIDE_BYTES), align=1)

        _emit_cases(builder, num, MOST_ROWS, emit)
        return context.get_dummy_value()

    whole = types.int64
    return types.void(image, whole, whole, weights, whole, whole, out, whole, whole), codegen


@intrinsic
def weigh_lanes(_: Any, lanes: Any, first: Any, weights: Any, x: Any, num: Any, out: Any) -> Any:
    """Average `num` pixels of 32 rows at once into pixel `x` of the result, a channel after the other.

    Args:
        lanes: (3 * W, 32) uint8: a column holds one channel of a pixel in each row.
        first: The first pixel.
        weights: (K, S) uint16, K >= num, of which column `x` is taken; they add up to 65536.
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
        size = builder.extract_value(shape, 1)
        half = ir.Constant(_SHORTS, [128] * LANES)
        sums = [cgutils.alloca_once_value(builder, half) for _channel in range(3)]
        for total in sums:
            builder.store(half, total)
        with cgutils.for_range(builder, num) as loop:
            place = builder.add(builder.mul(loop.index, size), x)
            weight = builder.load(_pointer(context, builder, signature, values, 2, place, _SHORT), align=2)
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
def weigh_pairs(_: Any, source: Any, start: Any, pairs: Any, weights: Any, out: Any, into: Any, width: Any) -> Any:
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
    if any(array.layout != "C" for array in (source, pairs, weights, out)):
        return None

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        _, start, _, _, _, into, width = values
        index = start.type

        def load(array: int, offset: Any, kind: Any) -> Any:
            return builder.load(_pointer(context, builder, signature, values, array, offset, kind), align=2)

        def weight_at(place: Any) -> Lanes:
            return Lanes(builder, _spread(builder, load(3, place, _SHORT), _SHORTS))

        def distances_at(place: Any) -> list[Any]:
            return [load(2, builder.add(builder.mul(place, index(2)), index(side)), index) for side in range(2)]

        def weighed(here: Any, distances: list[Any], weight: Lanes) -> Lanes:
            before, behind = (Lanes(builder, load(0, builder.add(here, each), _SHORTS)) for each in distances)
            return (before + behind) * weight

        reach = builder.extract_value(context.make_array(signature.args[2])(context, builder, values[2]).shape, 0)

        def emit(unrolled: int | None) -> None:
            middle = weight_at(index(0))
            known = [(distances_at(index(k)), weight_at(index(k + 1))) for k in range(unrolled or 0)]
            for x in _steps(builder, width, LANES):
                here = builder.add(start, x)
                total = Lanes(builder, load(0, here, _SHORTS)) * middle
                for distances, weight in known:
                    total += weighed(here, distances, weight)
                if unrolled is None:
                    kept = cgutils.alloca_once(builder, _SHORTS)
                    builder.store(total.vector, kept)
                    with cgutils.for_range(builder, reach) as loop:
                        weight = weight_at(builder.add(loop.index, index(1)))
                        more = weighed(here, distances_at(loop.index), weight)
                        builder.store((Lanes(builder, builder.load(kept)) + more).vector, kept)
                    total = Lanes(builder, builder.load(kept))
                target = _pointer(context, builder, signature, values, 4, builder.add(into, x), _SHORTS)
                builder.store(total.vector, target, align=2)

        _emit_cases(builder, reach, MOST_PAIRS, emit)
        return context.get_dummy_value()

    whole = types.int64
    return types.void(source, whole, pairs, weights, out, whole, whole), codegen


def _emit_cases(builder: Any, number: Any, most: int, emit: Callable[[int | None], None]) -> None:
    """Emit code for a number of 1 to `most`, with its weights in registers, and for any other."""
    cases = {known: builder.append_basic_block() for known in (*range(1, most + 1), None)}
    end = builder.append_basic_block()
    switch = builder.switch(number, cases[None])
    for known, block in cases.items():
        if known is not None:
            switch.add_case(number.type(known), block)
        builder.position_at_end(block)
        emit(known)
        builder.branch(end)
    builder.position_at_end(end)


def _steps(builder: Any, length: Any, step: int) -> Iterator[Any]:
    """Emit a loop over vectors of a row: their places, of which the last overlaps the one before it."""
    index = length.type
    last = builder.sub(length, index(step))
    with cgutils.for_range_slice(builder, index(0), length, index(step), index) as (x, _count):
        yield builder.select(builder.icmp_signed("<", x, last), x, last)


def _unpack(builder: Any, pixels: Any) -> list[Lanes]:
    """64 bytes as 32 and 32 numbers, times 256, in the order that `_pack` undoes: an instruction each."""
    zeros = ir.Constant(_WIDE_BYTES, [0] * WIDE)
    return [
        Lanes(builder, builder.bitcast(builder.shuffle_vector(zeros, pixels, _mask([n for place in half for n in (place, WIDE + place)])), _SHORTS))
        for half in _HALVES
    ]


def _pack(builder: Any, first: Lanes, second: Lanes) -> Any:
    """The lower bytes of what was unpacked."""
    places = {place: 2 * n + WIDE * half for half, of_half in enumerate(_HALVES) for n, place in enumerate(of_half)}
    parts = [builder.bitcast(part.vector, _WIDE_BYTES) for part in (first, second)]
    return builder.shuffle_vector(*parts, _mask([places[place] for place in range(WIDE)]))


def _mask(places: Sequence[int]) -> Any:
    return ir.Constant(ir.VectorType(_INDEX, len(places)), list(places))


def _pointer(context: Any, builder: Any, signature: Any, values: Any, array: int, offset: Any, kind: Any) -> Any:
    """Where `kind` lies in an array among the arguments, `offset` elements of the array from its start."""
    data = context.make_array(signature.args[array])(context, builder, values[array]).data
    return builder.bitcast(builder.gep(data, [offset]), kind.as_pointer())


def _product(builder: Any, pixels: Any, weights: Any) -> Any:
    """Bytes times weights in 65536ths, in 256ths of a grey level."""
    eight = ir.Constant(weights.type, [8] * weights.type.count)
    return _upper(builder, builder.shl(builder.zext(pixels, weights.type), eight), weights)


def _upper(builder: Any, first: Any, second: Any) -> Any:
    """The upper halves of products of unsigned 16-bit integers."""
    # Written out as widening, product, shift and narrowing it is recognised only where no widening left its loop.
    kind = first.type
    name = f"llvm.umul.fix.v{kind.count}i16"
    multiply = cgutils.get_or_insert_function(builder.module, ir.FunctionType(kind, [kind, kind, _INDEX]), name)
    return builder.call(multiply, [first, second, _INDEX(16)])


def _spread(builder: Any, value: Any, kind: Any) -> Any:
    """A vector of one number over and over."""
    undefined = ir.Constant(kind, ir.Undefined)
    single = builder.insert_element(undefined, value, ir.Constant(_INDEX, 0))
    return builder.shuffle_vector(single, undefined, ir.Constant(ir.VectorType(_INDEX, kind.count), [0] * kind.count))
