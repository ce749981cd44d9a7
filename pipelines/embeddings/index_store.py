"""Where the index of stored embeddings lies, and whether it is still theirs.

<folder>/<digest of the parts>.faiss    as faiss writes it
<folder>/index.json                     which file counts, and what building it found; written last
"""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import faiss

from pipelines.embeddings.vector_index import Built
from pipelines.storage import uris
from pipelines.storage.copies import get_file, put_file
from pipelines.storage.lease import Held

RECORD = "index.json"
FORMAT = 1


def load(folder: str, digest: str) -> tuple[faiss.Index, Built] | None:
    """Read the index of these parts; None where there is none, or one of other parts."""
    for _ in range(2):  # whoever builds it anew deletes the one before
        found = _record(folder)
        if found.get("format") != FORMAT or found.get("parts_digest") != digest:
            return None
        try:
            return _read(uris.join(folder, found["file"])), Built(**found["built"])
        except FileNotFoundError:
            continue
        except RuntimeError:  # faiss's word for a damaged file
            return None
    return None


def save(folder: str, digest: str, index: faiss.Index, built: Built, mine: Held) -> None:
    """Write an index so that a reader sees the one before or this one, and delete the one before.

    Args:
        folder: Where.
        digest: Of the parts that it was built of.
        index: What to write.
        built: What building it found.
        mine: The lease on the folder.
    """
    name = f"{digest[:16]}.faiss"
    with tempfile.TemporaryDirectory(prefix="afield-index-") as scratch:
        local = os.path.join(scratch, name)
        faiss.write_index(index, local)
        put_file(local, uris.join(folder, name), mine.fence)
    record = {
        "format": FORMAT,
        "parts_digest": digest,
        "file": name,
        "faiss": faiss.__version__,
        "built": asdict(built),
    }
    mine.fence.check()
    uris.write_bytes(uris.join(folder, RECORD), json.dumps(record, indent=2).encode())
    for other in uris.list_names(folder):
        if other.endswith(".faiss") and other != name:
            uris.remove(uris.join(folder, other))


def _record(folder: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(uris.read_bytes(uris.join(folder, RECORD)))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    return found


def _read(uri: str) -> faiss.Index:
    with _local(uri) as path:
        # mapped where it may be: of an inverted file, a query reads a few cells
        return faiss.read_index(path, faiss.IO_FLAG_MMAP_IFC)


@contextmanager
def _local(uri: str) -> Iterator[str]:
    """Give the path of a file, or of a copy of an object."""
    if uris.is_local(uri):
        _, path = uris.filesystem(uri)
        if not os.path.exists(path):
            raise FileNotFoundError(path)
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="afield-index-") as scratch:
        copy = os.path.join(scratch, "index.faiss")
        get_file(uri, copy)
        yield copy
