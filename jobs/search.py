"""Find the samples of a corpus that are most alike a picture or another sample, or that words
describe, by the embeddings that `jobs.export` wrote. Ray is not started.

An index is built once and kept beside the embeddings. Similarity is the cosine.
"""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any, ClassVar, Self

import pyarrow.compute as pc
from pydantic import BeforeValidator, Field, model_validator

from jobs.cluster import launch
from jobs.preview import to_png
from jobs.reporting.contact_sheet import Cell
from jobs.searching import answer_sheet, queries
from jobs.searching.index_of import index_of
from jobs.searching.made_by import Encoding
from jobs.searching.queries import Query
from jobs.searching.sample_rows import Sample
from jobs.setup.claims import check_writable
from jobs.setup.command_line import main
from jobs.setup.failures import InputError
from jobs.setup.inputs import listed_already
from jobs.setup.sections import JobConfig
from pipelines import schema
from pipelines.corpus.manifest import Manifest
from pipelines.embeddings.stored import Stored, open_stored
from pipelines.embeddings.stored_rows import scan, take
from pipelines.embeddings.vector_index import Built, nearest
from pipelines.storage import uris

_TOLD = (
    schema.SAMPLE_ID,
    schema.URI,
    schema.MEMBER,
    schema.CLIP,
    schema.START_S,
    schema.END_S,
)


def _several(value: object) -> object:
    if value is None:
        return []
    return value if isinstance(value, (list, tuple)) else [value]


_MOST = 64  # queries


class SearchConfig(JobConfig):
    """A search among embeddings."""

    example: ClassVar[str] = "embeddings=runs/a-embeddings query=photo.jpg out=alike.png"
    most_used: ClassVar[tuple[str, ...]] = ("embeddings", "query", "text", "k", "out")

    embeddings: str = Field(
        min_length=1, description="what jobs.export wrote: its out, a path or s3:// prefix"
    )
    query: Annotated[tuple[int | str, ...], BeforeValidator(_several)] = Field(
        (),
        max_length=_MOST,
        description=(
            "a picture's or video's file; or a sample of the corpus: its sample_id, its uri, or"
            " uri/member of a shard; or several"
        ),
        examples=["FILE", "ID", "[FILE,ID,...]"],
    )
    text: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], BeforeValidator(_several)] = (
        Field(
            (),
            max_length=_MOST,
            description=(
                'words to look for, as text="a dog on grass", or several texts; embeddings that'
                " were exported with form=joint"
            ),
            examples=["TEXT", "[TEXT,TEXT,...]"],
        )
    )
    k: int = Field(10, ge=1, le=1000, description="neighbours of each query")
    out: str | None = Field(
        None,
        pattern=r"(?i)\.png$",
        description="a picture of the answer to write, local or s3://; null: none",
        examples=["FILE.png"],
    )
    column: str | None = Field(
        None, min_length=1, description="of vectors, where there are several; null: the only one"
    )
    artifact: str | None = Field(
        None,
        min_length=1,
        description="the encoder of the embeddings, to embed files; null: where it lay then",
    )
    index: str | None = Field(
        None, min_length=1, description="folder of the index; null: index/ beside the embeddings"
    )
    seed: int = Field(0, ge=0, description="of the rows that an index is learnt from and measured")

    @model_validator(mode="after")
    def _asks(self) -> Self:
        if not self.query and not self.text:
            raise ValueError(
                "query is empty: give a file, or the sample_id or uri of a sample; or words as text"
            )
        return self


