"""What a listing finds, in this process; that Ray's tasks find the same is tested with the
manifest."""

import io
import os
import tarfile
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pytest

from pipelines.corpus import listing, local_files, object_keys
from pipelines.corpus.file_kinds import media_of
from pipelines.storage import uris
from pipelines.stream.fetch import fetch
from tests.object_store import ObjectStore

ODD = [
    *(
        "plain.jpg",
        "with space.jpg",
        "ünïcödé 画像.png",
        "-dash.jpg",
        "100%25.jpg",
        "a#b.jpg",
        "a?b.jpg",
        "new\nline.jpg",
    ),
    *(
        "[1].jpg",
        "{a,b}.jpg",
        "*.jpg",
        "semi;colon&.jpg",
        "quote'\".jpg",
        "UPPER.JPG",
        "two.dots.webp",
        "deep/er/x.gif",
    ),
]


def found(uri: str) -> list[dict[str, object]]:
    places = [asdict(place) for place in listing._places(uri, one_of_many=False)]
    return [
        row
        for table in listing._list_places(pa.Table.from_pylist(places))
        for row in table.to_pylist()
    ]


def samples(uri: str) -> list[str]:
    return sorted(str(row["member"] or row["uri"]) for row in found(uri) if row["left_out"] is None)


def left_out(uri: str, root: str) -> dict[str, object]:
    return {
        str(row["uri"]).removeprefix(root): row["left_out"]
        for row in found(uri)
        if row["left_out"] is not None
    }


def write(folder: Path, names: list[str]) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())


def make_tar(path: Path, members: list[tarfile.TarInfo | str], **options: int) -> None:
    with tarfile.open(path, "w", **options) as tar:  # type: ignore[call-overload]
        for member in members:
            info = member if isinstance(member, tarfile.TarInfo) else tarfile.TarInfo(member)
            data = b"" if not info.isfile() else f"<{info.name}>".encode("utf-8", "surrogateescape")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def test_media_is_told_by_the_suffix() -> None:
    assert (
        media_of("s3://b/a.JPEG") == "image"
        and media_of("a.txt") is None
        and media_of("jpg") is None
    )


def test_odd_names_are_names_in_folders(tmp_path: Path) -> None:
    write(tmp_path, ODD)
    assert samples(str(tmp_path)) == sorted(str(tmp_path / name) for name in ODD)


def test_odd_names_are_names_in_buckets(object_store: ObjectStore, tmp_path: Path) -> None:
    object_store.make_bucket("odd")
    fs = object_store.filesystem()
    names = [name for name in ODD if "\n" not in name]  # which SeaweedFS does not list
    for name in names:
        fs.pipe_file(f"odd/in ner/{name}", name.encode())
    fs.pipe_file("odd/in ner/.hid/den/x.jpg", b"x")
    fs.pipe_file("odd/in ner/.hid/den/y.jpg", b"y")
    fs.pipe_file("odd/in ner/.dot.jpg", b"x")
    fs.pipe_file("odd/in ner/empty.jpg", b"")
    fs.pipe_file("odd/other.jpg", b"x")
    assert samples("s3://odd/in ner") == sorted(f"s3://odd/in ner/{name}" for name in names)
    assert left_out("s3://odd/in ner", "s3://odd/in ner/") == {
        ".hid": "hidden folder",
        ".dot.jpg": "hidden file",
        "empty.jpg": "zero bytes",
    }
    rows = pa.Table.from_pylist(
        [row for row in found("s3://odd/in ner") if row["left_out"] is None]
    )
    assert fetch(rows) == [
        str(uri).removeprefix("s3://odd/in ner/").encode() for uri in rows["uri"].to_pylist()
    ]
    assert samples("s3://odd/*/w*.jpg") == ["s3://odd/in ner/with space.jpg"]
    assert samples("s3://odd/in*") == samples("s3://odd/in ner")
    # it is there, so it is no pattern
    assert samples("s3://odd/in ner/[1].jpg") == ["s3://odd/in ner/[1].jpg"]


def test_patterns_match_names_and_take_matching_folders_whole(tmp_path: Path) -> None:
    write(tmp_path, ["a/1.jpg", "a/2.png", "a/deep/3.jpg", "b/1.jpg", "[1].jpg", "c.jpg"])
    under = {
        "*/*.jpg": ["a/1.jpg", "b/1.jpg"],
        "a*": ["a/1.jpg", "a/2.png", "a/deep/3.jpg"],
        "**/*.jpg": ["[1].jpg", "a/1.jpg", "a/deep/3.jpg", "b/1.jpg", "c.jpg"],
        "a/**": ["a/1.jpg", "a/2.png", "a/deep/3.jpg"],
        "[1].jpg": ["[1].jpg"],
        "[ab]/1.*": ["a/1.jpg", "b/1.jpg"],
        "nothing*": [],
    }
    for pattern, expected in under.items():
        assert [
            os.path.relpath(path, tmp_path) for path in samples(f"{tmp_path}/{pattern}")
        ] == expected, pattern


