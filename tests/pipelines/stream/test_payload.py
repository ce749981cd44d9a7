"""What is brought of the files of rows, how much of it at once, and what is not brought at all."""

import gc
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipelines import schema
from pipelines.media.contract import BadSample, Limits
from pipelines.stream import fetch as fetching
from pipelines.stream import payload
from pipelines.stream.fetch import Fetched
from pipelines.stream.payload import FileInParts, Payload, payloads, pieces
from pipelines.stream.stage_times import Stopwatch

Row = dict[str, object]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that were read."""
    names: list[str] = []
    read = fetching._read_file

    def noted(uri: str, offset: int, length: int, etag: str | None) -> tuple[bytes, str | None]:
        names.append(Path(uri).name)
        return read(uri, offset, length, etag)

    monkeypatch.setattr(fetching, "_read_file", noted)
    return names


def row(file: Path, **changed: object) -> Row:
    stat = file.stat()
    values = {
        "sample_id": 1,
        "uri": str(file),
        "offset": 0,
        "length": stat.st_size,
        "etag": f"{stat.st_size}-{stat.st_mtime_ns}",
        "media": "image",
    }
    return values | changed


def block(*rows: Row) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=schema.MANIFEST)


def sized(folder: Path, *sizes: int) -> list[Path]:
    """Write files of these sizes, all of different bytes."""
    files = [folder / f"{number:03d}.jpg" for number in range(len(sizes))]
    for number, (file, size) in enumerate(zip(files, sizes, strict=True)):
        file.write_bytes(np.random.default_rng(number).bytes(size))
    return files


def brought(
    blocks: list[pa.Table], *, limits: Limits | None = None, verify: bool = False
) -> list[Payload]:
    return list(payloads(iter(blocks), limits or Limits(), Stopwatch(), verify=verify))


def test_a_file_beyond_max_bytes_is_not_read_and_the_others_are(
    tmp_path: Path, asked: list[str]
) -> None:
    files = sized(tmp_path, 100, 101, 99)
    first, large, last = brought([block(*map(row, files))], limits=Limits(max_bytes=100))
    assert (first, last) == (files[0].read_bytes(), files[2].read_bytes())
    assert isinstance(large, BadSample) and large.reason == "too_large"
    assert "101 bytes, the limit is 100" in large.message
    assert sorted(asked) == ["000.jpg", "002.jpg"]


def test_no_more_is_on_its_way_than_the_memory_allows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(payload, "PIECE_BYTES", 1000)
    files = sized(tmp_path, *[400] * 40)
    taken = 0

    def blocks() -> Iterator[pa.Table]:
        nonlocal taken
        for file in files:
            taken += 1
            yield block(row(file))

    stream = payloads(blocks(), Limits(), Stopwatch())
    for number, file in enumerate(files):
        assert next(stream) == file.read_bytes()
        assert (taken - number - 1) * 400 <= 2 * 1000 + 400  # what is in use, and on its way


def test_small_files_are_brought_far_enough_ahead_to_keep_the_threads_busy(tmp_path: Path) -> None:
    files = sized(tmp_path, *[10] * 200)
    taken: list[Path] = []

    def blocks() -> Iterator[pa.Table]:
        for file in files:
            taken.append(file)
            yield block(row(file))

    next(payloads(blocks(), Limits(), Stopwatch()))
    assert payload.ROWS_AHEAD < len(taken) <= payload.ROWS_AHEAD + 2


def test_a_stream_that_is_dropped_half_way_is_collected_without_waiting_for_the_storage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = threading.Event()
    fetch = payload.fetch

    def late(rows: pa.Table, *, verify: bool = False) -> list[Fetched]:
        assert rows[schema.URI][0].as_py() == str(files[0]) or answers.wait(60)
        return fetch(rows, verify=verify)

    monkeypatch.setattr(payload, "fetch", late)
    monkeypatch.setattr(payload, "PIECE_BYTES", 100)
    files = sized(tmp_path, *[100] * 6)
    stream = payloads(iter([block(row(file)) for file in files]), Limits(), Stopwatch())
    assert next(stream) == files[0].read_bytes()
    cycle: list[object] = [stream]
    cycle.append(cycle)
    del stream, cycle
    collector = threading.Thread(target=gc.collect)
    collector.start()
    collector.join(20)
    waited = collector.is_alive()
    answers.set()
    collector.join()
    assert not waited


def test_a_piece_is_cut_where_it_would_be_too_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(payload, "PIECE_BYTES", 1000)
    rows = [row(file) for file in sized(tmp_path, *[300] * 10, 5000, 300)]
    cut = list(pieces(iter([block(*rows)])))
    sizes = [table[schema.LENGTH].to_pylist() for table in cut]
    assert [size for piece in sizes for size in piece] == [300] * 10 + [5000, 300]
    assert all(sum(piece[:-1]) <= 1000 for piece in sizes) and len(sizes) >= 4


def test_blocks_of_members_are_joined_and_those_of_loose_files_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(payload, "JOINED_BYTES", 1000)
    (shard,) = sized(tmp_path, 4000)
    members = [
        block(row(shard, offset=o, length=300, member=f"{o}.jpg")) for o in range(0, 3000, 300)
    ]
    loose = [block(row(shard, length=300))] * 3
    joined = [table.num_rows for table in pieces(iter(members))]
    assert joined == [4, 4, 2]
    assert [table.num_rows for table in pieces(iter(loose))] == [1, 1, 1]


def test_a_file_that_changed_is_bad_where_that_is_to_be_verified(tmp_path: Path) -> None:
    files = sized(tmp_path, 100, 100)
    rows = block(*map(row, files))
    files[0].write_bytes(bytes(100))
    os.utime(files[0], ns=(0, 1))
    assert brought([rows]) == [bytes(100), files[1].read_bytes()]
    changed, same = brought([rows], verify=True)
    assert isinstance(changed, BadSample) and changed.reason == "checksum"
    assert same == files[1].read_bytes()


def test_a_long_video_is_left_where_it_lies_unless_it_is_to_be_verified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: list[str]
) -> None:
    monkeypatch.setattr(payload, "WHOLE_BYTES", 1000)
    short, long, image = sized(tmp_path, 1000, 1001, 1001)
    rows = block(row(short, media="video"), row(long, media="video"), row(image))
    whole, parts, picture = brought([rows])
    assert isinstance(parts, FileInParts) and parts.size == 1001
    assert (whole, picture) == (short.read_bytes(), image.read_bytes())
    assert sorted(asked) == ["000.jpg", "002.jpg"]
    assert parts.read(500, 20) == long.read_bytes()[500:520]
    assert brought([rows], verify=True)[1] == long.read_bytes()
