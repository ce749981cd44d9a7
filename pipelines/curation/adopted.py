"""Begins a manifest at another place, so that curation leaves the first as it is."""

from pipelines.corpus.manifest import Manifest, open_manifest, record_uri, versions
from pipelines.storage import uris

_COPY_BYTES = 1 << 24


def adopt(source: Manifest, out: str) -> Manifest:
    """Begin a manifest at another place with a version of this one, so that curation leaves the
    first as it is; gives it as it lies there.

    The files are copied, the version's record last. What is there already is taken as it is.
    """
    if versions(out):
        return open_manifest(out)
    for path in (
        *(part.path for part in source.parts),
        source.tombstones,
        source.left_out_table,
        source.taken_out,
    ):
        if path is not None and not uris.exists(uris.join(out, path)):
            _copy(uris.join(source.uri, path), uris.join(out, path))
    uris.create(
        record_uri(out, source.version), uris.read_bytes(record_uri(source.uri, source.version))
    )
    return open_manifest(out)


def _copy(uri: str, target: str) -> None:
    fs, path = uris.filesystem(uri)
    with fs.open(path, "rb") as file, uris.open_atomic(target) as written:
        while data := file.read(_COPY_BYTES):
            written.write(data)