def test_what_is_no_sample_is_told_with_the_reason(tmp_path: Path) -> None:
    write(tmp_path, [".hidden/a.jpg", ".dot.jpg", "notes.txt", "no_suffix", "good.jpg"])
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "circle").symlink_to(tmp_path)
    (tmp_path / "link.jpg").symlink_to(tmp_path / "good.jpg")
    (tmp_path / "broken.jpg").symlink_to(tmp_path / "gone.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / os.fsdecode(b"latin-\xe9.jpg")).write_bytes(b"x")
    assert samples(str(tmp_path)) == [f"{tmp_path}/good.jpg", f"{tmp_path}/link.jpg"]
    assert left_out(str(tmp_path), f"{tmp_path}/") == {
        ".hidden": "hidden folder",
        ".dot.jpg": "hidden file",
        "notes.txt": "no image (.txt)",
        "no_suffix": "no image (no suffix)",
        "empty.jpg": "zero bytes",
        "circle": "link to a folder",
        "broken.jpg": "broken link",
        "pipe.jpg": "no regular file",
        "latin-\\xe9.jpg": "name is not UTF-8",
    }


def test_any_filesystem_of_fsspec_is_listed() -> None:
    for name in ("a.jpg", "deep/er/b.jpg", ".hid/c.jpg", "deep/.hid/d.jpg", "e.txt"):
        uris.write_bytes(f"memory://corpus/{name}", name.encode())
    assert samples("memory://corpus") == ["memory://corpus/a.jpg", "memory://corpus/deep/er/b.jpg"]
    assert left_out("memory://corpus", "memory://corpus/") == {
        ".hid/c.jpg": "in a hidden folder",
        "deep/.hid/d.jpg": "in a hidden folder",
        "e.txt": "no image (.txt)",
    }
    assert samples("memory://corpus/*/er/*") == ["memory://corpus/deep/er/b.jpg"]


def test_a_large_folder_is_shared_among_tasks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(local_files, "SHARE_FILES", 10)
    write(tmp_path, [f"{i}.jpg" for i in range(95)] + [f"below/{i}.jpg" for i in range(3)])
    places = listing._places(str(tmp_path), one_of_many=False)
    assert [place.shares for place in places] == [10] * 10 + [1]
    assert len(samples(str(tmp_path))) == len(set(samples(str(tmp_path)))) == 98


@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_names_in_tars_are_names_and_nothing_is_opened(format: int, tmp_path: Path) -> None:
    long = (
        []
        if format == tarfile.USTAR_FORMAT
        else [f"{'long/' * 60}x.jpg", "ünï.jpg", "new\nline.jpg"]
    )
    names = [
        "../../etc/passwd.jpg",
        "/absolute.jpg",
        "./a b.jpg",
        "[1].png",
        "-x.jpg",
        "%.jpg",
        *long,
    ]
    make_tar(tmp_path / "x.tar", [*names, ".git/x.jpg", "._x.jpg", "notes.txt"], format=format)
    rows = [row for row in found(str(tmp_path / "x.tar")) if row["left_out"] is None]
    assert [row["member"] for row in rows] == names
    assert fetch(pa.Table.from_pylist(rows)) == [f"<{name}>".encode() for name in names]
    reasons = Counter(row["left_out"] for row in found(str(tmp_path / "x.tar")))
    assert reasons == {None: len(names), "hidden file": 2, "no image (.txt)": 1}


def test_members_that_are_no_byte_range_are_left_out(tmp_path: Path) -> None:
    link, folder, sparse = (
        tarfile.TarInfo("link.jpg"),
        tarfile.TarInfo("folder"),
        tarfile.TarInfo("hole.jpg"),
    )
    link.type, link.linkname, folder.type, sparse.type = (
        tarfile.SYMTYPE,
        "good.jpg",
        tarfile.DIRTYPE,
        tarfile.GNUTYPE_SPARSE,
    )
    make_tar(
        tmp_path / "x.tar",
        ["good.jpg", link, folder, sparse, os.fsdecode(b"latin-\xe9.jpg")],
        format=tarfile.GNU_FORMAT,
    )
    rows = {row["member"]: row["left_out"] for row in found(str(tmp_path / "x.tar"))}
    assert rows == {
        "good.jpg": None,
        "link.jpg": "link in a tar",
        "hole.jpg": "sparse file in a tar",
        "latin-\\xe9.jpg": None,
    }


def damaged(data: bytes) -> dict[str, bytes]:
    return {
        "cut in a header": data[:1200],
        "no header in the middle": data[:1024] + b"\xff" * 512 + data[1536:],
        "no tar": b"this is text " * 100,
        "html": b"<html>not found</html>",
    }


def test_a_damaged_tar_gives_what_is_whole_and_one_reason(tmp_path: Path) -> None:
    make_tar(tmp_path / "whole.tar", ["0.jpg", "1.jpg", "2.jpg"])
    data = (tmp_path / "whole.tar").read_bytes()
    outcomes = {}
    for name, content in damaged(data).items():
        (tmp_path / f"{name}.tar").write_bytes(content)
        outcomes[name] = [
            (row["member"], row["left_out"]) for row in found(str(tmp_path / f"{name}.tar"))
        ]
        assert all(
            row["message"] for row in found(str(tmp_path / f"{name}.tar")) if row["left_out"]
        ), name
    broken = (None, "damaged tar")
    assert outcomes == {
        "cut in a header": [("0.jpg", None), broken],
        "no header in the middle": [("0.jpg", None), broken],
        "no tar": [broken],
        "html": [broken],
    }
    (tmp_path / "cut.tar").write_bytes(data[:1540])
    assert [row["left_out"] for row in found(str(tmp_path / "cut.tar"))] == [
        None,
        "cut off with its tar",
        "damaged tar",
    ]
    (tmp_path / "empty.tar").touch()
    assert [row["left_out"] for row in found(str(tmp_path / "empty.tar"))] == ["zero bytes"]


def test_a_missing_shard_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"gone\.tar does not exist"):
        found(f"{tmp_path}/gone.tar")


