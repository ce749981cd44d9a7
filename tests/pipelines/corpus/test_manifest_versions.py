"""Versions of a manifest, from listings made up here: what a listing finds is tested beside."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import schema
from pipelines.corpus import manifest_writer as manifests
from pipelines.corpus.changes import Diff
from pipelines.corpus.listed_rows import LISTED, sample_id
from pipelines.corpus.manifest import Manifest, open_manifest, versions
from pipelines.corpus.manifest_writer import write_manifest
from pipelines.storage import spill, uris
from pipelines.storage.retries import StorageError
from tests.commands import ROOT
from tests.object_store import ObjectStore

Corpus = dict[tuple[str, str | None], str]  # uri and member to etag


def listing(corpus: Corpus, left_out: dict[str, str] | None = None) -> Iterator[pa.Table]:
    """A listing of a made-up corpus, in pieces."""
    rows = [row(uri, member, etag, None) for (uri, member), etag in corpus.items()]
    rows += [row(uri, None, "", reason) for uri, reason in (left_out or {}).items()]
    for start in range(0, len(rows), 7):
        yield pa.Table.from_pylist(rows[start : start + 7], schema=LISTED)


def row(uri: str, member: str | None, etag: str, left_out: str | None) -> dict[str, object]:
    offset = int(member) * 512 if member else 0
    identity = {
        "sample_id": sample_id(uri, member, etag),
        "uri": uri,
        "offset": offset,
        "length": 1,
    }
    return identity | {"member": member, "etag": etag, "media": "image", "left_out": left_out}


def loose(names: Iterator[int] | range, etag: str = "a") -> Corpus:
    return {(f"/c/{name}.jpg", None): etag for name in names}


def shard(name: str, members: int, etag: str = "a") -> Corpus:
    return {(f"/c/{name}.tar", str(number)): etag for number in range(members)}


def live(manifest: Manifest) -> set[tuple[str, str | None, str]]:
    """What a reader of row groups sees; each sample once, and as many as are counted."""
    tables = {
        (part, group): manifest.read_row_group(part, group)
        for part, group, _ in manifest.row_groups()
    }
    assert all(tables[part, group].num_rows == rows for part, group, rows in manifest.row_groups())
    rows = pa.concat_tables(tables.values())
    found = set(zip(*(rows[name].to_pylist() for name in ("uri", "member", "etag")), strict=True))
    assert len(found) == rows.num_rows == manifest.num_rows
    return found


def expected(corpus: Corpus) -> set[tuple[str, str | None, str]]:
    return {(uri, member, etag) for (uri, member), etag in corpus.items()}


def test_a_newer_version_holds_what_is_there_and_shares_what_stayed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(manifests, "PART_ROWS", 40)
    monkeypatch.setattr(manifests, "ROW_GROUP_ROWS", 10)
    uri = str(tmp_path / "m")
    corpora = [
        loose(range(100)) | shard("x", 6) | shard("y", 5),
        loose(range(5, 110)) | loose(range(20, 23), "b") | shard("x", 6) | shard("y", 5, "b"),
        loose(range(5, 110)) | loose(range(20, 25), "c") | shard("x", 6) | shard("z", 3),
        loose(range(0, 200, 2)) | shard("z", 3),
    ]
    made = [write_manifest(uri, "/c", listing(corpus)) for corpus in corpora]
    assert [manifest.diff for manifest in made] == [
        Diff(added=111, removed=0, changed=0, kept=0),
        Diff(added=10, removed=5, changed=8, kept=98),
        Diff(added=3, removed=5, changed=5, kept=106),
        Diff(added=48, removed=59, changed=3, kept=52),
    ]
    for version, (manifest, corpus) in enumerate(zip(made, corpora, strict=True), start=1):
        assert manifest == open_manifest(uri, version)
        assert live(manifest) == expected(corpus)
    for older, newer in pairwise(made):
        assert [part.path for part in newer.parts[: len(older.parts)]] == [
            part.path for part in older.parts
        ]
        for part, entry in enumerate(older.parts):
            for group in range(len(entry.row_groups)):
                kept = newer.read_row_group(part, group)["sample_id"].to_pylist()
                stored = older.read_row_group(part, group)["sample_id"].to_pylist()
                assert [i for i in stored if i in set(kept)] == kept
    assert any(rows == 0 for _, _, rows in made[-1].row_groups())


def test_an_unchanged_corpus_makes_no_version(tmp_path: Path) -> None:
    uri, corpus = str(tmp_path / "m"), loose(range(30)) | shard("x", 5)
    first = write_manifest(uri, "/c", listing(corpus))
    before = sorted(path for path in (tmp_path / "m").rglob("*"))
    assert (
        write_manifest(
            uri, "/c/", listing(dict(reversed(corpus.items())), {"/c/new.txt": "no image"})
        )
        == first
    )
    assert sorted(path for path in (tmp_path / "m").rglob("*")) == before


def test_a_file_that_comes_back_is_a_new_row(tmp_path: Path) -> None:
    uri, all_files = str(tmp_path / "m"), loose(range(9))
    for corpus in (all_files, loose(range(8)), all_files):
        assert live(write_manifest(uri, "/c", listing(corpus))) == expected(corpus)
    assert open_manifest(uri).diff == Diff(added=1, removed=0, changed=0, kept=8)


def test_what_is_listed_twice_is_one_sample(tmp_path: Path) -> None:
    corpus = loose(range(9)) | shard("x", 3)
    twice = [*listing(corpus), *listing(corpus)]
    manifest = write_manifest(str(tmp_path / "m"), "/c", twice)
    assert live(manifest) == expected(corpus) and manifest.diff.added == 12


@pytest.mark.parametrize(("limit", "value"), [("ROW_GROUP_ROWS", 4), ("SHARD_GROUP_BYTES", 4)])
def test_a_large_shard_makes_several_row_groups(
    limit: str, value: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(manifests, limit, value)  # each of these members has one byte
    manifest = write_manifest(str(tmp_path / "m"), "/c", listing(shard("x", 10) | shard("y", 3)))
    assert sorted(rows for _, _, rows in manifest.row_groups()) == [2, 3, 4, 4]
    for part, group, _ in manifest.row_groups():
        offsets = manifest.read_row_group(part, group)[schema.OFFSET].to_pylist()
        assert offsets == sorted(offsets)


def test_what_is_left_out_is_a_quarantine_table_of_each_version(tmp_path: Path) -> None:
    uri = str(tmp_path / "m")
    reasons = {
        "/c/a.txt": "no image (.txt)",
        "/c/b.txt": "no image (.txt)",
        "/c/c.jpg": "zero bytes",
    }
    first = write_manifest(uri, "/c", listing(loose(range(3)), reasons))
    second = write_manifest(uri, "/c", listing(loose(range(4))))
    assert first.left_out == {"no image (.txt)": 2, "zero bytes": 1} and second.left_out == {}
    table = pa.concat_tables(first.read_left_out())
    assert table.schema.equals(schema.QUARANTINE) and set(table["stage"].to_pylist()) == {"index"}
    assert dict(zip(table["uri"].to_pylist(), table["reason"].to_pylist(), strict=True)) == reasons
    assert list(second.read_left_out()) == []


def test_another_source_is_refused(tmp_path: Path) -> None:
    uri = str(tmp_path / "m")
    write_manifest(uri, "/c", listing(loose(range(3))))
    with pytest.raises(ValueError, match="is the manifest of /c, not of /d: choose another out"):
        write_manifest(uri, "/d", listing(loose(range(3))))


def test_a_source_found_empty_leaves_the_manifest_alone(tmp_path: Path) -> None:
    uri = str(tmp_path / "m")
    first = write_manifest(uri, "/c", listing(loose(range(3))))
    with pytest.raises(ValueError, match="holds no images"):
        write_manifest(uri, "/c", listing({}))
    assert open_manifest(uri) == first


def test_a_version_without_most_samples_is_made_only_where_that_is_allowed(tmp_path: Path) -> None:
    uri = str(tmp_path / "m")
    first = write_manifest(uri, "/c", listing(loose(range(10))))
    few = list(listing(loose(range(4))))
    with pytest.raises(ValueError, match="6 of"):
        write_manifest(uri, "/c", few, max_gone_fraction=0.5)
    assert open_manifest(uri) == first
    assert write_manifest(uri, "/c", few, max_gone_fraction=0.6).num_rows == 4


KILLED = """
import os, signal, sys
from pipelines.storage import uris
from pipelines.corpus.manifest_writer import write_manifest
from tests.pipelines.corpus.test_manifest_versions import listing, loose

