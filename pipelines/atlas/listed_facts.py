"""What a manifest knows of samples: the version that listed them first, and when their files were
changed."""

import re

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines import schema
from pipelines.atlas.colours import numbers_of
from pipelines.corpus.manifest import Manifest

# Of a local file an etag is its size and its time; that of an object store says no time.
_LOCAL_TAG = r"^\d+-(?P<ns>\d{15,19})$"


def facts_of(manifest: Manifest, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Look samples up.

    Args:
        manifest: The corpus.
        ids: (n,) int64, each once.

    Returns:
        The version of each, (n,) int64, -1 where it is not listed; and the time of its file in
        seconds since 1970, (n,) float64, NaN where that is not known.
    """
    order = np.argsort(ids)
    ascending = ids[order]
    version = np.full(len(ids), -1)
    modified = np.full(len(ids), np.nan)
    for part, row_group, rows in manifest.row_groups():
        if not rows:
            continue
        table = manifest.read_row_group(part, row_group, [schema.SAMPLE_ID, "etag"])
        known = table[schema.SAMPLE_ID].to_numpy()
        place = np.minimum(np.searchsorted(ascending, known), len(ids) - 1)
        among = ascending[place] == known
        point = order[place[among]]
        version[point] = _first_version(manifest.parts[part].path)
        modified[point] = _seconds(table["etag"])[among]
    return version, modified


def _first_version(path: str) -> int:
    """Return the version that wrote a part: its name begins with it."""
    found = re.match(r"(\d+)-", path.rpartition("/")[2])
    return int(found[1]) if found else -1


def _seconds(etags: pa.ChunkedArray) -> np.ndarray:
    found = pc.extract_regex(etags.combine_chunks(), _LOCAL_TAG)
    return numbers_of(pa.chunked_array([pc.struct_field(found, "ns").cast(pa.int64())])) / 1e9
