"""Captions reach the batch of their image: from files beside it, shards and tables."""

import csv
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from augment.presets import plain_views
from jobs.estimating.storage_use import of_a_sample
from models.texts.tokenizer import decode, learn
from pipelines import schema
from pipelines.captions.caption_table import CaptionTable
from pipelines.captions.drawn_captions import Captions
from pipelines.captions.learning import kept_tokenizer
from pipelines.corpus.entry import EVERYTHING
from pipelines.corpus.listed_rows import LISTED, per_clip, rows_of
from pipelines.corpus.listing import look_up
from pipelines.corpus.manifest import Manifest
from pipelines.corpus.manifest_writer import write_manifest
from pipelines.media.contract import REASONS, Limits
from pipelines.pairs.files_beside import FilesBeside
from pipelines.samples.picture_rows import PictureRows
from pipelines.stream.ingest import Ingest, run_items
from pipelines.stream.orders import ManifestOrder
from pipelines.stream.plan import Plan
from pipelines.stream.shapes import Columns, Crops

NUM = 8
WORDS = ["red", "blue", "old", "new", "fast", "slow", "warm", "cold"]


def index(source: Path, manifest: Path) -> Manifest:
    files = [str(file) for file in sorted(source.rglob("*")) if file.suffix != ".txt"]
    rows = rows_of([look_up(file) for file in files], EVERYTHING)
    table = per_clip(pa.Table.from_pylist(list(rows), schema=LISTED), per_video=1)
    return write_manifest(str(manifest), str(source), [table], EVERYTHING)


def picture(number: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (20, 16), (30 * number, 0, 0)).save(file, "PNG")
    return file.getvalue()


def caption(number: int, draw: int = 0) -> str:
    return f"{WORDS[number]} picture {'of it' if draw else 'alone'}"


def loose(folder: Path) -> Manifest:
    for number in range(NUM):
        path = folder / "images" / f"{number}.png"
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_bytes(picture(number))
        path.with_suffix(".txt").write_text(caption(number))
    return index(folder / "images", folder / "manifest")


def in_a_shard(folder: Path) -> Manifest:
    (folder / "shards").mkdir()
    with tarfile.open(folder / "shards" / "0.tar", "w") as tar:
        for number in range(NUM):
            record = json.dumps({"caption": caption(number)}).encode()
            for name, data in ((f"{number}.png", picture(number)), (f"{number}.json", record)):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return index(folder / "shards", folder / "manifest")