def die(*_): os.kill(os.getpid(), signal.SIGKILL)

if sys.argv[2] == "before the version file": uris.create = die
else: os.link = die
write_manifest(sys.argv[1], "/c", listing(loose(range(30)), {"/c/a.txt": "no image"}))
"""


@pytest.mark.parametrize("moment", ["before the version file", "while it is written"])
def test_a_kill_leaves_the_last_version_and_the_next_run_goes_through(
    moment: str, tmp_path: Path
) -> None:
    uri = str(tmp_path / "m")
    first = write_manifest(uri, "/c", listing(loose(range(20))))
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, uri, moment], cwd=ROOT, env={**os.environ, "PYTHONPATH": "."}
    )
    assert killed.returncode == -signal.SIGKILL
    assert len(list((tmp_path / "m" / "parts").iterdir())) == 2  # an orphan
    assert (
        versions(uri) == [1]
        and open_manifest(uri) == first
        and live(first) == expected(loose(range(20)))
    )
    again = write_manifest(uri, "/c", listing(loose(range(30))))
    assert again.version == 2 and live(again) == expected(loose(range(30)))


def contend(uri: str) -> None:
    """Index while another indexing, of more files, runs from start to end."""

    def slow() -> Iterator[pa.Table]:
        yield from listing(loose(range(30)))
        write_manifest(uri, "/c", listing(loose(range(40))))

    with pytest.raises(ValueError, match="got its version 2 from somebody else meanwhile"):
        write_manifest(uri, "/c", slow())
    assert versions(uri) == [1, 2] and live(open_manifest(uri)) == expected(loose(range(40)))
    assert write_manifest(uri, "/c", listing(loose(range(30)))).diff == Diff(0, 10, 0, 30)


def test_of_two_indexers_at_once_one_wins_and_the_other_is_told(tmp_path: Path) -> None:
    write_manifest(str(tmp_path / "m"), "/c", listing(loose(range(20))))
    contend(str(tmp_path / "m"))


def test_of_two_indexers_of_a_bucket_one_wins_and_the_other_is_told(
    object_store: ObjectStore,
) -> None:
    object_store.make_bucket("contended")
    write_manifest("s3://contended/m", "/c", listing(loose(range(20))))
    contend("s3://contended/m")
    assert not uris.create("s3://contended/m/versions/000001.json", b"{}")
    assert uris.create("s3://contended/m/versions/000009.json", b"new")


def test_rows_come_back_from_disk_bucket_by_bucket(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(spill, "FLUSH_ROWS", 50)
    rows = spill.Spill(
        str(tmp_path / "s"), pa.schema([("hash", pa.int64()), ("text", pa.string())])
    )
    hashes = np.random.default_rng(0).integers(-(2**63), 2**63, 1000)
    for piece in np.split(hashes, 20):
        rows.add(pa.table({"hash": piece, "text": [str(i) for i in piece]}), spill.bucket_of(piece))
    buckets = [rows.read(bucket) for bucket in range(spill.NUM_BUCKETS)]
    found = [table["hash"].to_numpy() for table in buckets]
    assert sorted(np.concatenate(found)) == sorted(hashes) and rows.num_rows == 1000
    assert all(
        before.max() < after.min()
        for before, after in pairwise(found)
        if before.size and after.size
    )
    assert all(str(row["hash"]) == row["text"] for table in buckets for row in table.to_pylist())


def test_parquet_s_own_reader_sees_the_parts(tmp_path: Path) -> None:
    manifest = write_manifest(str(tmp_path / "m"), "/c", listing(loose(range(20))))
    assert pq.read_table(tmp_path / "m" / manifest.parts[0].path).schema.equals(schema.MANIFEST)


@pytest.mark.parametrize(
    ("source", "uri"),
    [
        ("/c", "http://127.0.0.1:8000/latest/meta-data"),
        ("/c", "s3://other/x.jpg"),
        ("/c", "/d/x.jpg"),
        ("/c", "/cc/x.jpg"),
        ("/c", "/c/../etc/passwd"),
        ("/c/*.jpg", "/etc/passwd"),
        ("s3://bucket/a", "s3://bucket/b/x.jpg"),
        ("s3://bucket/a", "s3a://bucket/a/x.jpg"),
        ("s3://bucket", "/bucket/x.jpg"),
    ],
)
def test_rows_outside_of_the_source_are_refused(source: str, uri: str, tmp_path: Path) -> None:
    inside = source.partition("*")[0].rstrip("/") + "/good.jpg"
    listed = pa.Table.from_pylist([row(name, None, "a", None) for name in (inside, uri)], LISTED)
    bad = write_manifest(str(tmp_path / "bad"), source, iter([listed]))
    good = write_manifest(str(tmp_path / "good"), source, iter([listed.slice(0, 1)]))
    assert good.read_row_group(0, 0)["uri"].to_pylist() == [inside]
    with pytest.raises(
        StorageError, match=f"names files outside of its source {re.escape(source)}"
    ):
        bad.read_row_group(0, 0)
