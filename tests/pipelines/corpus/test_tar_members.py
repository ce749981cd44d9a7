"""What unpacking a tar would give is what its members are: joined, nested, squeezed and doubled
ones too."""

import gzip
import io
import tarfile
from pathlib import Path
from typing import Any

import pytest

from pipelines.corpus import tar_members
from pipelines.corpus.entry import EVERYTHING, Selection
from pipelines.corpus.listed_rows import rows_of
from pipelines.corpus.listing import look_up

Content = list[tuple[str | tarfile.TarInfo, bytes]]


def packed(content: Content, format: int = tarfile.GNU_FORMAT) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=format) as tar:
        for name, data in content:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return file.getvalue()


def listed(path: Path, data: bytes, selection: Selection = EVERYTHING) -> list[dict[str, Any]]:
    path.write_bytes(data)
    return list(rows_of([look_up(str(path))], selection))


def told(rows: list[dict[str, Any]]) -> list[tuple[str | None, str | None]]:
    return [(row["member"], row["left_out"]) for row in rows]


def contents(rows: list[dict[str, Any]]) -> list[bytes]:
    kept = [row for row in rows if row["left_out"] is None]
    return [
        Path(row["uri"]).read_bytes()[row["offset"] : row["offset"] + row["length"]] for row in kept
    ]


def test_members_of_archives_joined_end_to_end_are_all_found(tmp_path: Path) -> None:
    first, second = packed([("a.jpg", b"1"), ("b.jpg", b"2")]), packed([("c.jpg", b"3")])
    rows = listed(tmp_path / "x.tar", first + second + packed([]) + b"\0" * 99_328 + second)
    assert contents(rows) == [b"1", b"2", b"3"]
    assert told(rows)[2] == ("c.jpg", tar_members.REPLACED)  # by the same of the last archive
    alone = listed(tmp_path / "y.tar", first)
    assert [row["offset"] for row in alone] == [row["offset"] for row in rows[:2]]


def test_what_lies_behind_the_end_and_is_no_tar_is_accounted_for(tmp_path: Path) -> None:
    whole = packed([("a.jpg", b"1")])
    rows = listed(tmp_path / "x.tar", whole + b"\0" * 512 + b"something else" * 50)
    assert told(rows) == [("a.jpg", None), (None, "data behind the end of a tar")]
    assert (rows[1]["offset"], rows[1]["length"]) == (len(whole) + 512, 700)
    damaged = bytearray(packed([("c.jpg", b"3"), ("d.jpg", b"4")]))
    damaged[1024 + 100] ^= 0xFF
    rows = listed(tmp_path / "y.tar", whole + bytes(damaged))
    assert told(rows) == [("a.jpg", None), ("c.jpg", None), (None, "damaged tar")]


def test_a_member_that_ends_behind_its_file_is_cut_off(tmp_path: Path) -> None:
    data = packed([("a.jpg", b"1"), ("b.jpg", b"2" * 2000)])
    rows = listed(tmp_path / "x.tar", data[: 3 * 512 + 1000])
    assert told(rows)[:2] == [("a.jpg", None), ("b.jpg", "cut off with its tar")]
    assert contents(rows) == [b"1"]


def test_of_members_of_one_name_the_last_counts_and_the_others_are_told(tmp_path: Path) -> None:
    data = packed([("x.jpg", b"1"), ("y.jpg", b"2"), ("./x.jpg", b"3"), ("x.jpg", b"")])
    rows = listed(tmp_path / "x.tar", data)
    again = tar_members.REPLACED
    assert told(rows) == [
        ("x.jpg", again),
        ("y.jpg", None),
        ("./x.jpg", again),
        ("x.jpg", "zero bytes"),
    ]


def test_many_members_of_one_name_leave_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tar_members, "HELD_ROWS", 4)
    data = packed([(f"{i % 5}.jpg", str(i).encode()) for i in range(23)])
    rows = listed(tmp_path / "x.tar", data)
    assert contents(rows) == [b"18", b"19", b"20", b"21", b"22"] and len(rows) == 23


def test_squeezed_and_nested_archives_say_so(tmp_path: Path) -> None:
    inner = packed([("a.jpg", b"1")])
    nested = listed(tmp_path / "x.tar", packed([("n01.tar", inner), ("n02.tgz", b"x")]))
    assert told(nested) == [
        ("n01.tar", "tar in a tar (unpack it)"),
        ("n02.tgz", "compressed tar in a tar (unpack it)"),
    ]
    squeezed = listed(tmp_path / "y.tar", gzip.compress(inner))
    assert told(squeezed) == [(None, "compressed tar (unpack it to .tar)")]
    by_name = listed(tmp_path / "z.tar.gz", gzip.compress(inner))
    assert told(by_name) == [(None, "compressed tar (unpack it to .tar)")]
    (picture,) = listed(tmp_path / "p.tar", b"\xff\xd8\xff\xe0" + b"x" * 600)
    assert (picture["left_out"], picture["message"]) == (
        "damaged tar",
        "image under the name of a tar",
    )


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_links_and_sparse_files_and_long_names_are_accounted_for(
    format: int, tmp_path: Path
) -> None:
    links = [tarfile.TarInfo("hard.jpg"), tarfile.TarInfo("soft.jpg")]
    links[0].type, links[1].type = tarfile.LNKTYPE, tarfile.SYMTYPE
    links[0].linkname = links[1].linkname = "a.jpg"
    pipe = tarfile.TarInfo("pipe.jpg")
    pipe.type = tarfile.FIFOTYPE
    long = f"{'far/' * 80}z.jpg"
    rows = listed(
        tmp_path / "x.tar",
        packed(
            [("a.jpg", b"1"), *((link, b"") for link in links), (pipe, b""), (long, b"2")], format
        ),
    )
    assert told(rows) == [
        ("a.jpg", None),
        ("hard.jpg", "link in a tar"),
        ("soft.jpg", "link in a tar"),
        ("pipe.jpg", "no regular file"),
        (long, None),
    ]
    assert contents(rows) == [b"1", b"2"]
    assert rows[1]["message"] == "hard link to a.jpg"


def test_only_the_members_asked_for_are_taken(tmp_path: Path) -> None:
    names = ["a/1.jpg", "./a/2.jpg", "a/1.mask.png", "b/3.jpeg", "b/notes.txt", "b/.x.jpg"]
    data = packed([(name, name.encode()) for name in names])
    rows = listed(tmp_path / "x.tar", data, Selection(members=("*.jpg", "b/*.jpeg")))
    assert told(rows) == [
        ("a/1.jpg", None),
        ("./a/2.jpg", None),
        ("a/1.mask.png", "not in source.members"),
        ("b/3.jpeg", None),
        ("b/notes.txt", "not in source.members"),
        ("b/.x.jpg", "hidden file"),
    ]
    assert len(contents(listed(tmp_path / "x.tar", data, Selection(members=("a/*",))))) == 3
