"""JPEG files that would hold their task for long are decoded where a time limit holds; ordinary
ones are not."""

import io
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from pipelines.media.contract import BadSample, Limits
from pipelines.media.decoder import Decoder
from pipelines.media.jpeg import decode_jpeg, read_header

NO_CHILD = "tests.no_such_module"


def jpeg(side: int = 64, *, progressive: bool = False, noise: bool = False) -> bytes:
    pixels = np.full((side, side, 3), 90, np.uint8)
    if noise:
        pixels = np.random.default_rng(0).integers(0, 256, pixels.shape, dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", progressive=progressive)
    return buffer.getvalue()


def with_scans_repeated(data: bytes, times: int) -> bytes:
    """Repeat the last scan of a progressive file, a few bytes for a walk over all of its pixels."""
    scan, end = data.rindex(b"\xff\xda"), data.rindex(b"\xff\xd9")
    return data[:end] + data[scan:end] * times + data[end:]


@pytest.fixture
def decoder() -> Iterator[Decoder]:
    made = Decoder(Limits(timeout_s=0.5))
    yield made
    made.close()


def test_scans_are_counted_in_progressive_files_only() -> None:
    assert _num_scans(jpeg()) == 1
    assert _num_scans(jpeg(progressive=True)) == 10
    assert _num_scans(with_scans_repeated(jpeg(progressive=True), 300)) == 310


def _num_scans(data: bytes) -> int | None:
    header = read_header(data, 10**6)
    assert header is not None
    return header.num_scans


def test_a_file_of_repeated_scans_meets_the_time_limit(decoder: Decoder) -> None:
    bomb = with_scans_repeated(jpeg(2000, progressive=True), 4000)
    assert len(bomb) < 200_000
    with pytest.raises(BadSample) as caught:
        decoder.image(bomb)
    assert caught.value.reason == "timeout"


@pytest.mark.parametrize("progressive", [False, True])
def test_an_ordinary_file_needs_no_child(progressive: bool) -> None:
    data = jpeg(512, progressive=progressive, noise=True)
    assert Decoder(Limits(), NO_CHILD).image(data).pixels.shape == (512, 512, 3)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(jpeg(4000), id="large"),
        pytest.param(jpeg()[:2] + b"\xff\xe1\0\x02" * 10_000 + jpeg()[2:], id="segments"),
        pytest.param(jpeg()[:2] + b"\xff\xe1\0\x02" + b"\xff" * 10_000 + jpeg()[2:], id="padding"),
    ],
)
def test_what_may_take_long_or_cannot_be_told_goes_to_the_child(data: bytes) -> None:
    with pytest.raises(RuntimeError, match="no_such_module"):
        Decoder(Limits(timeout_s=1.0), NO_CHILD).image(data)


@pytest.mark.parametrize("reduction", [1, 2, 4])
def test_the_child_decodes_to_the_same_fewer_pixels(reduction: int) -> None:
    data = jpeg(1501, progressive=True, noise=True)
    expected = decode_jpeg(data, max_pixels=10**7, reduce=lambda *_: reduction)
    assert expected is not None
    supervised = Decoder(Limits(timeout_s=2.0))  # for which its work is too much
    found = supervised.image(data, lambda *_: reduction)
    supervised.close()
    assert (found.height, found.width, found.reduction) == (1501, 1501, reduction)
    assert np.array_equal(found.pixels, expected.pixels)
