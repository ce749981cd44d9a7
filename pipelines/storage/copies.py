"""Copies local files to URIs."""

import shutil

from pipelines.storage import uris

_AT_ONCE = 1 << 20


def put_file(path: str, uri: str) -> None:
    """Copy a local file to a URI, where it appears whole or not at all."""
    with open(path, "rb") as source, uris.open_atomic(uri) as target:
        shutil.copyfileobj(source, target, _AT_ONCE)