@pytest.fixture
def flat_bucket(object_store: ObjectStore) -> Callable[[str, list[str]], str]:
    """Fills a bucket with small objects."""

    def fill(bucket: str, names: list[str]) -> str:
        object_store.make_bucket(bucket)
        fs = object_store.filesystem()
        fs.pipe({f"{bucket}/{name}": b"x" for name in names})
        return f"s3://{bucket}"

    return fill


def test_a_flat_prefix_is_cut_by_what_its_names_begin_with(
    monkeypatch: pytest.MonkeyPatch, flat_bucket: Callable[[str, list[str]], str]
) -> None:
    page = object_keys._page
    monkeypatch.setattr(
        object_keys, "_page", lambda *args, **options: page(*args, **{"MaxKeys": 10} | options)
    )
    names = [f"flat/img_{i:04d}.jpg" for i in range(0, 120, 4)] + [
        "flat/img-x.jpg",
        "flat/img/y.jpg",
        "flat/ü.jpg",
    ]
    source = flat_bucket("flat", [*names, "flatter/z.jpg"])
    places = listing._places(f"{source}/flat", one_of_many=False)
    assert len(places) > 10
    assert samples(f"{source}/flat") == sorted(f"{source}/{name}" for name in names)
    assert samples(f"{source}/flat/img_01*") == sorted(
        f"{source}/{name}" for name in names if "img_01" in name
    )
    assert samples(source) == sorted(f"{source}/{name}" for name in [*names, "flatter/z.jpg"])


def test_archived_objects_are_left_out_until_they_are_restored(
    monkeypatch: pytest.MonkeyPatch, flat_bucket: Callable[[str, list[str]], str]
) -> None:
    page = object_keys._page
    classes = {"a.jpg": "STANDARD", "b.jpg": "GLACIER", "c.jpg": "DEEP_ARCHIVE", "d.jpg": "GLACIER"}
    classes["e.jpg"] = "GLACIER_IR"

    def archiving(*args: object, **options: object) -> dict[str, object]:
        """What Amazon's listings say beside what the suite's server says."""
        attributes = options.pop("OptionalObjectAttributes", [])
        answer = page(*args, **options)  # type: ignore[arg-type]
        for info in answer.get("Contents", []):
            info["StorageClass"] = classes[info["Key"]]
            if attributes and info["Key"] == "d.jpg":
                info["RestoreStatus"] = {"IsRestoreInProgress": False, "RestoreExpiryDate": "soon"}
        return answer

    monkeypatch.setattr(object_keys, "_page", archiving)
    source = flat_bucket("archive", list(classes))
    assert [name[-5:] for name in samples(source)] == ["a.jpg", "d.jpg", "e.jpg"]
    assert left_out(source, f"{source}/") == {
        "b.jpg": "archived (GLACIER)",
        "c.jpg": "archived (DEEP_ARCHIVE)",
    }
