"""Images of more than 8 bits a channel, or of many channels, come out as they are meant or with a
true reason."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from pipelines.media.contract import BadSample, Limits
from pipelines.media.decoder import Decoder
from pipelines.media.image import decode, deep_values

RAMP = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)  # twelve bits


def read(data: bytes, **options: Any) -> np.ndarray:
    return decode(data, max_pixels=10**6, **options)


def png(values: np.ndarray, significant: int | None = None) -> bytes:
    """A PNG file of 16 bits: grey, RGB or RGBA; perhaps with its number of significant bits."""
    height, width = values.shape[:2]
    num_channels = 1 if values.ndim == 2 else values.shape[2]
    kind = {1: 0, 3: 2, 4: 6}[num_channels]
    rows = values.astype(">u2").reshape(height, -1)
    lines = b"".join(b"\0" + row.tobytes() for row in rows)
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0))]
    if significant:
        chunks.append((b"sBIT", bytes([significant] * num_channels)))
    chunks += [(b"IDAT", zlib.compress(lines)), (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


def tiff(values: np.ndarray, **options: Any) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values, **options)
    return buffer.getvalue()


def bright(values: np.ndarray, high: float) -> np.ndarray:
    return np.rint(values.astype(np.float64) * 255 / high)


COLOURS = np.stack([RAMP, RAMP[::-1], RAMP.T], axis=2)


@pytest.mark.parametrize("values", [RAMP, COLOURS])
def test_twelve_bits_in_sixteen_are_read_by_the_files_word_or_a_window(values: np.ndarray) -> None:
    expected = bright(values if values.ndim == 3 else values[:, :, None], 4095)
    for found in (
        read(png(values, significant=12)),
        read(png(values), value_range=(0.0, 4095.0)),
    ):
        assert np.abs(found.astype(int) - expected).max() <= 1
    assert read(png(values)).max() == read(png(values, 12), value_range="type").max() == 16


def test_significant_bits_that_are_scaled_up_already_change_nothing() -> None:
    assert np.array_equal(read(png(RAMP * 16, 12)), read(png(RAMP * 16)))


@pytest.mark.parametrize("values", [RAMP, COLOURS])
def test_tags_of_a_tiff_file_say_its_range(values: np.ndarray) -> None:
    photometric = "rgb" if values.ndim == 3 else "minisblack"
    largest = [(281, "H", 1, 4095, True)]
    found = read(tiff(values, photometric=photometric, extratags=largest))
    expected = bright(values if values.ndim == 3 else values[:, :, None], 4095)
    assert np.abs(found.astype(int) - expected).max() <= 1


def test_colour_of_sixteen_bits_keeps_its_opacity() -> None:
    opaque = np.full((64, 64, 1), 65535, np.uint16)
    values = np.concatenate([COLOURS * 16, opaque], axis=2)
    assert np.abs(read(png(values)).astype(int) - read(png(COLOURS * 16))).max() <= 1
    values[:, :, 3] = 0
    assert (read(png(values)) == 255).all()


def test_float_colour_is_read() -> None:
    unit = (COLOURS / 4095).astype(np.float32)
    found = read(tiff(unit, photometric="rgb"))
    assert np.abs(found.astype(int) - bright(COLOURS, 4095)).max() <= 1
    assert np.array_equal(found, read(tiff(unit, photometric="rgb", compression="zlib")))


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
def test_bands_are_chosen_or_their_number_is_the_reason(planar: str, kind: type) -> None:
    bands = np.stack([np.full((32, 48), 10 * (n + 1)) for n in range(7)], axis=2).astype(kind)
    stored = np.moveaxis(bands, 2, 0) if planar == "separate" else bands
    data = tiff(stored, photometric="minisblack", planarconfig=planar)
    with pytest.raises(BadSample, match=r"unsupported: 7 bands: .*source\.bands="):
        read(data)
    found = read(data, bands=(3, 2, 1), value_range=(0.0, 255.0))
    assert found.shape == (32, 48, 3) and found[0, 0].tolist() == [30, 20, 10]
    assert read(data, bands=(7,), value_range=(0.0, 255.0))[0, 0].tolist() == [70, 70, 70]
    with pytest.raises(BadSample, match=r"unsupported: 7 bands, and .* asks for 8"):
        read(data, bands=(8,))


def test_values_are_those_of_the_file_and_none_of_an_ordinary_image() -> None:
    limits = Limits()
    assert deep_values(png(RAMP), limits).max() == 4095
    assert deep_values(tiff(COLOURS, photometric="rgb"), limits).max() <= 4095
    buffer = io.BytesIO()
    Image.fromarray(RAMP.astype(np.uint8)).save(buffer, "PNG")
    assert len(deep_values(buffer.getvalue(), limits)) == 0


def test_the_supervised_process_reads_by_the_same_settings() -> None:
    decoder = Decoder(Limits(value_range=(0.0, 4095.0), bands=(3, 2, 1)))
    assert np.array_equal(
        decoder.image(png(RAMP)).pixels, read(png(RAMP), value_range=(0.0, 4095.0))
    )
    assert decoder.deep_values(png(RAMP)).max() == 4095
    decoder.close()
