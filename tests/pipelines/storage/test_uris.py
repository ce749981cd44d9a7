import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

from pipelines.storage import uris
from tests.object_store import ObjectStore


def test_credentials_in_a_uri_are_refused_and_not_repeated() -> None:
    with pytest.raises(ValueError, match="carries credentials") as caught:
        uris.absolute("s3://AKIAKEY:topsecret@bucket/prefix")
    assert "topsecret" not in str(caught.value) and "AKIAKEY" not in str(caught.value)
    assert "s3://***@bucket/prefix" in str(caught.value)


def test_relative_paths_become_absolute_and_object_uris_stay(
    monkeypatch: pytest.MonkeyPatch, tmp_path: os.PathLike[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert uris.absolute("runs/a") == os.path.join(str(tmp_path), "runs/a")
    assert uris.absolute("s3://bucket/runs/a") == "s3://bucket/runs/a"
    assert uris.absolute("file:///data/x") == "/data/x"


def write_half(uri: str) -> None:
    with uris.open_atomic(uri) as file:
        file.write(b"half of the new")
        raise RuntimeError


def test_an_interrupted_write_leaves_the_old_content(tmp_path: os.PathLike[str]) -> None:
    uri = f"{tmp_path}/folder/file"
    uris.write_bytes(uri, b"old")
    with pytest.raises(RuntimeError):
        write_half(uri)
    assert uris.read_bytes(uri) == b"old"
    assert uris.list_names(f"{tmp_path}/folder") == ["file"]


def test_an_interrupted_write_to_object_storage_leaves_the_old_content(
    object_store: ObjectStore,
) -> None:
    object_store.make_bucket("atomic")
    uris.write_bytes("s3://atomic/folder/file", b"old")
    with pytest.raises(RuntimeError):
        write_half("s3://atomic/folder/file")
    assert uris.read_bytes("s3://atomic/folder/file") == b"old"
    assert uris.list_names("s3://atomic/folder") == ["file"]


def test_an_interrupted_upload_in_parts_leaves_no_part_behind(
    object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    fs, _ = uris.filesystem(object_store.make_bucket("parts"))
    smallest = 5 << 20  # that S3 takes, but for the last
    monkeypatch.setattr(fs, "default_block_size", smallest)

    def write_two() -> None:
        with uris.open_atomic("s3://parts/file") as file:
            file.write(bytes(2 * smallest + 1))
            unfinished.append(len(fs.call_s3("list_multipart_uploads", Bucket="parts")["Uploads"]))
            raise RuntimeError

    unfinished: list[int] = []
    with pytest.raises(RuntimeError):
        write_two()
    assert unfinished == [1]
    assert not fs.call_s3("list_multipart_uploads", Bucket="parts").get("Uploads")
    assert not uris.exists("s3://parts/file")


@pytest.mark.parametrize("where", ["local", "bucket"])
def test_of_two_who_create_a_file_the_second_is_told(
    where: str, tmp_path: Path, object_store: ObjectStore
) -> None:
    uri = str(tmp_path / "file")
    if where == "bucket":
        uri = f"{object_store.make_bucket('created')}/file"
    assert uris.create(uri, b"first")
    assert not uris.create(uri, b"second")
    assert uris.read_bytes(uri) == b"first"


@pytest.mark.parametrize("where", ["local", "bucket"])
def test_of_two_who_replace_what_they_read_the_second_is_told(
    where: str, tmp_path: Path, object_store: ObjectStore
) -> None:
    uri = str(tmp_path / "file")
    if where == "bucket":
        uri = f"{object_store.make_bucket('replaced')}/file"
    with pytest.raises(FileNotFoundError):
        uris.read_tagged(uri)
    uris.write_bytes(uri, b"old")
    data, etag = uris.read_tagged(uri)
    assert data == b"old"

    assert uris.replace_if(uri, b"first", etag)
    assert not uris.replace_if(uri, b"second", etag)
    assert uris.read_bytes(uri) == b"first"
    assert uris.replace_if(uri, b"third", uris.read_tagged(uri)[1])
    assert uris.read_bytes(uri) == b"third"

    uris.remove(uri)
    assert not uris.replace_if(uri, b"fourth", etag)
    assert not uris.exists(uri)


@pytest.mark.parametrize("where", ["local", "bucket"])
def test_of_many_who_add_to_a_file_none_loses_a_line(
    where: str, tmp_path: Path, object_store: ObjectStore
) -> None:
    uri = str(tmp_path / "lines")
    if where == "bucket":
        uri = f"{object_store.make_bucket('lines')}/lines"
    uris.write_bytes(uri, b"")

    def add(writer: int) -> None:
        for number in range(3):
            while True:
                data, etag = uris.read_tagged(uri)
                if uris.replace_if(uri, data + f"{writer} {number}\n".encode(), etag):
                    break

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(add, range(4)))
    lines = sorted(uris.read_bytes(uri).decode().splitlines())
    assert lines == [f"{writer} {number}" for writer in range(4) for number in range(3)]


def test_a_missing_bucket_and_wrong_credentials_are_told_apart(
    object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    object_store.make_bucket("known")
    uris.write_bytes("s3://known/a/b", b"x")
    assert uris.reachable("s3://known/a") is None
    assert "does not exist" in str(uris.reachable("s3://unknown-bucket/a"))
    assert "does not exist" in str(uris.reachable("s3://known/nothing"))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    uris.forget_clients()
    try:
        problem = str(uris.reachable("s3://known/a"))
    finally:
        monkeypatch.undo()
        uris.forget_clients()
    assert "refused" in problem and "credentials" in problem and "wrong" not in problem


def test_a_folder_that_is_empty_again_holds_nothing(object_store: ObjectStore) -> None:
    object_store.make_bucket("emptied")
    fs, path = uris.filesystem("s3://emptied/out/file")
    uris.write_bytes("s3://emptied/out/file", b"x")
    fs.rm_file(path)
    assert uris.list_names("s3://emptied/out") == []
    assert uris.unwritable("s3://emptied/new") is None
    assert uris.list_names("s3://emptied/new") == []


KILLED = """
import os, signal, sys
from pipelines.storage import uris
die = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
os.replace = os.link = die
if sys.argv[2] == "write": uris.write_bytes(sys.argv[1], open(sys.argv[3], "rb").read())
else: uris.create(sys.argv[1], open(sys.argv[3], "rb").read())
"""


@pytest.mark.parametrize("how", ["write", "create"])
def test_what_a_kill_left_unfinished_is_seen_by_no_reader(how: str, tmp_path: Path) -> None:
    folder = tmp_path / "parts"
    whole = str(folder / "whole.parquet")
    folder.mkdir()
    pq.write_table(pa.table({"x": range(4)}), whole)
    script = [sys.executable, "-c", KILLED, str(folder / "part.parquet"), how, whole]
    killed = subprocess.run(script, cwd=Path(__file__).parents[3], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(os.listdir(folder)) == 2  # it died between the last byte and the name
    assert uris.list_names(str(folder)) == ["whole.parquet"]
    assert pyarrow.dataset.dataset(folder).count_rows() == 4
    (folder / "0-3.jsonl.0123abcd.tmp").write_bytes(b"{")  # as it was named before
    assert uris.list_names(str(folder)) == ["whole.parquet"]
