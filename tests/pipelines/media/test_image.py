"""Files of every kind against the pixels they were made from, and the ones that must be refused."""

import csv
import io
import pickle
import struct
import tarfile
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from augment.execution.geometry import crop_resize, reduction_for
from pipelines.media.contract import REASONS, BadSample
from pipelines.media.image import decode
from pipelines.media.jpeg import decode_jpeg
from tests.shared_data import shared_data

LIMIT = 1_000_000
RAMP = np.linspace(0, 255, 24 * 40).reshape(24, 40)
# (24, 40, 3), no symmetry
PIXELS = np.stack([RAMP, RAMP[::-1], RAMP[:, ::-1]], axis=-1).astype(np.uint8)
LOSSLESS: dict[str, dict[str, Any]] = {"WEBP": {"lossless": True, "exact": True}}


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def refusal(data: bytes, max_pixels: int = LIMIT) -> BadSample:
    with pytest.raises(BadSample) as caught:
        decode(data, max_pixels=max_pixels)
    return caught.value


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}),
        ("BMP", {}),
        ("WEBP", {"lossless": True}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("PPM", {}),
        ("TGA", {}),
        ("JPEG2000", {"irreversible": False}),
    ],
)
def test_lossless_formats_give_their_exact_pixels(kind: str, options: dict[str, Any]) -> None:
    image = decode(encode(Image.fromarray(PIXELS), kind, **options), max_pixels=LIMIT)
    assert image.dtype == np.uint8 and image.flags.c_contiguous
    np.testing.assert_array_equal(image, PIXELS)


@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"subsampling": 0}, {"restart_marker_blocks": 2}]
)
def test_jpeg_agrees_with_pillow_within_the_rounding_of_two_decoders(
    options: dict[str, Any],
) -> None:
    data = encode(Image.fromarray(PIXELS), "JPEG", quality=95, **options)
    expected = np.asarray(Image.open(io.BytesIO(data)), dtype=int)
    assert np.abs(decode(data, max_pixels=LIMIT).astype(int) - expected).max() <= 3


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x010F] = "a camera"  # an entry before the one looked for
    exif[0x0112] = orientation
    data = encode(Image.fromarray(PIXELS), kind, exif=exif, **LOSSLESS.get(kind, {}))
    with Image.open(io.BytesIO(data)) as stored:
        upright = ImageOps.exif_transpose(stored)
    image = decode(data, max_pixels=LIMIT)
    assert image.shape == ((24, 40, 3) if orientation < 5 else (40, 24, 3))
    assert image.flags.c_contiguous
    assert np.abs(image.astype(int) - np.asarray(upright, dtype=int)).max() <= 3


def photo(height: int, width: int) -> Image.Image:
    """Soft colours, edges between them and some grain."""
    rows, columns = np.mgrid[0:height, 0:width]
    waves = [
        np.sin(rows / 23) + np.cos(columns / 17),
        np.cos((rows + columns) / 31),
        np.sign(np.sin(columns / 60)),
    ]
    grain = np.random.default_rng(0).normal(0, 6, (height, width, 1))
    return Image.fromarray(
        (np.stack(waves, axis=-1) * 50 + 128 + grain).clip(0, 255).astype(np.uint8)
    )