def search(config: SearchConfig) -> dict[str, Any]:
    """Answer the queries.

    Returns:
        `rows`, `index` (what building it found), `index_built`, `artifact_digest` and `answers`:
        of each query its `neighbours` with rank, similarity and place.

    Raises:
        InputError: there are no embeddings, of one encoder and one vector a sample; fewer than k of
            them; or a query is none.
    """
    place = launch.user_uri("embeddings", config.embeddings)
    launch.check_reachable("embeddings", place)
    stored = open_stored(place, config.column)
    stored.check_one_vector("a search compares", frames=True)
    if config.k > stored.num_rows:
        raise InputError(
            f"k {config.k} is more than the {stored.num_rows} rows of {stored.uri}: give fewer"
        )
    out = None if config.out is None else launch.absolute_out(config.out)
    if out is not None:
        check_writable("out", out.rpartition("/")[0])
    encoding = Encoding(stored, config.artifact)
    wanted = [
        *queries.resolve(config.query, stored, encoding.embed_files),
        *queries.of_texts(config.text, encoding.embed_texts),
    ]
    folder = None if config.index is None else launch.user_uri("index", config.index)
    index, built, is_new = index_of(stored, folder, config.seed)
    found = [nearest(index, query.vector, config.k, query.own) for query in wanted]
    answers = [_answer(query, pairs, stored) for query, pairs in zip(wanted, found, strict=True)]
    if out is not None:
        uris.write_bytes(out, to_png(_sheet(wanted, answers, stored, built)))
    return {
        "rows": stored.num_rows,
        "index": asdict(built),
        "index_built": is_new,
        "artifact_digest": stored.column.artifact_digest,
        "answers": answers,
        "picture": out,
        "result": "\n".join([*_lines(answers), out or _of_what(stored, built)]),
    }


def _answer(query: Query, found: list[tuple[int, float]], stored: Stored) -> dict[str, Any]:
    """Say what the neighbours of a query are."""
    rows = [row for row, _ in found]
    places = take(stored, rows, _TOLD).to_pylist() if found else []
    neighbours = [
        {"rank": rank, "similarity": round(cosine, 4), **place}
        for rank, ((_, cosine), place) in enumerate(zip(found, places, strict=True), start=1)
    ]
    return {
        "query": query.word,
        "in_corpus": bool(query.own),
        "neighbours": neighbours,
    }


def _lines(answers: list[dict[str, Any]]) -> list[str]:
    """Write the answers as text, a line a neighbour."""
    lines = []
    for answer in answers:
        lines.append(f"nearest to {answer['query']}")
        for one in answer["neighbours"]:
            member = f"/{one[schema.MEMBER]}" if one[schema.MEMBER] else ""
            start = one[schema.START_S]
            time = "" if start is None else f"  {start:.2f} to {one[schema.END_S]:.2f} s"
            head = f"{one['rank']:>4}  {one['similarity']:.3f}"
            lines.append(f"{head}  {one[schema.URI]}{member}{time}")
    return lines


def _of_what(stored: Stored, built: Built) -> str:
    """Say what was searched, and how well the index finds."""
    how = "exact search" if built.probes == 0 else f"recall@{built.k} {built.recall:.2f}"
    return f"{built.rows:,} embeddings, {how}: {stored.uri}"


def _sheet(
    wanted: Sequence[Query], answers: list[dict[str, Any]], stored: Stored, built: Built
) -> Any:
    """Draw the queries beside their neighbours."""
    listed = uris.join(stored.uri.rpartition("/")[0], "manifest")
    manifest = listed_already(stored.provenance.source, listed)
    per_video = _per_video(stored, manifest)
    drawn = []
    for query, answer in zip(wanted, answers, strict=True):
        first = _own_cell(query, manifest, per_video)
        neighbours = answer["neighbours"]
        samples = [
            Sample(one[schema.URI], one[schema.MEMBER], one[schema.CLIP]) for one in neighbours
        ]
        captions = [f"{one['similarity']:.3f}" for one in neighbours]
        seen = answer_sheet.read_pictures(samples, manifest, per_video)
        drawn.append((first, answer_sheet.cells(samples, captions, seen)))
    return answer_sheet.draw(drawn, _of_what(stored, built))


def _own_cell(query: Query, manifest: Manifest | None, per_video: int) -> Cell:
    """Draw what was looked for; of a text its words."""
    if query.sample is None:
        return answer_sheet.words(query.word)
    own = answer_sheet.read_pictures([query.sample], manifest, per_video)
    (cell,) = answer_sheet.cells([query.sample], [""], own)
    return cell


def _per_video(stored: Stored, manifest: Manifest | None) -> int:
    """Return how many clips each video was embedded as."""
    if manifest is not None:
        return max(1, manifest.per_video)
    clips = (table[schema.CLIP] for _, table in scan(stored, [schema.CLIP]))
    most = [pc.max(column).as_py() for column in clips]
    return 1 + max((clip for clip in most if clip is not None), default=0)


if __name__ == "__main__":
    sys.exit(main("search", __doc__ or "", lambda values: (SearchConfig, values), search))
