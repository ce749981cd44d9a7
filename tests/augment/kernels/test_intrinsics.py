"""Every intrinsic of the kernels gives the integers of the NumPy code in the kernels' README."""

import ast
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numba import njit, types
from numba.core.errors import NumbaError
from numba.extending import intrinsic

from augment.kernels import colour, lanes, resize, vectors
from augment.kernels.vectors import LANES, WIDE, Call, Index, Lanes

FOLDER = Path(lanes.__file__).parent
NUMPY: dict[str, Any] = {}
exec("\n".join(re.findall(r"```python\n(.*?)```", (FOLDER / "README.md").read_text(), re.S)), NUMPY)
REGISTER = NUMPY["Lanes"]


def pixels_of(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def weights_of(*shape: int) -> np.ndarray:
    """Random weights that add up to 65536 along the first axis, or to a little less."""
    weights = np.random.default_rng(1).random(shape)
    return np.minimum(weights / weights.sum(axis=0) * 65536, 65535).astype(np.uint16)


def planes_of_everything() -> np.ndarray:
    """Three planes of random numbers, among them the ends of both ranges and equal ones."""
    planes = np.random.default_rng(2).integers(0, 1 << 16, (3, 4 * LANES), dtype=np.uint16)
    ends = np.array([0, 1, 32767, 32768, 65535], np.uint16)
    planes[0, :25] = ends.repeat(5)
    planes[1, :25] = np.tile(ends, 5)
    return planes


@njit
def run_transpose(source, start, stride, distance, target, into, columns, apart):  # type: ignore
    lanes.transpose(source, start, stride, distance, target, into, columns, apart)


@njit
def run_weigh_rows(image, top, column, weights, y, num, out, row, length):  # type: ignore
    lanes.weigh_rows(image, top, column, weights, y, num, out, row, length)


@njit
def run_weigh_lanes(pixels, first, weights, x, num, out):  # type: ignore
    lanes.weigh_lanes(pixels, first, weights, x, num, out)


@njit
def run_weigh_pairs(source, start, pairs, weights, out, into, width):  # type: ignore
    lanes.weigh_pairs(source, start, pairs, weights, out, into, width)


def test_transpose_turns_squares_in_two_places() -> None:
    source = pixels_of(2000)
    found = np.zeros(3000, np.uint8)
    expected = found.copy()
    run_transpose(source, 7, 50, 900, found, 5, 32, 1700)
    NUMPY["transpose"](source, 7, 50, 900, expected, 5, 32, 1700)
    assert np.array_equal(found, expected) and found.any()


@pytest.mark.parametrize("num", [1, 2, lanes.MOST_ROWS, lanes.MOST_ROWS + 3])
@pytest.mark.parametrize("length", [WIDE, WIDE + 1, 3 * WIDE - 1])
def test_weigh_rows_averages_down_the_columns(num: int, length: int) -> None:
    image = pixels_of(14, length + 9)
    weights = weights_of(num, 5)
    found = np.zeros((3, length + 4), np.uint8)
    expected = found.copy()
    run_weigh_rows(image, 2, 4, weights, 3, num, found, 1, length)
    NUMPY["weigh_rows"](image, 2, 4, weights, 3, num, expected, 1, length)
    assert np.array_equal(found, expected) and found.any()


@pytest.mark.parametrize("num", [1, 4, 9])
def test_weigh_lanes_averages_along_32_rows(num: int) -> None:
    pixels = pixels_of(3 * 20, LANES)
    weights = weights_of(num, 6)
    found = np.zeros((6, 3, LANES), np.uint8)
    expected = found.copy()
    run_weigh_lanes(pixels, 3, weights, 4, num, found)
    NUMPY["weigh_lanes"](pixels, 3, weights, 4, num, expected)
    assert np.array_equal(found, expected) and found.any()


@pytest.mark.parametrize("num", [1, lanes.MOST_PAIRS, lanes.MOST_PAIRS + 2])
@pytest.mark.parametrize("width", [LANES, LANES + 5, 3 * LANES])
def test_weigh_pairs_filters_a_row(num: int, width: int) -> None:
    random = np.random.default_rng(3)
    source = random.integers(0, 1 << 15, width + 60, dtype=np.uint16)
    pairs = random.integers(-20, 21, (num, 2))
    weights = weights_of(2 * num + 1)[: num + 1]
    found = np.zeros(width + 10, np.uint16)
    expected = found.copy()
    run_weigh_pairs(source, 25, pairs, weights, found, 6, width)
    NUMPY["weigh_pairs"](source, 25, pairs, weights, expected, 6, width)
    assert np.array_equal(found, expected) and found.any()


Change = Callable[..., Any]
# What is done to registers a and b: as a kernel writes it, and under its name in the README.
ARITHMETIC: dict[str, tuple[Change, Change]] = {
    "add": (lambda a, b: a + b, REGISTER.add),
    "sub": (lambda a, b: a - b, REGISTER.sub),
    "mul": (lambda a, b: a * b, REGISTER.mul),
    "lshift": (lambda a, b: a << 3, lambda a, b: REGISTER.lshift(a, 3)),
    "rshift": (lambda a, b: a >> 3, lambda a, b: REGISTER.rshift(a, 3)),
    "absolute": (lambda a, b: abs(a), lambda a, b: REGISTER.absolute(a)),
    "at_most": (lambda a, b: a.at_most(b), REGISTER.at_most),
    "at_least": (lambda a, b: a.at_least(b), REGISTER.at_least),
    "wrapped": (lambda a, b: a.wrapped(b), REGISTER.wrapped),
    "beyond": (lambda a, b: a.beyond(b), REGISTER.beyond),
    "equals": (
        lambda a, b: a.where(a.equals(b), 7),
        lambda a, b: REGISTER.where(a, REGISTER.equals(a, b), 7),
    ),
    "where": (
        lambda a, b: a.where(a.equals(b), a + b),
        lambda a, b: REGISTER.where(a, REGISTER.equals(a, b), a + b),
    ),
}


def planes_after(change: Change, *, compiled: bool) -> np.ndarray:
    """Return the planes after a change of each two colours, and of one by each of two numbers."""

    def of_all(red: Any, green: Any, blue: Any, first: Any, second: Any) -> tuple[Any, ...]:
        return change(red, green), change(blue, first), change(green, second)

    planes = planes_of_everything()
    if compiled:
        kernel = lanes.lanewise(of_all)
        njit(lambda planes, first, second: kernel(planes, first, second))(
            planes, np.uint16(3), np.uint16(40000)
        )
    else:
        NUMPY["lanewise"](of_all)(planes, 3, 40000)
    return planes


@pytest.mark.parametrize("name", ARITHMETIC)
def test_the_arithmetic_of_registers_is_that_of_16_bit_integers(name: str) -> None:
    emitted, plain = ARITHMETIC[name]
    found = planes_after(emitted, compiled=True)
    assert np.array_equal(found, planes_after(plain, compiled=False))
    assert not np.array_equal(found, planes_of_everything())


def test_every_operation_of_registers_is_compared() -> None:
    operators = {"abs": "absolute"}
    methods = {name for name in vars(Lanes) if callable(getattr(Lanes, name))} - {"__init__"}
    names = {operators.get(name.strip("_"), name.strip("_")) for name in methods}
    assert names == {*ARITHMETIC, "of", "widened", "narrowed"}
    assert names - {"of", "widened", "narrowed"} == {
        name for name in vars(REGISTER) if not name.startswith("__")
    }


@intrinsic
def repack(_: Any, pixels: Any, halves: Any, joined: Any) -> Any:
    def emit(call: Call) -> None:
        start = call.constant(0)
        first, second = vectors.unpack(call.builder, call.bytes(0, start, WIDE))
        call.store(first.vector, 1, start)
        call.store(second.vector, 1, start + LANES)
        # What is packed is the lower byte.
        call.store(vectors.pack(call.builder, first >> 8, second + 5), 2, start)

    return vectors.contiguous(types.void(pixels, halves, joined), emit)


@intrinsic
def widen(_: Any, pixels: Any, numbers: Any, wide: Any, narrow: Any, same: Any) -> Any:
    def emit(call: Call) -> None:
        start = call.constant(0)
        lanes_of_32 = Lanes.widened(call.builder, call.bytes(0, start, LANES))
        call.store(lanes_of_32.vector, 2, start)
        call.store(call.lanes(1, start).narrowed(), 3, start)
        call.store(call.spread(1, Index(call.builder, vectors.PLACE(9))).vector, 4, start)

    return vectors.contiguous(types.void(pixels, numbers, wide, narrow, same), emit)


def test_unpacking_and_packing_keep_the_order_that_the_readme_draws() -> None:
    pixels = pixels_of(WIDE)
    halves = np.zeros(2 * LANES, np.uint16)
    joined = np.zeros(WIDE, np.uint8)
    njit(lambda *given: repack(given[0], given[1], given[2]))(pixels, halves, joined)
    first, second = NUMPY["unpack"](pixels)
    assert np.array_equal(halves, np.concatenate([first, second]))
    assert np.array_equal(joined, NUMPY["pack"](first >> 8, second + 5))
    assert np.array_equal(NUMPY["pack"](first >> 8, second >> 8), pixels)


def test_bytes_become_lanes_and_lanes_bytes() -> None:
    pixels = pixels_of(LANES)
    numbers = planes_of_everything()[0, :LANES].copy()
    wide = np.zeros(LANES, np.uint16)
    narrow = np.zeros(LANES, np.uint8)
    same = np.zeros(LANES, np.uint16)
    njit(lambda *given: widen(given[0], given[1], given[2], given[3], given[4]))(
        pixels, numbers, wide, narrow, same
    )
    assert np.array_equal(wide, NUMPY["widened"](pixels))
    assert np.array_equal(narrow, NUMPY["narrowed"](numbers))
    assert np.array_equal(same, NUMPY["spread"](numbers[9]))


def test_an_array_with_gaps_does_not_compile() -> None:
    pixels = pixels_of(3 * 20, 2 * LANES)[:, ::2]
    with pytest.raises(NumbaError):
        run_weigh_lanes(pixels, 3, weights_of(1, 6), 4, 1, np.zeros((6, 3, LANES), np.uint8))


@pytest.mark.long
def test_vector_code_is_reached_through_two_functions_only() -> None:
    root = FOLDER.parents[1]
    for package in ("augment", "models", "pipelines", "jobs"):
        for path in (root / package).rglob("*.py"):
            if FOLDER in path.parents:
                continue
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ImportFrom) and node.module:
                    modules = {f"{node.module}.{name.name}" for name in node.names} | {node.module}
                    hidden = {"lanes", "vectors", "compiled"}
                    assert not modules & {f"augment.kernels.{name}" for name in hidden}, path
    for module, function in ((resize, resize.resize_box), (colour, colour.change_colours)):
        public = {
            name
            for name, value in vars(module).items()
            if callable(value) and getattr(value, "__module__", "") == module.__name__
        }
        assert {name for name in public if not name.startswith("_")} - {"blur_reach"} == {
            function.__name__
        }


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"box": (0, 0, 41, 40)}, "inside the image"),
        ({"box": (-1, 0, 40, 40)}, "inside the image"),
        ({"box": (0, 0, 0, 40)}, "at most"),
        ({"image": np.zeros((40, 40, 3), np.int64)}, "contiguous uint8"),
        ({"image": np.zeros((40, 40, 4), np.uint8)}, "contiguous uint8"),
        ({"out": np.zeros((3, 31, 31), np.uint8)}, "S >= 32"),
        ({"out": np.zeros((3, 64, 64), np.uint8)[:, ::2, ::2]}, "contiguous"),
    ],
)
def test_what_would_write_beyond_an_array_is_refused(wrong: dict[str, Any], words: str) -> None:
    right = {
        "image": np.zeros((40, 40, 3), np.uint8),
        "box": (0, 0, 40, 40),
        "flip": False,
        "out": np.zeros((3, 32, 32), np.uint8),
    }
    with pytest.raises(ValueError, match=words):
        resize.resize_box(**(right | wrong))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"index": 1}, "index 1"),
        ({"out": np.zeros((3, 8, 9), np.uint8)}, "must be"),
        ({"out": np.zeros((3, 8, 8), np.float64)}, "float64"),
        ({"levels": np.zeros((3, 8, 16), np.uint16)[:, :, ::2]}, "contiguous"),
        ({"taps": 16}, "taps"),
    ],
)
def test_what_would_change_beyond_a_view_is_refused(wrong: dict[str, Any], words: str) -> None:
    changes = np.zeros(1, colour.CHANGES)
    changes["sigma"] = 1
    right = {
        "image": np.zeros((3, 8, 8), np.uint8),
        "changes": changes,
        "index": 0,
        "taps": 3,
        "levels": np.zeros((3, 8, 8), np.uint16),
        "out": np.zeros((3, 8, 8), np.uint8),
    }
    with pytest.raises(ValueError, match=words):
        colour.change_colours(**(right | wrong))