def difference(data: bytes, box: tuple[int, int, int, int], size: int) -> tuple[int, np.ndarray]:
    """How much smaller a file may be decoded for a view, and by how many grey levels that changes
    it."""
    pictures = [
        decode_jpeg(data, max_pixels=10**8, reduce=reduce)
        for reduce in (None, lambda *_: reduction_for(*box[2:], size))
    ]
    views = np.empty((2, 3, size, size), np.uint8)
    for picture, view in zip(pictures, views, strict=True):
        assert picture is not None
        crop_resize(picture, *box, True, size, view)
    return picture.reduction, np.abs(views[0].astype(int) - views[1])


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize(
    ("box", "reduction"),
    [((13, 300, 200, 190), 2), ((299, 401, 301, 400), 4), ((1, 3, 599, 777), 8)],
)
def test_a_view_of_what_was_decoded_smaller_is_nearly_that_of_all_pixels(
    box: tuple[int, int, int, int], reduction: int, subsampling: int
) -> None:
    data = encode(photo(601, 803), "JPEG", quality=90, subsampling=subsampling)
    reduced, levels = difference(data, box, 32)
    assert reduced == reduction
    assert levels.mean() <= 2 and (levels <= 8).mean() >= 0.999


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("width", [800, 803])
def test_a_turned_picture_is_reduced_only_if_its_pixels_stay_in_place(
    orientation: int, width: int
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(photo(600, width), "JPEG", quality=90, exif=exif)
    upright = (600, width) if orientation < 5 else (width, 600)
    assert decode(data, max_pixels=LIMIT).shape[:2] == upright
    asked: list[tuple[int, int]] = []
    picture = decode_jpeg(data, max_pixels=LIMIT, reduce=lambda *size: asked.append(size) or 4)
    assert picture is not None and asked == [upright] and (picture.height, picture.width) == upright
    assert picture.reduction == (4 if orientation == 1 or width == 800 else 1)
    assert picture.pixels.shape == (*(-(-side // picture.reduction) for side in upright), 3)
    _, levels = difference(data, (4, 9, 590, 580), 64)
    assert levels.mean() <= 2


def test_a_file_cut_off_is_refused_or_filled_up_at_any_size() -> None:
    data = encode(photo(600, 800), "JPEG", quality=90)
    cut = data[: len(data) // 2]
    with pytest.raises(BadSample, match="truncated"):
        decode_jpeg(cut, max_pixels=LIMIT, reduce=lambda *_: 4)
    picture = decode_jpeg(cut, max_pixels=LIMIT, allow_truncated=True, reduce=lambda *_: 4)
    assert picture is not None and picture.pixels.shape == (150, 200, 3)
    # of the file's pixels, not of those decoded
    with pytest.raises(BadSample, match="the limit is 479,999"):
        decode_jpeg(data, max_pixels=479_999, reduce=lambda *_: 4)


def test_damaged_exif_costs_the_orientation_not_the_image() -> None:
    data = encode(Image.fromarray(PIXELS), "JPEG", exif=b"Exif\0\0MM\0*\0\0\xff\xff")
    assert decode(data, max_pixels=LIMIT).shape == PIXELS.shape


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("brightest", [255, 100])  # a dim picture stays dim
def test_16_bit_grey_is_scaled_not_clipped(kind: str, brightest: int) -> None:
    expected = np.linspace(0, brightest, 256).round().reshape(16, 16)
    image = decode(
        encode(Image.fromarray((expected * 257).astype(np.uint16)), kind), max_pixels=LIMIT
    )
    np.testing.assert_array_equal(image[..., 0], expected)
    np.testing.assert_array_equal(image[..., 0], image[..., 2])


def test_float_grey_beyond_one_is_scaled_from_its_own_ends() -> None:
    values = np.linspace(-3.0, 7.0, 256, dtype=np.float32).reshape(16, 16)
    image = decode(encode(Image.fromarray(values), "TIFF"), max_pixels=LIMIT)
    np.testing.assert_array_equal(image[..., 0], np.arange(256).reshape(16, 16))


def test_float_image_of_one_value_beyond_the_scale_is_black() -> None:
    values = np.full((4, 4), 9.0, dtype=np.float32)
    assert not decode(encode(Image.fromarray(values), "TIFF"), max_pixels=LIMIT).any()


def test_float_image_with_nan_is_refused() -> None:
    values = np.full((4, 4), np.nan, dtype=np.float32)
    assert refusal(encode(Image.fromarray(values), "TIFF")).reason == "corrupt"


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_alpha_is_composited_on_white(kind: str) -> None:
    alpha = np.linspace(0, 255, 24 * 40).reshape(24, 40, 1).astype(np.uint8)
    data = encode(
        Image.fromarray(np.concatenate([PIXELS, alpha], axis=-1)), kind, **LOSSLESS.get(kind, {})
    )
    share = alpha / 255.0
    expected = PIXELS * share + 255.0 * (1.0 - share)
    assert np.abs(decode(data, max_pixels=LIMIT) - expected).max() <= 1.0


def test_palette_with_a_transparent_entry_is_composited_on_white() -> None:
    image = Image.new("P", (4, 2), 0)
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((3, 1), 1)
    pixels = decode(encode(image, "PNG", transparency=0), max_pixels=LIMIT)
    assert pixels[0, 0].tolist() == [255, 255, 255]
    assert pixels[1, 3].tolist() == [200, 100, 50]


@pytest.mark.parametrize("mode", ["1", "L"])
def test_grey_images_get_three_equal_channels(mode: str) -> None:
    grey = Image.fromarray(PIXELS).convert(mode)
    image = decode(encode(grey, "PNG"), max_pixels=LIMIT)
    np.testing.assert_array_equal(image, np.asarray(grey.convert("RGB")))


def test_grey_jpeg_gets_three_equal_channels() -> None:
    image = decode(encode(Image.fromarray(PIXELS).convert("L"), "JPEG"), max_pixels=LIMIT)
    np.testing.assert_array_equal(image[..., 0], image[..., 1])


def test_cmyk_jpeg_keeps_its_colours() -> None:
    red = Image.new("RGB", (16, 16), (230, 20, 20)).convert("CMYK")
    image = decode(encode(red, "JPEG", quality=95), max_pixels=LIMIT)
    assert np.abs(image.mean(axis=(0, 1)) - [230, 20, 20]).max() < 6


def test_first_frame_of_an_animation_is_taken() -> None:
    first, second = Image.new("RGB", (8, 6), (255, 0, 0)), Image.new("RGB", (8, 6), (0, 0, 255))
    image = decode(encode(first, "GIF", save_all=True, append_images=[second]), max_pixels=LIMIT)
    assert image.shape == (6, 8, 3)
    assert (image == [255, 0, 0]).all()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"])
@pytest.mark.parametrize("kept", [0.3, 0.7, 0.95])
def test_truncated_files_are_refused_never_half_grey(kind: str, kept: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 80, 3), dtype=np.uint8)
    data = encode(Image.fromarray(noise), kind)
    assert refusal(data[: int(kept * len(data))]).reason in ("truncated", "corrupt")


def test_jpeg_without_its_last_two_bytes_is_truncated() -> None:
    assert refusal(encode(Image.fromarray(PIXELS), "JPEG")[:-2]).reason == "truncated"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><p>404", "unknown_type"),
        (bytes(5000), "unknown_type"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "unknown_type"),
        (b"\xff\xd8\xff\xe0", "corrupt"),
        (b"\x89PNG\r\n\x1a\n", "corrupt"),
    ],
)
def test_what_is_no_image_is_named_as_such(data: bytes, reason: str) -> None:
    assert refusal(data).reason == reason


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP"])
def test_pixel_limit_is_inclusive_and_holds_for_each_format(kind: str) -> None:
    data = encode(Image.fromarray(PIXELS), kind)
    assert decode(data, max_pixels=24 * 40).shape == PIXELS.shape
    assert refusal(data, max_pixels=24 * 40 - 1).reason == "too_many_pixels"


def test_bomb_is_refused_by_its_header_alone() -> None:
    def chunk(name: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    header = struct.pack(">IIBBBBB", 2_000_000, 3_000_000, 8, 2, 0, 0, 0)  # 6e12 pixels
    png = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(9)))
        + chunk(b"IEND", b"")
    )
    assert refusal(png, max_pixels=100_000_000).reason == "too_many_pixels"


