"""A corpus of hostile texts: each line is a sample of the stream, or named with its reason."""

import json
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from augment.texts.text_views import TEXT, text_views
from models.texts.tokenizer import decode
from pipelines import schema
from pipelines.corpus.entry import Selection
from pipelines.corpus.left_out import told
from pipelines.corpus.listed_rows import LISTED, rows_of
from pipelines.corpus.listing import entries
from pipelines.corpus.manifest import Manifest, open_manifest
from pipelines.corpus.manifest_writer import write_manifest
from pipelines.media.contract import Limits
from pipelines.samples.of_views import series_of
from pipelines.stream import fetch, quarantine
from pipelines.stream.ingest import Ingest, run_items
from pipelines.stream.plan import Plan
from pipelines.texts.learnt_tokens import learnt_tokens

WORDS = tuple("the quick brown fox jumps over a lazy dog and sleeps in the sun".split())  # noqa: SIM905
SELECTION = Selection(medium="text", text_columns=("text",))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 good lines, 20 good objects, 20 good cells, a packed text, and what is wrong with
    others."""
    pytest.importorskip("tokenizers")
    folder = tmp_path_factory.mktemp("corpus")
    lines = [" ".join(WORDS[n % 7 :]) + f" {n}" for n in range(40)]
    bad = ["", "  ", "x" * 2_000_000]
    (folder / "a.txt").write_bytes(
        "\ufeff".encode() + "\r\n".join([*lines, *bad]).encode() + b"\ncaf\xe9\n"
    )
    objects = [json.dumps({"text": f"{line} object"}) for line in lines[:20]]
    (folder / "b.jsonl").write_text("\n".join([*objects, "{", '{"other": 1}', '{"text": 5}']))
    rows = "".join(f'{n},"{line}, ""cell"""\n' for n, line in enumerate(lines[:20]))
    (folder / "c.csv").write_text("id,text\n" + rows + "20,\n21\n")
    (folder / "d.txt").write_bytes("wide".encode("utf-16"))
    (folder / "picture.jpg").write_bytes(b"\xff\xd8\xff")
    (folder / "empty.txt").write_bytes(b"")
    (folder / "packed.text").write_text("a text of several\nlines in a shard")
    (folder / "table.csv").write_text("text\nin a shard\n")
    with tarfile.open(folder / "e.tar", "w") as tar:
        tar.add(folder / "packed.text", "packed.txt")
        tar.add(folder / "table.csv", "table.csv")
    for name in ("packed.text", "table.csv"):
        (folder / name).unlink()
    return folder


@pytest.fixture(scope="module")
def manifest(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    rows = list(rows_of(entries(str(corpus)), SELECTION))
    place = str(tmp_path_factory.mktemp("listed") / "manifest")
    table = pa.Table.from_pylist(rows, schema=LISTED)
    write_manifest(place, str(corpus), iter([table]), SELECTION)
    return open_manifest(place)


def test_what_is_no_text_is_counted_when_it_is_listed_and_nothing_is_lost(
    manifest: Manifest,
) -> None:
    assert manifest.selection == SELECTION and manifest.media == {"text": 40 + 2 + 23 + 20 + 1}
    assert manifest.left_out == {
        "empty line": 2,
        "empty cell": 1,
        "row without the column": 1,
        "no UTF-8 but UTF-16 (convert it)": 1,
        "zero bytes": 1,
        "no text (.jpg)": 1,
        "file of several texts in a tar (unpack it)": 1,
    }, told(manifest.left_out)
    taken = pa.concat_tables(manifest.read_row_group(*g[:2]) for g in manifest.row_groups())
    assert len(set(taken[schema.SAMPLE_ID].to_pylist())) == manifest.num_rows


def ingest_of(manifest: Manifest, folder: Path) -> tuple[Ingest, str]:
    plan = Plan.fresh(manifest, seed=3, interleave=1)
    tokenizer = learnt_tokens(plan, Limits(), 600)
    series = series_of(text_views(12), 3, tokenizer)
    assert series is not None
    work = Ingest(
        order=plan,
        shape=series[1],
        block_rows=8,
        limits=Limits(),
        quarantine=str(folder / "quarantine"),
        run="test",
        series=series[0],
    )
    return work, tokenizer


def columns(work: Ingest, start: int, stop: int) -> Iterator[dict[str, np.ndarray]]:
    yield from run_items(pa.table({"start": [start], "stop": [stop]}), ingest=work)


def test_an_epoch_has_each_text_once_and_the_bad_ones_with_their_reasons(
    manifest: Manifest, tmp_path: Path
) -> None:
    work, tokenizer = ingest_of(manifest, tmp_path)
    blocks = list(columns(work, 0, manifest.num_rows))
    whole = {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
    assert len(set(whole[schema.SAMPLE_ID].tolist())) == manifest.num_rows
    assert whole[TEXT].shape == (manifest.num_rows, 1, 12) and whole[TEXT].dtype == np.int32
    reasons = Counter(row[schema.REASON] for row in quarantine.read(str(tmp_path / "quarantine")))
    assert reasons == {"too_large": 1, "encoding": 1, "field": 3}
    assert (~whole[schema.VALID]).sum() == reasons.total()
    for tokens in whole[TEXT][whole[schema.VALID], 0]:
        said = decode(tokenizer, tokens)
        assert set(said.split()) & {*WORDS, "text", "object", "cell"}


def test_a_resumed_stream_goes_on_exactly_and_draws_other_stretches_next_time(
    manifest: Manifest, tmp_path: Path
) -> None:
    work, _ = ingest_of(manifest, tmp_path)
    size = manifest.num_rows
    whole = np.concatenate([block[TEXT] for block in columns(work, 0, 2 * size)])
    rest = np.concatenate([block[TEXT] for block in columns(work, 16, 2 * size)])
    assert np.array_equal(whole[16:], rest)
    ids = np.concatenate([block[schema.SAMPLE_ID] for block in columns(work, 0, 2 * size)])
    first, second = (
        dict(zip(ids[s].tolist(), whole[s], strict=True))
        for s in (
            slice(0, size),
            slice(size, None),
        )
    )
    differ = sum(not np.array_equal(first[key], second[key]) for key in first)
    assert size // 3 < differ < size


def test_a_worker_reads_the_range_of_a_text_and_never_the_file(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, _ = ingest_of(manifest, tmp_path)
    read = fetch._read_file
    sizes = list[int]()

    def counted(uri: str, offset: int, length: int, etag: str | None) -> tuple[bytes, str | None]:
        sizes.append(length)
        return read(uri, offset, length, etag)

    monkeypatch.setattr(fetch, "_read_file", counted)
    list(columns(work, 0, manifest.num_rows))
    assert sum(sizes) < 100_000  # of 2 MB
