"""Emits vector instructions while a kernel is compiled, from arithmetic written in Python (see
`lanes`).

`README.md` draws the registers and gives every intrinsic in NumPy.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

LANES = 32  # 16-bit integers that a 512-bit register holds
WIDE = 64  # bytes of a register

_BYTE, SHORT, _INDEX, PLACE = (ir.IntType(bits) for bits in (8, 16, 32, 64))
_SHORTS = ir.VectorType(SHORT, LANES)
_WIDE_BYTES = ir.VectorType(_BYTE, WIDE)
# Which bytes of a register go into the one and the other half of them: eight of every sixteen, as
# registers are cut.
_HALVES = [[n for n in range(WIDE) if n % 16 // 8 == half] for half in range(2)]


class Lanes:
    """32 integers of 16 bits, while a kernel is compiled: what is done to them becomes vector
    instructions."""

    def __init__(self, builder: Any, vector: Any) -> None:
        self.builder = builder
        self.vector = vector

    @classmethod
    def of(cls, builder: Any, number: Any) -> "Lanes":
        """Repeat one number in all lanes."""
        undefined = ir.Constant(_SHORTS, ir.Undefined)
        single = builder.insert_element(undefined, number, _INDEX(0))
        return cls(builder, builder.shuffle_vector(single, undefined, mask_of([0] * LANES)))

    @classmethod
    def widened(cls, builder: Any, pixels: Any) -> "Lanes":
        """Widen 32 bytes."""
        return cls(builder, builder.zext(pixels, _SHORTS))

    def narrowed(self) -> Any:
        """Narrow to the lower bytes."""
        return self.builder.trunc(self.vector, ir.VectorType(_BYTE, LANES))

    def __add__(self, other: "Operand") -> "Lanes":
        return Lanes(self.builder, self.builder.add(self.vector, _vector_of(other)))

    def __sub__(self, other: "Operand") -> "Lanes":
        return Lanes(self.builder, self.builder.sub(self.vector, _vector_of(other)))

    def __lshift__(self, bits: int) -> "Lanes":
        return Lanes(self.builder, self.builder.shl(self.vector, _vector_of(bits)))

    def __rshift__(self, bits: int) -> "Lanes":
        return Lanes(self.builder, self.builder.lshr(self.vector, _vector_of(bits)))

    def __mul__(self, other: "Operand") -> "Lanes":
        """Multiply unsigned integers and keep the upper halves: times 65536ths."""
        # Written out as widening, product, shift and narrowing it is recognised only where no
        # widening left its loop.
        kind = ir.FunctionType(_SHORTS, [_SHORTS, _SHORTS, _INDEX])
        multiply = cgutils.get_or_insert_function(
            self.builder.module, kind, f"llvm.umul.fix.v{LANES}i16"
        )
        return Lanes(
            self.builder, self.builder.call(multiply, [self.vector, _vector_of(other), _INDEX(16)])
        )

    def __abs__(self) -> "Lanes":
        negative = self.builder.icmp_signed("<", self.vector, _vector_of(0))
        return (Lanes(self.builder, _vector_of(0)) - self).where(negative, self)

    def at_most(self, other: "Operand") -> "Lanes":
        """Take the smaller one of signed integers."""
        return self.where(self.builder.icmp_signed("<", self.vector, _vector_of(other)), other)

    def at_least(self, other: "Operand") -> "Lanes":
        """Take the larger one of signed integers."""
        return self.where(self.builder.icmp_signed(">", self.vector, _vector_of(other)), other)

    def wrapped(self, other: "Lanes") -> "Lanes":
        """Take the smaller one of unsigned integers: of two a turn apart, the one not below 0."""
        return self.where(self.builder.icmp_unsigned("<", self.vector, other.vector), other)

    def beyond(self, other: "Lanes") -> "Lanes":
        """Return how much larger unsigned integers are, 0 where they are not."""
        return (self - other).where(self.builder.icmp_unsigned(">", self.vector, other.vector), 0)

    def equals(self, other: "Lanes") -> Any:
        """Return a mask for `where`."""
        return self.builder.icmp_signed("==", self.vector, other.vector)

    def where(self, mask: Any, other: "Operand") -> "Lanes":
        """Take these, and the others where the mask is not set."""
        return Lanes(self.builder, self.builder.select(mask, self.vector, _vector_of(other)))


Operand = Lanes | int


class Index:
    """An integer that says where something lies, while a kernel is compiled."""

    def __init__(self, builder: Any, value: Any) -> None:
        self.builder = builder
        self.value = value

    def __add__(self, other: "Index | int") -> "Index":
        return Index(self.builder, self.builder.add(self.value, self._value_of(other)))

    def __sub__(self, other: "Index | int") -> "Index":
        return Index(self.builder, self.builder.sub(self.value, self._value_of(other)))

    def __mul__(self, other: "Index | int") -> "Index":
        return Index(self.builder, self.builder.mul(self.value, self._value_of(other)))

    def at_most(self, other: "Index") -> "Index":
        smaller = self.builder.icmp_signed("<", self.value, other.value)
        return Index(self.builder, self.builder.select(smaller, self.value, other.value))

    def _value_of(self, other: "Index | int") -> Any:
        return other.value if isinstance(other, Index) else self.value.type(other)


@dataclass(frozen=True)
class Call:
    """The arguments of an intrinsic, by their place, while a call of it is compiled."""

    context: Any
    builder: Any
    signature: Any
    values: Any

    def index(self, argument: int) -> Index:
        return Index(self.builder, self.values[argument])

    def constant(self, number: int) -> Index:
        return Index(self.builder, PLACE(number))

    def length(self, argument: int, axis: int) -> Index:
        """Return how long an array is along an axis."""
        return Index(self.builder, self.builder.extract_value(self._array(argument).shape, axis))

    def load(self, argument: int, offset: Index, kind: Any) -> Any:
        """Load what lies so many elements from an array's start."""
        return self.builder.load(self._pointer(argument, offset, kind), align=_bytes_of(kind))

    def store(self, value: Any, argument: int, offset: Index) -> None:
        self.builder.store(
            value, self._pointer(argument, offset, value.type), align=_bytes_of(value.type)
        )

    def spread(self, argument: int, offset: Index) -> Lanes:
        """Load one number of an array into all lanes."""
        return Lanes.of(self.builder, self.load(argument, offset, SHORT))

    def lanes(self, argument: int, offset: Index) -> Lanes:
        """Load numbers of an array side by side."""
        return Lanes(self.builder, self.load(argument, offset, _SHORTS))

    def bytes(self, argument: int, offset: Index, num: int) -> Any:
        """Load bytes of an array side by side."""
        return self.load(argument, offset, ir.VectorType(_BYTE, num))

    def steps(self, length: Index, step: int) -> Iterator[Index]:
        """Emit a loop over registers of a row, at least one long: their places; the last may
        overlap the one before."""
        index = length.value.type
        last = length - step
        with cgutils.for_range_slice(self.builder, index(0), length.value, index(step), index) as (
            x,
            _count,
        ):
            yield Index(self.builder, x).at_most(last)

    def ready(self, known: int | None, prepare: Callable[[Index], Any]) -> list[Any] | None:
        """Return what `prepare` gives for 0 to `known` - 1, made before a loop; None if not
        known."""
        return None if known is None else [prepare(self.constant(k)) for k in range(known)]

    def summed(
        self,
        sums: list[Lanes],
        number: Index,
        ready: list[Any] | None,
        prepare: Callable[[Index], Any],
        part: Callable[[Index, Any], list[Lanes]],
    ) -> list[Lanes]:
        """Emit sums of `part` of k and what is prepared for it, for each k below `number`."""
        if ready is not None:
            for place, prepared in enumerate(ready):
                parts = part(self.constant(place), prepared)
                sums = [total + more for total, more in zip(sums, parts, strict=True)]
            return sums
        kept = [cgutils.alloca_once(self.builder, _SHORTS) for _ in sums]
        for total, place in zip(sums, kept, strict=True):
            self.builder.store(total.vector, place)
        with cgutils.for_range(self.builder, number.value) as loop:
            k = Index(self.builder, loop.index)
            for more, place in zip(part(k, prepare(k)), kept, strict=True):
                self.builder.store(
                    (Lanes(self.builder, self.builder.load(place)) + more).vector, place
                )
        return [Lanes(self.builder, self.builder.load(place)) for place in kept]

    def cases(self, number: Index, most: int, emit: Callable[[int | None], None]) -> None:
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

    def _pointer(self, argument: int, offset: Index, kind: Any) -> Any:
        pointer = self.builder.gep(self._array(argument).data, [offset.value])
        return self.builder.bitcast(pointer, kind.as_pointer())