def test_bad_sample_survives_pickling_with_its_reason() -> None:
    error = pickle.loads(pickle.dumps(BadSample("truncated", "cut at 3")))
    assert (error.reason, error.message, str(error)) == (
        "truncated",
        "cut at 3",
        "truncated: cut at 3",
    )


NASTY, WEB = shared_data("nasty.tar"), shared_data("webjpeg_200.tar")
# Pillow alone decodes these; we refuse: libjpeg-turbo or the container reports damage that Pillow
# overlooks.
STRICTER_THAN_PILLOW = {"bitflip_jpg", "broken_png", "large_dim", "exif_err", "tiff_lab"}


def _resident_kb(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


@pytest.mark.skipif(NASTY is None, reason="the collection of hostile files is not on this machine")
def test_hostile_files_decode_or_say_why_in_bounded_memory() -> None:
    assert NASTY is not None
    with tarfile.open(NASTY) as tar, warnings.catch_warnings():
        warnings.simplefilter("error")
        table = tar.extractfile("manifest.csv")
        assert table is not None
        rows = [
            row
            for row in csv.DictReader(io.TextIOWrapper(table, "utf-8"))
            if row["kind"] != "video"
        ]
        for row in rows:
            member = tar.extractfile(row["file"])
            assert member is not None
            _check_hostile(row, member.read())
    assert len(rows) > 150


def _check_hostile(row: dict[str, str], data: bytes) -> None:
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
    before = _resident_kb("VmRSS")
    tags = set(row["tags"].split(";"))
    try:
        image = decode(data, max_pixels=20_000_000)
    except BadSample as error:
        assert error.reason in REASONS and error.message, row["file"]
        assert row["decodes"] != "1" or tags & STRICTER_THAN_PILLOW, f"{row['file']}: {error}"
    else:
        assert image.dtype == np.uint8 and image.flags.c_contiguous
        if row["decodes"] == "1":
            size = (int(row["height"]), int(row["width"]))
            turned = row["exif_orientation"] in ("5", "6", "7", "8") and row["fmt"] != "TIFF"
            assert image.shape == (*(size[::-1] if turned else size), 3), row["file"]
        assert "bomb" not in tags, row["file"]
    # 20 Mpixel as RGBA, its white page, the composite and the RGB result.
    assert _resident_kb("VmHWM") - before < 400_000, row["file"]


@pytest.mark.skipif(WEB is None, reason="the collection of web images is not on this machine")
def test_views_of_real_files_decoded_smaller_are_nearly_those_of_all_pixels() -> None:
    assert WEB is not None
    levels: dict[int, list[np.ndarray]] = {}
    with tarfile.open(WEB) as tar:
        files = [member for member in tar if member.isfile()][::4]
        for data in (tar.extractfile(member).read() for member in files):  # type: ignore[union-attr]
            whole = decode_jpeg(data, max_pixels=10**8)
            if whole is not None:
                box = (
                    whole.height // 7,
                    whole.width // 9,
                    whole.height * 4 // 5,
                    whole.width * 4 // 5,
                )
                reduction, change = difference(data, box, 32)
                levels.setdefault(reduction, []).append(change)
    assert {2, 4} <= set(levels)
    for changes in map(np.stack, (levels[reduction] for reduction in levels if reduction > 1)):
        assert changes.mean() <= 1 and (changes <= 8).mean() >= 0.999
