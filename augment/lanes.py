"""Vector instructions for compiled kernels, where a compiler left to itself vectorises the wrong loop.

Numba's cache goes by the files of the kernels: after a change here, remove `augment/__pycache__`.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

LANES = 32  # rows that a 512-bit register of 16-bit integers holds
SQUARE = 16  # rows and columns that are transposed at once
WIDE = 64  # bytes of a register
MOST_ROWS, MOST_PAIRS = 6, 6  # for which code without an inner loop is made

_BYTE, _SHORT, _INDEX, _PLACE = (ir.IntType(bits) for bits in (8, 16, 32, 64))
_BYTES, _SHORTS = ir.VectorType(_BYTE, LANES), ir.VectorType(_SHORT, LANES)
_SQUARE_BYTES, _WIDE_BYTES = ir.VectorType(_BYTE, SQUARE), ir.VectorType(_BYTE, WIDE)
# Which bytes of a register go into the one and the other half of them: eight of every sixteen, as registers are cut.
_HALVES = [[n for n in range(WIDE) if n % 16 // 8 == half] for half in range(2)]


class Lanes:
    """32 integers of 16 bits, while a kernel is compiled: what is done to them becomes vector instructions."""

    def __init__(self, builder: Any, vector: Any) -> None:
        self.builder, self.vector = builder, vector

    @classmethod
    def of(cls, builder: Any, number: Any) -> "Lanes":
        """One number over and over."""
        undefined = ir.Constant(_SHORTS, ir.Undefined)
        single = builder.insert_element(undefined, number, _INDEX(0))
        return cls(builder, builder.shuffle_vector(single, undefined, _mask([0] * LANES)))

    def __add__(self, other: "Operand") -> "Lanes":
        return Lanes(self.builder, self.builder.add(self.vector, _vector_of(other)))

    def __sub__(self, other: "Operand") -> "Lanes":
        return Lanes(self.builder, self.builder.sub(self.vector, _vector_of(other)))

    def __lshift__(self, bits: int) -> "Lanes":
        return Lanes(self.builder, self.builder.shl(self.vector, _vector_of(bits)))

    def __rshift__(self, bits: int) -> "Lanes":
        return Lanes(self.builder, self.builder.lshr(self.vector, _vector_of(bits)))

    def __mul__(self, other: "Operand") -> "Lanes":
        """The upper halves of the products of unsigned integers: times 65536ths."""
        # Written out as widening, product, shift and narrowing it is recognised only where no widening left its loop.
        kind = ir.FunctionType(_SHORTS, [_SHORTS, _SHORTS, _INDEX])
        multiply = cgutils.get_or_insert_function(self.builder.module, kind, f"llvm.umul.fix.v{LANES}i16")
        return Lanes(self.builder, self.builder.call(multiply, [self.vector, _vector_of(other), _INDEX(16)]))

    def __abs__(self) -> "Lanes":
        negative = self.builder.icmp_signed("<", self.vector, _vector_of(0))
        return self.where(negative, Lanes(self.builder, _vector_of(0)) - self, self)

    def at_most(self, other: "Operand") -> "Lanes":
        """The smaller one of signed integers."""
        return self.where(self.builder.icmp_signed("<", self.vector, _vector_of(other)), self, other)

    def at_least(self, other: "Operand") -> "Lanes":
        """The larger one of signed integers."""
        return self.where(self.builder.icmp_signed(">", self.vector, _vector_of(other)), self, other)

    def wrapped(self, other: "Lanes") -> "Lanes":
        """The smaller one of unsigned integers: of two that lie a turn apart, the one that is not below 0."""
        return self.where(self.builder.icmp_unsigned("<", self.vector, other.vector), self, other)

    def beyond(self, other: "Lanes") -> "Lanes":
        """How much larger unsigned integers are, 0 where they are not."""
        return self.where(self.builder.icmp_unsigned(">", self.vector, other.vector), self - other, 0)

    def equals(self, other: "Lanes") -> Any:
        """A mask for `where`."""
        return self.builder.icmp_signed("==", self.vector, other.vector)

    def where(self, mask: Any, chosen: "Operand", otherwise: "Operand") -> "Lanes":
        """One of two, lane by lane."""
        return Lanes(self.builder, self.builder.select(mask, _vector_of(chosen), _vector_of(otherwise)))


Operand = Lanes | int


class _Index:
    """An integer that says where something lies, while a kernel is compiled."""

    def __init__(self, builder: Any, value: Any) -> None:
        self.builder, self.value = builder, value

    def __add__(self, other: "_Index | int") -> "_Index":
        return _Index(self.builder, self.builder.add(self.value, self._value_of(other)))

    def __sub__(self, other: "_Index | int") -> "_Index":
        return _Index(self.builder, self.builder.sub(self.value, self._value_of(other)))

    def __mul__(self, other: "_Index | int") -> "_Index":
        return _Index(self.builder, self.builder.mul(self.value, self._value_of(other)))

    def at_most(self, other: "_Index") -> "_Index":
        smaller = self.builder.icmp_signed("<", self.value, other.value)
        return _Index(self.builder, self.builder.select(smaller, self.value, other.value))

    def _value_of(self, other: "_Index | int") -> Any:
        return other.value if isinstance(other, _Index) else self.value.type(other)


@dataclass(frozen=True)
class _Call:
    """The arguments of an intrinsic, by their place, while a call of it is compiled."""

    context: Any
    builder: Any
    signature: Any
    values: Any

    def index(self, argument: int) -> _Index:
        return _Index(self.builder, self.values[argument])

    def length(self, argument: int, axis: int) -> _Index:
        """How long an array is along an axis."""
        return _Index(self.builder, self.builder.extract_value(self._array(argument).shape, axis))

    def load(self, argument: int, offset: _Index, kind: Any) -> Any:
        """What lies so many elements from an array's start."""
        return self.builder.load(self._pointer(argument, offset, kind), align=_bytes_of(kind))

    def store(self, value: Any, argument: int, offset: _Index) -> None:
        self.builder.store(value, self._pointer(argument, offset, value.type), align=_bytes_of(value.type))

    def spread(self, argument: int, offset: _Index) -> Lanes:
        """One number of an array, in all lanes."""
        return Lanes.of(self.builder, self.load(argument, offset, _SHORT))

    def lanes(self, argument: int, offset: _Index) -> Lanes:
        """Numbers of an array side by side."""
        return Lanes(self.builder, self.load(argument, offset, _SHORTS))

    def steps(self, length: _Index, step: int) -> Iterator[_Index]:
        """Emit a loop over registers of a row, at least one long: their places; the last may overlap the one before."""
        index, last = length.value.type, length - step
        with cgutils.for_range_slice(self.builder, index(0), length.value, index(step), index) as (x, _count):
            yield _Index(self.builder, x).at_most(last)

    def ready(self, known: int | None, prepare: Callable[[_Index], Any]) -> list[Any] | None:
        """What `prepare` gives for 0 to `known` - 1, made before a loop around `summed`; None if that is not known."""
        return None if known is None else [prepare(_Index(self.builder, _PLACE(k))) for k in range(known)]

    def summed(
        self,
        sums: list[Lanes],
        number: _Index,
        ready: list[Any] | None,
        prepare: Callable[[_Index], Any],
        part: Callable[[_Index, Any], list[Lanes]],
    ) -> list[Lanes]:
        """Emit sums of `part` of k and what is prepared for it, for each k below `number`."""
        if ready is not None:
            for place, prepared in enumerate(ready):
                parts = part(_Index(self.builder, _PLACE(place)), prepared)
                sums = [total + more for total, more in zip(sums, parts, strict=True)]
            return sums
        kept = [cgutils.alloca_once(self.builder, _SHORTS) for _ in sums]
        for total, place in zip(sums, kept, strict=True):
            self.builder.store(total.vector, place)
        with cgutils.for_range(self.builder, number.value) as loop:
            k = _Index(self.builder, loop.index)
            for more, place in zip(part(k, prepare(k)), kept, strict=True):
                self.builder.store((Lanes(self.builder, self.builder.load(place)) + more).vector, place)
        return [Lanes(self.builder, self.builder.load(place)) for place in kept]

    def cases(self, number: _Index, most: int, emit: Callable[[int | None], None]) -> None:
        """Emit code for each number from 1 to `most`, and for any other."""
        blocks = {known: self.builder.append_basic_block() for known in (*range(1, most + 1), None)}
        end = self.builder.append_basic_block()
        switch = self.builder.switch(number.value, blocks[None])
        for known, block in blocks.items():
            if known is not None:
                switch.add_case(number.value.type(known), block)
            self.builder.position_at_end(block)
            emit(known)
            self.builder.branch(end)
        self.builder.position_at_end(end)

    def _array(self, argument: int) -> Any:
        make = self.context.make_array(self.signature.args[argument])
        return make(self.context, self.builder, self.values[argument])

    def _pointer(self, argument: int, offset: _Index, kind: Any) -> Any:
        pointer = self.builder.gep(self._array(argument).data, [offset.value])
        return self.builder.bitcast(pointer, kind.as_pointer())