def contiguous(signature: Any, emit: Callable[[Call], None]) -> Any:
    """Make an intrinsic of contiguous arrays, as Numba wants it; others do not compile."""
    if any(isinstance(kind, types.Array) and kind.layout != "C" for kind in signature.args):
        return None

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        emit(Call(context, builder, signature, values))
        return context.get_dummy_value()

    return signature, codegen


def unpack(builder: Any, pixels: Any) -> list[Lanes]:
    """Unpack 64 bytes, times 256, as 32 and 32 numbers, in an order that takes an instruction
    each."""
    zeros = ir.Constant(_WIDE_BYTES, [0] * WIDE)
    masks = [mask_of([n for place in half for n in (place, WIDE + place)]) for half in _HALVES]
    return [
        Lanes(builder, builder.bitcast(builder.shuffle_vector(zeros, pixels, mask), _SHORTS))
        for mask in masks
    ]


def pack(builder: Any, first: Lanes, second: Lanes) -> Any:
    """Pack the lower bytes of what was unpacked to where they were."""
    places = {
        place: 2 * n + WIDE * half
        for half, of_half in enumerate(_HALVES)
        for n, place in enumerate(of_half)
    }
    parts = [builder.bitcast(part.vector, _WIDE_BYTES) for part in (first, second)]
    return builder.shuffle_vector(*parts, mask_of([places[place] for place in range(WIDE)]))


def mask_of(places: Iterable[int]) -> Any:
    places = list(places)
    return ir.Constant(ir.VectorType(_INDEX, len(places)), places)


def _vector_of(operand: Operand) -> Any:
    return operand.vector if isinstance(operand, Lanes) else ir.Constant(_SHORTS, [operand] * LANES)


def _bytes_of(kind: Any) -> int:
    """Return the bytes that one number of a vector takes, or a number by itself."""
    width: int = getattr(kind, "element", kind).width
    return width // 8
