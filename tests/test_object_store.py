"""The suite's S3 server serves the two clients the project uses."""

import io

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq
import pytest

from tests.object_store import ObjectStore


@pytest.fixture(scope="module")
def bucket(object_store: ObjectStore) -> str:
    return object_store.make_bucket("round-trip").removeprefix("s3://")


def test_what_s3fs_writes_pyarrow_reads(object_store: ObjectStore, bucket: str) -> None:
    payload = bytes(range(256)) * 1000
    object_store.filesystem().pipe_file(f"{bucket}/folder/bytes.bin", payload)
    # the endpoint is in the environment
    arrow, path = pyarrow.fs.FileSystem.from_uri(f"s3://{bucket}/folder/bytes.bin")
    with arrow.open_input_file(path) as file:
        assert file.read() == payload


def test_what_pyarrow_writes_s3fs_reads(object_store: ObjectStore, bucket: str) -> None:
    table = pa.table({"x": list(range(1000))})
    arrow, path = pyarrow.fs.FileSystem.from_uri(f"s3://{bucket}/table.parquet")
    pq.write_table(table, path, filesystem=arrow)
    back = pq.read_table(io.BytesIO(object_store.filesystem().cat_file(f"{bucket}/table.parquet")))
    assert back.equals(table)


def test_reader_may_read_but_not_write(object_store: ObjectStore, bucket: str) -> None:
    object_store.filesystem().pipe_file(f"{bucket}/seen", b"1")
    reader = object_store.filesystem(object_store.reader_env)
    assert reader.cat_file(f"{bucket}/seen") == b"1"
    with pytest.raises(PermissionError):
        reader.pipe_file(f"{bucket}/refused", b"2")


def test_wrong_secret_is_refused(object_store: ObjectStore, bucket: str) -> None:
    with pytest.raises(PermissionError):
        object_store.filesystem({**object_store.env, "AWS_SECRET_ACCESS_KEY": "wrong"}).ls(bucket)