def lanewise(change: Callable[..., Iterable[Lanes]]) -> Any:
    """Make a compiled kernel of what is done to the colours of a pixel.

    Args:
        change: Takes red, green and blue, and two numbers, spread over all lanes; returns red, green and blue.

    Returns:
        A function for compiled code: planes (3, N) uint16, contiguous, N a multiple of 32, changed in place, and the
        two numbers, uint16.
    """

    def emit(call: _Call) -> None:
        size = call.length(0, 1)
        numbers = [Lanes.of(call.builder, value) for value in call.values[1:]]
        for x in call.steps(size, LANES):
            places = [size * channel + x for channel in range(3)]
            colours = [call.lanes(0, place) for place in places]
            for place, changed in zip(places, change(*colours, *numbers), strict=True):
                call.store(changed.vector, 0, place)

    @intrinsic
    def kernel(_: Any, planes: Any, first: Any, second: Any) -> Any:
        return _contiguous(types.void(planes, types.uint16, types.uint16), emit)

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

    def emit(call: _Call) -> None:
        start, stride, distance = (call.index(n) for n in (1, 2, 3))
        into, target_stride, target_distance = (call.index(n) for n in (5, 6, 7))
        shuffle = call.builder.shuffle_vector
        vectors = []
        for row in range(SQUARE):
            parts = [call.load(0, start + stride * row + distance * place, _SQUARE_BYTES) for place in range(2)]
            vectors.append(shuffle(*parts, _mask(range(2 * SQUARE))))
        half = SQUARE // 2
        masks = [  # perfect shuffles of two rows, in each place by itself
            _mask([place + part * half + n // 2 + n % 2 * 2 * SQUARE for place in (0, SQUARE) for n in range(SQUARE)])
            for part in range(2)
        ]
        for _stage in range(4):  # log2(SQUARE)
            vectors = [shuffle(vectors[row], vectors[row + half], mask) for row in range(half) for mask in masks]
        for row, vector in enumerate(vectors):
            for place in range(2):
                part = shuffle(vector, vector, _mask(range(place * SQUARE, (place + 1) * SQUARE)))
                call.store(part, 4, into + target_stride * row + target_distance * place)

    whole = types.int64
    return _contiguous(types.void(source, whole, whole, whole, target, whole, whole, whole), emit)


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

    def emit(call: _Call) -> None:
        top, column, y, num, row, length = (call.index(n) for n in (1, 2, 4, 5, 7, 8))

        def weight_of(k: _Index) -> Lanes:
            return call.spread(3, k * call.length(3, 1) + y)

        def whole_row(known: int | None) -> None:
            ready = call.ready(known, weight_of)
            for x in call.steps(length, WIDE):

                def weighed(k: _Index, weight: Lanes, x: _Index = x) -> list[Lanes]:
                    pixels = call.load(0, (top + k) * call.length(0, 1) + column + x, _WIDE_BYTES)
                    return [part * weight for part in _unpack(call.builder, pixels)]

                sums = call.summed([_half_a_level(call.builder)] * 2, num, ready, weight_of, weighed)
                mean = _pack(call.builder, *(total >> 8 for total in sums))
                call.store(mean, 6, row * call.length(6, 1) + x)

        call.cases(num, MOST_ROWS, whole_row)

    whole = types.int64
    return _contiguous(types.void(image, whole, whole, weights, whole, whole, out, whole, whole), emit)


@intrinsic
def weigh_lanes(_: Any, lanes: Any, first: Any, weights: Any, x: Any, num: Any, out: Any) -> Any:
    """Average `num` pixels of 32 rows at once into pixel `x` of the result, a channel after the other.

    Args:
        lanes: (3 * W, 32) uint8: a column holds one channel of a pixel in each row.
        first: The first pixel.
        weights: (K, S) uint16, K >= num, of which column `x` is taken; they add up to 65536.
        x: Pixel of the result.
        num: How many pixels.
        out: (S, 3, 32) uint8.
    """

    def emit(call: _Call) -> None:
        first, x, num = (call.index(n) for n in (1, 3, 4))

        def weight_of(k: _Index) -> Lanes:
            return call.spread(2, k * call.length(2, 1) + x)

        def weighed(k: _Index, weight: Lanes) -> list[Lanes]:
            place = (first + k) * (3 * LANES)
            red_and_green, blue = call.load(0, place, _WIDE_BYTES), call.load(0, place + WIDE, _BYTES)
            wide = Lanes(call.builder, call.builder.zext(blue, _SHORTS)) << 8
            return [part * weight for part in (*_unpack(call.builder, red_and_green), wide)]

        sums = call.summed([_half_a_level(call.builder)] * 3, num, None, weight_of, weighed)
        *red_and_green, blue = (total >> 8 for total in sums)
        call.store(_pack(call.builder, *red_and_green), 5, x * (3 * LANES))
        call.store(call.builder.trunc(blue.vector, _BYTES), 5, x * (3 * LANES) + WIDE)

    return _contiguous(types.void(lanes, types.int64, weights, types.int64, types.int64, out), emit)


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

    def emit(call: _Call) -> None:
        start, into, width = (call.index(n) for n in (1, 5, 6))
        none, number = start - start, call.length(2, 0)

        def distances_and_weight(k: _Index) -> tuple[list[_Index], Lanes]:
            return [_Index(call.builder, call.load(2, k * 2 + side, _PLACE)) for side in range(2)], call.spread(
                3, k + 1
            )

        def whole_row(known: int | None) -> None:
            middle, ready = call.spread(3, none), call.ready(known, distances_and_weight)
            for x in call.steps(width, LANES):

                def weighed(_: _Index, pair: tuple[list[_Index], Lanes], x: _Index = x) -> list[Lanes]:
                    distances, weight = pair
                    before, behind = (call.lanes(0, start + x + distance) for distance in distances)
                    return [(before + behind) * weight]

                sums = [call.lanes(0, start + x) * middle]
                (total,) = call.summed(sums, number, ready, distances_and_weight, weighed)
                call.store(total.vector, 4, into + x)

        call.cases(number, MOST_PAIRS, whole_row)

    whole = types.int64
    return _contiguous(types.void(source, whole, pairs, weights, out, whole, whole), emit)


def _contiguous(signature: Any, emit: Callable[[_Call], None]) -> Any:
    """An intrinsic of contiguous arrays, as Numba wants it; it does not compile for others."""
    if any(isinstance(kind, types.Array) and kind.layout != "C" for kind in signature.args):
        return None

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        emit(_Call(context, builder, signature, values))
        return context.get_dummy_value()

    return signature, codegen


def _half_a_level(builder: Any) -> Lanes:
    """In 256ths of one: what sums start from that are rounded."""
    return Lanes(builder, _vector_of(128))


def _unpack(builder: Any, pixels: Any) -> list[Lanes]:
    """64 bytes, times 256, as 32 and 32 numbers, in an order that takes an instruction each."""
    zeros = ir.Constant(_WIDE_BYTES, [0] * WIDE)
    masks = [_mask([n for place in half for n in (place, WIDE + place)]) for half in _HALVES]
    return [Lanes(builder, builder.bitcast(builder.shuffle_vector(zeros, pixels, mask), _SHORTS)) for mask in masks]


def _pack(builder: Any, first: Lanes, second: Lanes) -> Any:
    """The lower bytes of what was unpacked, where they were."""
    places = {place: 2 * n + WIDE * half for half, of_half in enumerate(_HALVES) for n, place in enumerate(of_half)}
    parts = [builder.bitcast(part.vector, _WIDE_BYTES) for part in (first, second)]
    return builder.shuffle_vector(*parts, _mask([places[place] for place in range(WIDE)]))


def _mask(places: Iterable[int]) -> Any:
    places = list(places)
    return ir.Constant(ir.VectorType(_INDEX, len(places)), places)


def _vector_of(operand: Operand) -> Any:
    return operand.vector if isinstance(operand, Lanes) else ir.Constant(_SHORTS, [operand] * LANES)


def _bytes_of(kind: Any) -> int:
    """What one number of a vector takes, or a number by itself."""
    width: int = getattr(kind, "element", kind).width
    return width // 8
