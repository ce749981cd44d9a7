"""The one place that turns a URI into a filesystem: local paths, `file://`, `s3://` and whatever
else fsspec knows.

Credentials come from each client's standard chain (environment, profile, instance role), never from
a URI.
"""

import os
import sys
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

import fsspec
import pyarrow.fs
from fsspec import AbstractFileSystem

from pipelines.storage import conditional, retries, temporaries
from pipelines.storage.addresses import (
    AZURE_PROTOCOLS,
    S3_PROTOCOLS,
    SYNTHETIC,
    absolute,
    account,
    beside,
    is_local,
    is_s3,
    join,
)
from pipelines.storage.conditional import CannotReplace
from pipelines.storage.retries import Refused, StorageError

NEIGHBOURS = 8  # objects tried before a refusal is taken for the whole bucket's
PROBE_S = 60.0  # whoever waits for a job to begin wants to hear that an endpoint is wrong
_EXTRAS = {"gs": "gcs", "gcs": "gcs"} | dict.fromkeys(AZURE_PROTOCOLS, "azure")


def _open(uri: str, retry_s: float | None = None) -> AbstractFileSystem:
    """Open the filesystem of an absolute URI."""
    return _opened("file" if is_local(uri) else urlsplit(uri).scheme, account(uri), retry_s)


@lru_cache(maxsize=32)
def _opened(protocol: str, account: str | None, retry_s: float | None) -> AbstractFileSystem:
    patient: type[AbstractFileSystem]
    options: dict[str, str] = {"host": account} if account else {}
    try:  # clients take half a second to import: not for local files
        if protocol in S3_PROTOCOLS:
            from pipelines.storage.clients.s3 import PatientS3 as patient
        elif protocol in ("gs", "gcs"):
            from pipelines.storage.clients.gcs import PatientGCS as patient
        elif protocol in AZURE_PROTOCOLS:
            from pipelines.storage.clients.azure_blobs import PatientAzure as patient
        elif protocol == SYNTHETIC:
            from pipelines.storage.clients.rendered_scenes import SceneFiles as patient
        else:
            return fsspec.filesystem(protocol, use_listings_cache=False)
    except (ValueError, ImportError) as error:
        extra = _EXTRAS.get(protocol)
        what = f"pip install 'afield[{extra}]'" if extra else str(error)
        raise ValueError(f"{protocol}:// has no filesystem here: {what}") from error
    # For libraries that open URIs themselves as well.
    fsspec.register_implementation(protocol, patient, clobber=True)
    return patient(retry_s=retry_s, **options)


def forget_clients() -> None:
    """Drop open clients, so that the next one reads the environment's credentials anew."""
    _opened.cache_clear()
    if s3 := sys.modules.get("pipelines.storage.clients.s3"):
        s3.forget_clients()
        s3.PatientS3.clear_instance_cache()
    if gcs := sys.modules.get("pipelines.storage.clients.gcs"):
        gcs.PatientGCS.clear_instance_cache()
    if azure := sys.modules.get("pipelines.storage.clients.azure_blobs"):
        azure.PatientAzure.clear_instance_cache()


def filesystem(uri: str) -> tuple[AbstractFileSystem, str]:
    """Open the filesystem of a URI.

    Returns:
        The fsspec filesystem (one per protocol and process) and the path within it.

    Raises:
        ValueError: credentials in the URI, or a protocol nobody serves.
    """
    uri = absolute(uri)
    fs = _open(uri)
    return fs, str(fs._strip_protocol(uri))


def arrow_filesystem(uri: str) -> tuple[pyarrow.fs.FileSystem, str]:
    """Open a URI for libraries that want pyarrow's filesystems, as Ray Train for its storage.

    What it opens is read far ahead: Parquet is opened by `parquet_files`.
    """
    fs, path = filesystem(uri)
    if is_local(uri):
        return pyarrow.fs.LocalFileSystem(), path
    return pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(fs)), path


def exists(uri: str) -> bool:
    """Tell whether a file or folder is there."""
    fs, path = filesystem(uri)
    with _named(uri):
        return bool(fs.exists(path))


