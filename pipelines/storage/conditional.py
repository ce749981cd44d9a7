"""Writes that happen only if nobody else wrote first: for what several processes must agree on.

Local files, and objects whose store knows `If-None-Match` and `If-Match`. Amazon's S3, SeaweedFS
and moto know both; Ceph 16 only the first: it refuses every `If-Match`.
"""

import fcntl
import hashlib
import os
from pathlib import Path
from typing import Any

from fsspec import AbstractFileSystem

from pipelines.storage import retries, temporaries
from pipelines.storage.retries import StorageError

_REFUSED = 412  # PreconditionFailed
_MISSING = 404


class CannotReplace(StorageError):
    """The store cannot replace an object by its etag."""


def create_file(path: str, data: bytes) -> bool:
    """Write a local file if there is none; False where there is one."""
    with temporaries.writing(path) as file:
        file.write(data)
        file.flush()
        try:
            os.link(file.name, path)  # unlike a rename, refused where there is one already
        except FileExistsError:
            return False
    return True


def create_object(fs: AbstractFileSystem, path: str, data: bytes) -> bool:
    """Write an object if there is none; False where there is one with other content."""
    try:
        fs.pipe_file(path, data, mode="create")
    except OSError as error:
        # SeaweedFS and Ceph word their refusal so that s3fs does not recognise it.
        if not isinstance(error, FileExistsError) and retries.answer(error)[0] != _REFUSED:
            raise
        # The answer to our own write may have been lost, and the client have tried again.
        return bytes(fs.cat_file(path)) == data
    return True


def replace_file(path: str, data: bytes, etag: str) -> bool:
    """Replace a local file that still has an etag; False where it has another one."""
    lock = os.path.join(os.path.dirname(path), f".{os.path.basename(path)}.lock")
    try:
        with open(lock, "ab") as guard, temporaries.writing(path) as file:
            fcntl.flock(guard, fcntl.LOCK_EX)
            if tag_of(Path(path).read_bytes()) != etag:
                return False
            file.write(data)
            file.flush()
            os.replace(file.name, path)
    except FileNotFoundError:
        return False
    return True


def tag_of(data: bytes) -> str:
    """Return the etag of a local file."""
    return hashlib.sha256(data).hexdigest()


def read_object(fs: Any, path: str) -> tuple[bytes, str]:
    """Read an object of S3 and its etag in one request."""
    bucket, _, key = path.partition("/")
    answer = fs.call_s3("get_object", Bucket=bucket, Key=key)
    return bytes(answer["Body"].getvalue()), str(answer["ETag"])


def replace_object(fs: Any, path: str, data: bytes, etag: str) -> bool:
    """Replace an object of S3 that still has an etag; False where it has another one.

    Raises:
        CannotReplace: the store refuses although the etag is right.
    """
    bucket, _, key = path.partition("/")
    try:
        fs.call_s3("put_object", Bucket=bucket, Key=key, Body=data, IfMatch=etag)
    except Exception as error:
        status = retries.answer(error)[0]
        if status == _MISSING or isinstance(error, FileNotFoundError):
            return False
        if status != _REFUSED:
            raise
    else:
        return True
    try:
        found, now = read_object(fs, path)
    except FileNotFoundError:  # SeaweedFS refuses what is not there as it does another etag
        return False
    if now == etag:
        raise CannotReplace(f"s3://{path}", "this store cannot replace an object by its etag")
    return found == data  # else the answer to our own write was lost, and the client tried again