def in_a_table(folder: Path) -> Manifest:
    manifest = loose(folder)
    with (folder / "captions.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "n", "caption"])
        for number in range(NUM):
            writer.writerow([f"images/{number}.png", 0, caption(number)])
            writer.writerow([f"images/{number}.png", 1, caption(number, 1)])
    return manifest


PLACES: dict[str, tuple[Callable[[Path], Manifest], Callable[[Path, Manifest], object]]] = {
    "beside": (loose, lambda folder, made: FilesBeside("./{stem}.txt", made.left_out_uri)),
    "shard": (in_a_shard, lambda folder, made: FilesBeside("./{stem}.json", made.left_out_uri)),
    "table": (
        in_a_table,
        lambda folder, made: CaptionTable(str(folder / "captions.csv"), None, made.source),
    ),
}
TOKENIZER = learn([caption(number, draw) for number in range(NUM) for draw in (0, 1)], 400)


def work_of(manifest: Manifest, place: object, seed: int = 0) -> Ingest:
    assert isinstance(place, FilesBeside | CaptionTable)
    return Ingest(
        order=ManifestOrder(manifest),
        shape=Crops(plain_views(8, (1.0, 1.0), 0), 0, photometric=False),
        block_rows=NUM,
        limits=Limits(),
        quarantine=None,
        run="test",
        captions=Captions(place, TOKENIZER, 12, seed),
    )


def block_of(manifest: Manifest, place: object, seed: int = 0) -> Columns:
    work = work_of(manifest, place, seed)
    (block,) = run_items(pa.table({"start": [0], "stop": [NUM]}), ingest=work)
    assert work.block_rows * work.row_bytes() >= sum(
        column.nbytes for name, column in block.items() if not name.endswith("_s")
    )
    return block


def numbers(block: Columns) -> list[int]:
    red = block["global_crops"][:, 0, 0].mean(axis=(1, 2))
    return [round(float(value) / 30) for value in red]


@pytest.mark.parametrize("kind", list(PLACES))
def test_each_image_has_its_own_caption(kind: str, tmp_path: Path) -> None:
    make, at = PLACES[kind]
    manifest = make(tmp_path)
    block = block_of(manifest, at(tmp_path, manifest))
    assert block[schema.VALID].all() and block[schema.CAPTION].shape == (NUM, 12)
    for number, tokens in zip(numbers(block), block[schema.CAPTION], strict=True):
        assert decode(TOKENIZER, tokens) in (caption(number), caption(number, 1))


def test_of_several_captions_one_is_drawn_by_the_samples_key(tmp_path: Path) -> None:
    manifest = in_a_table(tmp_path)
    place = CaptionTable(str(tmp_path / "captions.csv"), "caption", manifest.source)
    drawn = [block_of(manifest, place, seed)[schema.CAPTION] for seed in range(12)]
    again = block_of(manifest, place, 0)[schema.CAPTION]
    np.testing.assert_array_equal(drawn[0], again)
    for row in range(NUM):
        assert len({block[row].tobytes() for block in drawn}) == 2


def test_a_sample_without_a_caption_is_bad_and_its_neighbours_keep_theirs(tmp_path: Path) -> None:
    manifest = loose(tmp_path)
    (tmp_path / "images" / "3.txt").unlink()
    (tmp_path / "images" / "5.txt").write_bytes(b"caf\xe9")
    block = block_of(manifest, FilesBeside("./{stem}.txt", manifest.left_out_uri))
    valid = dict(zip(block[schema.ROW].tolist(), block[schema.VALID].tolist(), strict=True))
    assert sum(valid.values()) == NUM - 2
    reasons = {int(reason) for reason in block[schema.REASON] if reason}
    assert reasons == {1 + REASONS.index("caption")}
    told = [
        (number, decode(TOKENIZER, tokens))
        for number, tokens, good in zip(
            numbers(block), block[schema.CAPTION], block[schema.VALID], strict=True
        )
        if good
    ]
    assert len(told) == NUM - 2 and all(text == caption(number) for number, text in told)


def test_the_tokens_are_learnt_once_from_the_runs_captions(tmp_path: Path) -> None:
    manifest = loose(tmp_path)
    plan = Plan.fresh(manifest, seed=0)
    place = FilesBeside("./{stem}.txt", manifest.left_out_uri)
    uri = str(tmp_path / "tokenizer.json")
    first = kept_tokenizer(uri, plan, place, Limits(), 300)
    for file in (tmp_path / "images").glob("*.txt"):
        file.write_text("something else")
    assert kept_tokenizer(uri, plan, place, Limits(), 300) == first
    for file in (tmp_path / "images").glob("*.txt"):
        file.unlink()
    with pytest.raises(
        ValueError, match=r"none of the first 8 samples has a caption \(caption: no"
    ):
        kept_tokenizer(str(tmp_path / "other.json"), plan, place, Limits(), 300)


def test_a_table_without_the_columns_is_refused_with_those_it_has(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("file,words\na.png,hello\n")
    with pytest.raises(ValueError, match=r"no column caption or .* \(it has file, words\): name"):
        CaptionTable(str(tmp_path / "a.csv"), None, str(tmp_path)).check()
    assert CaptionTable(str(tmp_path / "a.csv"), "words", str(tmp_path)).check() == 1


def test_a_picture_without_a_caption_is_not_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = loose(tmp_path)
    (tmp_path / "images" / "3.txt").unlink()
    decoded = list[int]()
    plain = PictureRows.fill
    monkeypatch.setattr(
        PictureRows,
        "fill",
        lambda self, index, *rest: (decoded.append(index), plain(self, index, *rest)),
    )
    block = block_of(manifest, FilesBeside("./{stem}.txt", manifest.left_out_uri))
    assert sorted(decoded) == np.flatnonzero(block[schema.VALID]).tolist()
    assert len(decoded) == NUM - 1


def test_reads_of_captions_are_counted_where_each_is_a_file(tmp_path: Path) -> None:
    manifest = loose(tmp_path)
    place = FilesBeside("./{stem}.txt", manifest.left_out_uri)
    work = work_of(manifest, place)
    requests, size = of_a_sample(work)
    with_captions = of_a_sample(work, place)
    assert with_captions[0] == requests + 2  # its size, and the file
    written = np.mean([(tmp_path / "images" / f"{n}.txt").stat().st_size for n in range(NUM)])
    assert with_captions[1] == pytest.approx(size + written)
    table = CaptionTable("captions.csv", None, manifest.source)
    assert of_a_sample(work, table) == (requests, size)