def size(uri: str) -> int:
    """Return the bytes of a file.

    Raises:
        FileNotFoundError: there is none.
    """
    fs, path = filesystem(uri)
    with _named(uri):
        return int(fs.size(path))


def read_bytes(uri: str) -> bytes:
    """Read a whole small file."""
    fs, path = filesystem(uri)
    # Else s3fs asks for the size first, to read a large one in pieces.
    at_once = {"max_concurrency": 1} if is_s3(uri) else {}
    with _named(uri):
        return bytes(fs.cat_file(path, **at_once))


def read_range(uri: str, start: int, stop: int) -> bytes:
    """Read bytes [start, stop) of an object in object storage, fewer where it is shorter.

    Raises:
        FileNotFoundError: there is no such object.
        StorageError: anything else.
    """
    if start == stop:
        return b""
    fs, path = filesystem(uri)
    if is_s3(uri):
        from pipelines.storage.clients import s3

        return s3.read_range(fs, path, start, stop)
    with _named(uri):
        return bytes(fs.cat_file(path, start=start, end=stop))


def hands_out_others(uri: str) -> bool:
    """Tell, where an object is refused, whether others beside it can be read."""
    try:
        return any(_is_readable(other) for other in _neighbours(uri))
    except (OSError, ValueError):
        return False


def _neighbours(uri: str) -> list[str]:
    """List a few files beside one, of a bucket also the first ones."""
    fs, path = filesystem(uri)
    if is_s3(uri):
        from pipelines.storage.clients import s3

        paths = s3.neighbours(fs, path, NEIGHBOURS)
        return [f"{urlsplit(uri).scheme}://{other}" for other in paths]
    found = (entry for entry in fs.ls(fs._parent(path), detail=True) if entry["type"] == "file")
    paths = [str(entry["name"]) for entry in found if entry["size"] and entry["name"] != path]
    return [beside(uri, other) for other in paths[:NEIGHBOURS]]


def _is_readable(uri: str) -> bool:
    try:
        return bool(read_range(uri, 0, 1))
    except (Refused, PermissionError, FileNotFoundError):
        return False


