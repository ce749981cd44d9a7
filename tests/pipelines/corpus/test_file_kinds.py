"""Files without a telling name: told by what they hold, wherever they lie."""

import io
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from pipelines.corpus import file_kinds, listing
from pipelines.corpus.entry import Entry, Selection
from pipelines.corpus.file_kinds import HEAD_BYTES, kind_of, kind_of_bytes
from pipelines.corpus.left_out import (
    MOST_COUNTED,
    MOST_REASONS,
    OTHERS,
    LeftOut,
    most_frequent,
    told,
)
from pipelines.corpus.listed_rows import LISTED, rows_of
from pipelines.media import image
from tests.object_store import ObjectStore
from tests.pipelines.media import videos

BY_CONTENT = Selection(any_name=True)
# Pillow writes these; what it only reads comes by its first bytes alone.
WRITTEN = ("JPEG", "PNG", "WEBP", "TIFF", "GIF", "AVIF", "JPEG2000", "QOI", "ICNS", "DDS", "SGI")
WRITTEN += ("ICO", "PPM", "PCX", "BMP")


def picture(format: str = "JPEG") -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format)
    return file.getvalue()


def test_every_format_that_is_decoded_is_told_by_its_first_bytes() -> None:
    assert {*file_kinds._STILL, "TGA", "DIB"} == set(image._FORMATS)
    for format in WRITTEN:
        found = kind_of_bytes(picture(format)[:HEAD_BYTES])
        assert found == ("image", file_kinds._STILL[format]), format
        assert kind_of(f"x.{found.suffix}").what == "image", format
    assert kind_of_bytes(b"8BPS\0\x01" + b"\0" * 20) == ("image", "psd")
    assert kind_of_bytes(b"\0\0\0\0\x11\xaf\x01\0" + b"\0" * 8) == ("image", "fli")


@pytest.mark.parametrize(
    ("kind", "codec", "suffix"),
    [
        ("mp4", "libx264", "mp4"),
        ("mov", "libx264", "mov"),
        ("matroska", "libx264", "mkv"),
        ("webm", "libvpx", "mkv"),
        ("avi", "mpeg4", "avi"),
        ("mpegts", "libx264", "ts"),
        ("flv", "flv", "flv"),
        ("asf", "mpeg4", "wmv"),
    ],
)
def test_every_container_of_videos_is_told_by_its_first_bytes(
    kind: str, codec: str, suffix: str
) -> None:
    head = videos.video(5, kind=kind, codec=codec)[:HEAD_BYTES]
    assert kind_of_bytes(head) == ("video", suffix)
    assert kind_of(f"x.{suffix}").what == "video"
    assert kind_of_bytes(b"\0\0\x01\xba" + b"D" * 60) == ("video", "mpg")


def test_what_is_none_of_them_is_nothing() -> None:
    heads = [b"", b"\xff", b"hello there, this is a text", b"%PDF-1.7", b"PK\x03\x04", b"{}" * 300]
    heads += [b"\0" * 512, b"<html>" * 80, b"OggS" + b"\0" * 60, b"\0\0\0\x18ftypheic" + b"\0" * 40]
    assert [kind_of_bytes(head).what for head in heads] == [""] * len(heads)


def with_members(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return file.getvalue()


def odd_files() -> dict[str, bytes]:
    inside = {"0": picture(), "1.dat": b"text", "2": with_members({"x.jpg": b"x"}), "3": b""}
    return {
        "photo": picture(),
        "pic.jpg?id=1": picture("PNG"),
        "clip.bin": videos.video(5),
        "shard": with_members(inside),
        "notes.txt": b"text",
        "nothing": b"",
        "named.jpg": b"its name says what it is, and decoding will tell",
        ".hidden": picture(),
    }


def outcomes(uri: str, selection: Selection) -> dict[str, tuple[str, str | None]]:
    places = listing._places(uri, one_of_many=False)
    entries = [entry for place in places for entry in listing._entries(place)]
    return {
        f"{row['uri'].removeprefix(uri)[1:]}:{row['member'] or ''}": (row["media"], row["left_out"])
        for row in rows_of(entries, selection)
    }


NAMELESS = {
    "photo:": ("image", None),
    "pic.jpg?id=1:": ("image", None),
    "clip.bin:": ("video", None),
    "shard:0": ("image", None),
    "shard:1.dat": ("", "no image (by name or content)"),
    "shard:2": ("", "tar in a tar (unpack it)"),
    "shard:3": ("", "zero bytes"),
    "notes.txt:": ("", "no image (by name or content)"),
    "nothing:": ("", "zero bytes"),
    "named.jpg:": ("image", None),
    ".hidden:": ("", "hidden file"),
}


def test_files_of_any_name_are_told_by_their_content(tmp_path: Path) -> None:
    for name, data in odd_files().items():
        (tmp_path / name).write_bytes(data)
    assert outcomes(str(tmp_path), BY_CONTENT) == NAMELESS
    by_name = outcomes(str(tmp_path), Selection())
    assert [name for name, (_, reason) in by_name.items() if reason is None] == ["named.jpg:"]
    gone = Entry(str(tmp_path / "gone"), 5, "e")
    (row,) = rows_of([gone], BY_CONTENT)
    assert row["left_out"] == "gone while it was listed"


def test_objects_of_any_name_are_told_by_their_content(object_store: ObjectStore) -> None:
    object_store.make_bucket("nameless")
    fs = object_store.filesystem()
    fs.pipe({f"nameless/in/{name}": data for name, data in odd_files().items()})
    assert outcomes("s3://nameless/in", BY_CONTENT) == NAMELESS


def test_a_list_of_reasons_is_bounded_and_adds_up() -> None:
    counts = Counter({f"no image (.s{i})": 1 for i in range(5000)}) + Counter({"zero bytes": 7})
    few = most_frequent(counts)
    assert len(few) == MOST_REASONS + 1 and sum(few.values()) == 5007
    assert next(iter(few.items())) == ("zero bytes", 7) and few[OTHERS] == 5000 - MOST_REASONS + 1
    assert most_frequent(few) == few and len(told(counts)) < 1000
    assert most_frequent({"a": 2}) == {"a": 2} and told({"a": 2}) == "2 x a"


def test_thousands_of_reasons_are_counted_in_bounded_memory(tmp_path: Path) -> None:
    entries = [Entry(f"/c/{i}.s{i}", 1, "e") for i in range(3 * MOST_COUNTED)]
    entries += [Entry(f"/c/{i}.txt", 1, "e") for i in range(50)]
    rows = list(rows_of(entries, Selection()))
    with LeftOut(str(tmp_path / "left_out"), run="test") as left_out:
        for start in range(0, len(rows), 500):
            left_out.add(pa.Table.from_pylist(rows[start : start + 500], schema=LISTED))
            assert len(left_out.counts) <= MOST_COUNTED + 500
    assert left_out.counts.total() == len(rows) and left_out.counts["no image (.txt)"] == 50
