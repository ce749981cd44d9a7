"""Copies files between this machine and URIs."""

import shutil

from pipelines.storage import uris
from pipelines.storage.lease import Fence

_AT_ONCE = 1 << 20


def put_file(path: str, uri: str, fence: Fence | None = None) -> None:
    """Copy a local file to a URI, where it appears whole or not at all.

    Args:
        path: Of the local file.
        uri: Where to.
        fence: Of the lease on the folder: where it is lost, nothing appears.
    """
    with open(path, "rb") as source, uris.open_atomic(uri) as target:
        shutil.copyfileobj(source, target, _AT_ONCE)
        if fence:
            fence.check()


def get_file(uri: str, path: str) -> None:
    """Copy what a URI holds to a local file."""
    fs, place = uris.filesystem(uri)
    with fs.open(place, "rb") as source, open(path, "wb") as target:
        shutil.copyfileobj(source, target, _AT_ONCE)


def copy_file(uri: str, other: str) -> None:
    """Copy what a URI holds to another URI, where it appears whole or not at all."""
    fs, place = uris.filesystem(uri)
    with fs.open(place, "rb") as source, uris.open_atomic(other) as target:
        shutil.copyfileobj(source, target, _AT_ONCE)
