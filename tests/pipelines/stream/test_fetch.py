"""What is asked of the storage for rows that lie together, and what is said of those that are not
whole."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipelines import schema
from pipelines.media.contract import BadSample
from pipelines.stream import fetch as fetching
from pipelines.stream.fetch import GAP_BYTES, RUN_BYTES, fetch

SIZE = 3 * RUN_BYTES


@pytest.fixture
def shard(tmp_path: Path) -> tuple[str, bytes]:
    content = np.random.default_rng(0).integers(0, 256, SIZE, dtype=np.uint8).tobytes()
    path = tmp_path / "a.tar"
    path.write_bytes(content)
    return str(path), content


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The ranges that were read, (offset, length)."""
    ranges: list[tuple[int, int]] = []
    read = fetching._read_file

    def noted(uri: str, offset: int, length: int, etag: str | None) -> tuple[bytes, str | None]:
        ranges.append((offset, length))
        return read(uri, offset, length, etag)

    monkeypatch.setattr(fetching, "_read_file", noted)
    return ranges


def rows(uri: str, ranges: list[tuple[int, int]], etag: str | None = None) -> pa.Table:
    """Manifest rows of byte ranges; with an etag those of loose files."""
    values = [
        {
            schema.URI: uri,
            schema.OFFSET: offset,
            schema.LENGTH: length,
            "member": None if etag else f"{offset}.jpg",
            "etag": etag,
        }
        for offset, length in ranges
    ]
    return pa.Table.from_pylist(values, schema=schema.MANIFEST)


def test_members_side_by_side_are_read_at_once_in_any_order(
    shard: tuple[str, bytes], asked: list[tuple[int, int]]
) -> None:
    uri, content = shard
    ranges = [(512 + 2048 * index, 1000 + index) for index in range(300)]
    ranges = [ranges[index] for index in np.random.default_rng(1).permutation(300)] + [ranges[7]]
    assert fetch(rows(uri, ranges)) == [
        content[offset : offset + length] for offset, length in ranges
    ]
    assert asked == [(512, 2048 * 299 + 1299)]


def test_many_small_files_come_in_the_order_asked_for(tmp_path: Path) -> None:
    paths = [tmp_path / f"{index}.jpg" for index in range(3 * fetching.LOCAL_RUNS + 1)]
    for path in paths:
        path.write_bytes(path.name.encode())
    tables = [rows(str(path), [(0, len(path.name))], etag="x") for path in paths]
    paths[40].unlink()
    found = fetch(pa.concat_tables(tables))
    gone = found.pop(40)
    assert isinstance(gone, BadSample) and gone.reason == "missing"
    assert found == [path.name.encode() for path in paths if path is not paths[40]]


def test_what_lies_far_apart_or_is_to_be_verified_is_read_alone(
    shard: tuple[str, bytes], asked: list[tuple[int, int]], tmp_path: Path
) -> None:
    uri, content = shard
    (tmp_path / "b.tar").write_bytes(content[::-1])
    near, far = (0, 100), (100 + GAP_BYTES + 1, 100)
    table = pa.concat_tables([rows(uri, [far, near]), rows(str(tmp_path / "b.tar"), [near])])
    assert fetch(table) == [content[far[0] : far[0] + 100], content[:100], content[::-1][:100]]
    assert sorted(asked) == sorted([near, far, near])
    asked.clear()
    stat = Path(uri).stat()
    clips = rows(uri, [(0, SIZE), (0, SIZE)], etag=f"{stat.st_size}-{stat.st_mtime_ns}")
    assert fetch(clips, verify=True) == [content, content] and asked == [(0, SIZE), (0, SIZE)]
    asked.clear()
    assert fetch(clips) == [content, content] and asked == [(0, SIZE)]


def test_one_request_has_a_bounded_size(
    shard: tuple[str, bytes], asked: list[tuple[int, int]]
) -> None:
    uri, content = shard
    ranges = [(start, 4096) for start in range(0, SIZE, 8192)]
    assert b"".join(
        bytes(part) for part in fetch(rows(uri, ranges)) if isinstance(part, bytes)
    ) == b"".join(content[start : start + 4096] for start, _ in ranges)
    assert len(asked) == 3 and max(length for _, length in asked) <= RUN_BYTES


def test_each_member_of_a_damaged_shard_is_judged_alone(
    shard: tuple[str, bytes], asked: list[tuple[int, int]], tmp_path: Path
) -> None:
    uri, content = shard
    ranges = [(0, 100), (200, 0), (300, 100), (400, 100)]
    Path(uri).write_bytes(content[:350])
    found = fetch(rows(uri, ranges))
    assert len(asked) == 1 and found[0] == content[:100]
    assert [part.reason for part in found[1:] if isinstance(part, BadSample)] == [
        "empty",
        "truncated",
        "truncated",
    ]
    assert str(found[2]) == "truncated: 50 of 100 bytes are left"
    gone = fetch(rows(str(tmp_path / "gone.tar"), ranges[:2]))
    assert [part.reason for part in gone if isinstance(part, BadSample)] == ["missing", "missing"]