@contextmanager
def _named(uri: str) -> Iterator[None]:
    """Turn what a client of an object store raises into an error that names the URI; what is
    missing stays so."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise
    except Exception as error:
        if is_local(uri) or not retries.is_of_client(error):
            raise
        failure = retries.failure(uri, error)
    else:
        return
    raise failure from None  # the client's own error may hold the access key


def write_bytes(uri: str, data: bytes) -> None:
    """Write a file whole: a reader sees the old content or the new, never a part."""
    with open_atomic(uri) as file:
        file.write(data)


def create(uri: str, data: bytes) -> bool:
    """Write a small file whole, if and only if there is none.

    Returns:
        True where it is there with this content; of several writers at once, whose data differ,
        exactly one is told so. False: somebody was first, and the file is theirs.
    """
    fs, path = filesystem(uri)
    if is_local(uri):
        return conditional.create_file(path, data)
    with _named(uri):
        return conditional.create_object(fs, path, data)


def read_tagged(uri: str) -> tuple[bytes, str]:
    """Read a whole small file and its etag, for `replace_if`.

    Raises:
        FileNotFoundError: there is none.
    """
    fs, path = filesystem(uri)
    if is_s3(uri):
        with _named(uri):
            return conditional.read_object(fs, path)
    data = read_bytes(uri)
    return data, conditional.tag_of(data)


def replace_if(uri: str, data: bytes, etag: str) -> bool:
    """Write a small file whole, if and only if it has not changed since it was read.

    Of two in object storage that write the same content, both may be told that they did: let what
    is written name its writer.

    Args:
        uri: A local file or an object of S3.
        data: The new content.
        etag: Of the content to be replaced, from `read_tagged`.

    Returns:
        False where there is another content by now, or none.

    Raises:
        CannotReplace: the store cannot do that: it is not S3, or an old Ceph.
    """
    fs, path = filesystem(uri)
    if is_local(uri):
        return conditional.replace_file(path, data, etag)
    if not is_s3(uri):
        raise CannotReplace(uri, "this store cannot replace an object by its etag: use S3")
    with _named(uri):
        return conditional.replace_object(fs, path, data, etag)


@contextmanager
def open_atomic(uri: str) -> Iterator[Any]:
    """Open a binary file for writing that appears under its name only when the block ends without
    an error."""
    fs, path = filesystem(uri)
    if not is_local(uri):
        with _named(uri), fs.open(path, "wb") as file:
            try:
                yield file
            except BaseException:
                file.discard()
                file.closed = True  # else leaving the block would upload what there is
                raise
        return
    with temporaries.writing(path) as file:
        yield file
        if not file.closed:
            file.flush()
        os.replace(file.name, path)


def list_names(uri: str) -> list[str]:
    """List the names in a folder, sorted; none where there is no such folder.

    Files that a killed process did not finish are left out.
    """
    fs, path = filesystem(uri)
    try:
        with _named(uri):
            entries = (
                fs.ls(path, detail=False, refresh=True)
                if not is_local(uri)
                else fs.ls(path, detail=False)
            )
    except (FileNotFoundError, NotADirectoryError):
        return []
    # An empty folder that was written to before may be listed as an object of its own.
    within = (entry for entry in map(str, entries) if entry.rstrip("/") != path.rstrip("/"))
    names = (entry.rstrip("/").rpartition("/")[2] for entry in within)
    return sorted(name for name in names if not temporaries.is_left_behind(name))


def list_folders(uri: str) -> list[str]:
    """List the folders in a folder, links to folders among them, sorted."""
    fs, path = filesystem(uri)
    if is_local(uri):
        if not os.path.isdir(path):
            return []
        with os.scandir(path) as found:
            return sorted(entry.name for entry in found if entry.is_dir())
    try:
        with _named(uri):
            entries = fs.ls(path, detail=True, refresh=True)
    except (FileNotFoundError, NotADirectoryError):
        return []
    folders = [entry["name"] for entry in entries if entry["type"] == "directory"]
    return sorted(str(name).rstrip("/").rpartition("/")[2] for name in folders)


def reachable(uri: str) -> str | None:
    """Probe a URI with one cheap request.

    Returns:
        None when it is there (an object, a folder or a prefix); otherwise one line: what is wrong
        and the remedy.
    """
    fs, path = filesystem(uri)
    if not is_local(uri):
        fs = _open(absolute(uri), min(PROBE_S, retries.retry_s()))
    try:
        with _named(uri):
            if fs.exists(path) if is_local(uri) else fs.ls(path, refresh=True) is not None:
                return None
    except FileNotFoundError:
        pass
    except StorageError as error:
        return str(error)
    return f"{uri} does not exist: check the path, or the bucket's name"


def remove(uri: str) -> None:
    """Delete a file, or a folder with all that is in it; nothing where there is none."""
    fs, path = filesystem(uri)
    with _named(uri):
        if fs.exists(path):
            fs.rm(path, recursive=True)


def remove_file(uri: str) -> None:
    """Delete a file, in one request.

    Raises:
        FileNotFoundError: there is none, where the storage says so.
    """
    fs, path = filesystem(uri)
    with _named(uri):
        fs.rm_file(path)


def unwritable(uri: str) -> str | None:
    """Try whether files can be written below a URI; nothing stays behind.

    Returns:
        None where they can; otherwise one line: what is wrong and the remedy.
    """
    if is_local(uri):
        return _unwritable_folder(filesystem(uri)[1])
    probe = join(uri, f".write-{uuid.uuid4().hex[:8]}")
    _, path = filesystem(probe)
    fs = _open(absolute(uri), min(PROBE_S, retries.retry_s()))
    try:
        with _named(probe):
            fs.pipe_file(path, b"")
            fs.rm_file(path)
    except (FileNotFoundError, StorageError) as error:
        return f"{uri} cannot be written: {getattr(error, 'what', error)}"
    return None


def _unwritable_folder(path: str) -> str | None:
    there = path
    while not os.path.lexists(there):
        there = os.path.dirname(there)
    if not os.path.isdir(there):
        return f"{path} cannot be a folder: {there} is a file"
    try:
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(b"0")
    except OSError as error:
        return f"{path} cannot be written: {error.strerror}; choose another place"
    return None
