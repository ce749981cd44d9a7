"""What is looked for: samples of the corpus, found by their ids or addresses, and files, embedded
as the corpus was."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs.cluster import launch
from jobs.searching.sample_rows import Sample
from jobs.setup.failures import InputError
from pipelines import schema
from pipelines.embeddings.stored import Stored, vectors_of
from pipelines.embeddings.stored_rows import scan, take
from pipelines.embeddings.vector_index import unit
from pipelines.storage import uris

_COLUMNS = [schema.SAMPLE_ID, schema.URI, schema.MEMBER, schema.CLIP]
EmbedFiles = Callable[[Sequence[Sample]], np.ndarray]
EmbedTexts = Callable[[Sequence[str]], np.ndarray]


@dataclass(frozen=True)
class Query:
    """One query.

    Attributes:
        word: As it was given.
        vector: (D,) float32 of length 1.
        sample: Its picture; None: it is a text.
        own: Rows of the embeddings that are the query itself; left out of the answer.
    """

    word: str
    vector: np.ndarray
    sample: Sample | None
    own: frozenset[int]


def resolve(words: Sequence[str | int], stored: Stored, embed_files: EmbedFiles) -> list[Query]:
    """Find the queries among the embeddings, and embed those that are files.

    Args:
        words: Sample ids, addresses of samples (`uri`, or `uri/member` of a shard), or files.
        stored: The embeddings.
        embed_files: Embeds files; called if there are any.

    Raises:
        InputError: one is neither a sample nor a file, or cannot be used.
    """
    names = [launch.user_uri("query", word) if isinstance(word, str) else word for word in words]
    found = _find(names, stored)
    files = {name: Sample(uri=name) for name in names if isinstance(name, str) and not found[name]}
    for name in names:
        if not found[name] and (isinstance(name, int) or not uris.exists(name)):
            what = "no sample_id" if isinstance(name, int) else "neither a file nor a sample"
            words = ', or words as text="..."' if stored.column.form == "joint" else ""
            raise InputError(
                f"query {name} is {what} of {stored.uri}: give a sample_id or uri that is there, or"
                f" a picture's file{words}"
            )
    vectors = dict(zip(files, embed_files(list(files.values())), strict=True)) if files else {}
    queries = []
    for word, name in zip(words, names, strict=True):
        if name in files:
            vector, sample = vectors[name], files[str(name)]
        else:
            vector, sample = _of_rows(found[name], stored)
        scaled, _ = unit(vector[None])
        if not len(scaled):
            raise InputError(f"query {word}: its embedding is zero or not finite; give another one")
        queries.append(Query(str(word), scaled[0], sample, frozenset(found[name])))
    return queries


def of_texts(texts: Sequence[str], embed_texts: EmbedTexts) -> list[Query]:
    """Embed texts as queries.

    Args:
        texts: What is looked for, in words.
        embed_texts: Embeds them; called if there are any.

    Raises:
        InputError: the embeddings are none that texts are compared with.
    """
    if not texts:
        return []
    vectors = embed_texts(texts)
    return [
        Query(text, vector, None, frozenset()) for text, vector in zip(texts, vectors, strict=True)
    ]


def _find(names: Sequence[str | int], stored: Stored) -> dict[str | int, list[int]]:
    """Find the rows of each name; several where a video has several clips, none where it is no
    sample."""
    found: dict[str | int, list[int]] = {name: [] for name in names}
    by_id = pa.array([name for name in found if isinstance(name, int)], pa.int64())
    by_uri = _addresses([name for name in found if isinstance(name, str)])
    columns = _COLUMNS[:3] if by_uri else _COLUMNS[:1]
    for start, table in scan(stored, columns):
        if len(by_id):
            hits = pc.is_in(table[schema.SAMPLE_ID], value_set=by_id)
            for row in np.flatnonzero(hits.to_numpy()).tolist():
                found[table[schema.SAMPLE_ID][row].as_py()].append(start + row)
        if by_uri:
            hits = pc.is_in(table[schema.URI], value_set=pa.array(by_uri))
            for row in np.flatnonzero(hits.to_numpy()).tolist():
                members = by_uri[table[schema.URI][row].as_py()]
                name = members.get(table[schema.MEMBER][row].as_py())
                if name is not None:
                    found[name].append(start + row)
    return found


def _addresses(names: Sequence[str]) -> dict[str, dict[str | None, str]]:
    """Return what a name may mean: uri -> member -> name. Any folder of it may be a shard."""
    meant: dict[str, dict[str | None, str]] = {}
    for name in names:
        meant.setdefault(name, {})[None] = name
        uri, _, member = name.rpartition("/")
        while uri and not uri.endswith(("/", ":")):
            meant.setdefault(uri, {})[member] = name
            uri, _, last = uri.rpartition("/")
            member = f"{last}/{member}"
    return meant


def _of_rows(rows: list[int], stored: Stored) -> tuple[np.ndarray, Sample]:
    """Average the embeddings of a sample's rows: the clips of a video."""
    table = take(stored, rows, [*_COLUMNS, stored.name])
    scaled, _ = unit(vectors_of(table[stored.name].combine_chunks()))
    mean = scaled.mean(0) if len(scaled) else np.zeros(stored.dim, np.float32)
    first: dict[str, Any] = table.select(_COLUMNS).slice(0, 1).to_pylist()[0]
    return mean, Sample(first[schema.URI], first[schema.MEMBER], first[schema.CLIP])
