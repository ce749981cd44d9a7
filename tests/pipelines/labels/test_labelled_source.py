"""pipelines.labels on files: tables, shards, manifests, masks and boxes become samples with
labels, and their pixels come with their targets."""

import io
import json
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from pipelines import schema
from pipelines.corpus.listing import list_source
from pipelines.corpus.manifest_writer import write_manifest
from pipelines.labels import label_tables, labelled_stream, looked_up, masks, sidecars
from pipelines.labels.label_tables import Columns
from pipelines.labels.labelled_data import LabelledData
from pipelines.labels.labelled_rows import LabelledRows
from pipelines.labels.labelled_source import read_source
from pipelines.media.clips import Sampling
from pipelines.media.contract import REASONS, Limits
from pipelines.stream.shapes import Centre, Fitted
from tests.object_store import ObjectStore
from tests.pipelines.media.videos import video

pytestmark = pytest.mark.usefixtures("ray_session")


def image(path: Path, level: int = 0, size: tuple[int, int] = (40, 20)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (level, level, level)).save(path)


def labels_of(found: LabelledRows) -> dict[str, list[str]]:
    return dict(zip(found.names, found.rows[schema.LABELS].to_pylist(), strict=True))


def test_a_table_names_files_beside_it_elsewhere_and_in_another_unicode_form(
    tmp_path: Path,
) -> None:
    for name in ("in/1.png", "out/2.png", "in/mu\u0308ll.png"):
        image(tmp_path / name)
    lines = ["1.png,a", "../out/2.png,b", f"{tmp_path}/in/1.png,a", "m\u00fcll.png,c"]
    lines += ["gone.png,a", "../out,b", "t.csv,b"]
    (tmp_path / "in" / "t.csv").write_text("uri,label\n" + "\n".join(lines), encoding="utf-8")
    found = read_source(str(tmp_path / "in" / "t.csv"), Columns(), "class")
    labels = list(labels_of(found).values())
    assert labels == [["a"], ["b"], ["c"]]
    assert found.left_out.counts == {
        looked_up.MISSING: 1,
        looked_up.NO_FILE: 1,
        label_tables.AGAIN: 1,
        "no image (.csv)": 1,
    }


def test_a_table_in_a_bucket_names_files_beside_it(
    object_store: ObjectStore, tmp_path: Path, put_folder: Callable[[Path, str], None]
) -> None:
    image(tmp_path / "x" / "1.png")
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "t.jsonl").write_text('{"uri": "../x/1.png", "label": "a"}\n')
    object_store.make_bucket("tables")
    put_folder(tmp_path, "s3://tables/some where")
    found = read_source("s3://tables/some where/t/t.jsonl", Columns(), "class")
    assert found.rows[schema.URI].to_pylist() == ["s3://tables/some where/x/1.png"]
    assert list(labels_of(found).values()) == [["a"]]


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """WebDataset shards: labels in .cls and .json files, one missing, one that is none."""
    picture = io.BytesIO()
    Image.new("RGB", (8, 8)).save(picture, "PNG")
    said = {"label": ["cat", "dog"], "split": "test", "group": "g"}
    (tmp_path / "shards").mkdir()
    with tarfile.open(tmp_path / "shards" / "0.tar", "w") as tar:
        for name in ("a.png", "b.png", "c.png", "d.png", "e.png"):
            add(tar, name, picture.getvalue() + name.encode())
        add(tar, "a.cls", b"3\n")
        add(tar, "b.json", json.dumps(said).encode())
        add(tar, "c.json", b"{broken")
        add(tar, "d.json", b'{"width": 3}')
    return tmp_path / "shards"


def test_labels_beside_images_in_shards_are_found_there_and_through_a_manifest(
    shards: Path, tmp_path: Path
) -> None:
    found = read_source(str(shards), Columns(), "class")
    manifest = write_manifest(str(tmp_path / "m"), str(shards), list_source(str(shards)))
    listed = read_source(manifest.uri, Columns(), "class")
    for one in (found, listed):
        assert labels_of(one) == {"a.png": ["3"], "b.png": ["cat", "dog"]}
        assert one.rows[schema.SPLIT].to_pylist() == [None, "test"]
        assert one.rows[schema.GROUP].to_pylist() == [None, "g"]
        assert one.left_out.names == {
            "label that cannot be read (.json)": ["c.png"],
            label_tables.NO_LABEL: ["d.png"],
            sidecars.NO_SIDECAR: ["e.png"],
        }


def test_a_manifest_without_labels_beside_its_images_is_judged_by_first_folders(
    tmp_path: Path,
) -> None:
    image(tmp_path / "x" / "cat" / "1.png")
    image(tmp_path / "x" / "dog" / "deep" / "2.png")
    source = str(tmp_path / "x")
    manifest = write_manifest(str(tmp_path / "m"), source, list_source(source))
    found = read_source(manifest.uri, Columns(), "class")
    assert labels_of(found) == {"cat/1.png": ["cat"], "dog/deep/2.png": ["dog"]}


def test_links_to_class_folders_that_a_manifest_has_not_are_left_out_by_name(
    tmp_path: Path,
) -> None:
    image(tmp_path / "x" / "cat" / "1.png")
    image(tmp_path / "elsewhere" / "2.png")
    (tmp_path / "x" / "dog").symlink_to(tmp_path / "elsewhere")
    source = str(tmp_path / "x")
    assert labels_of(read_source(source, Columns(), "class"))["dog/2.png"] == ["dog"]
    manifest = write_manifest(str(tmp_path / "m"), source, list_source(source))
    found = read_source(manifest.uri, Columns(), "class")
    assert labels_of(found) == {"cat/1.png": ["cat"]}
    assert found.left_out.names == {"link to a folder": ["dog"]}


def data_of(found: LabelledRows, **values: object) -> LabelledData:
    index = {name: number for number, name in enumerate(found.classes)}
    rows = found.rows.to_pylist()
    for row in rows:
        row["labels"] = [index[name] for name in row["labels"] or ()]
    table = pa.Table.from_pylist(rows, schema=schema.LABELLED)
    return LabelledData(table, tuple(found.classes), **values)  # type: ignore[arg-type]


def test_masks_come_with_their_images_and_those_that_do_not_fit_are_bad_samples(
    tmp_path: Path,
) -> None:
    for name in ("a/1.png", "a/2.png", "b/1.png", "lost.png"):
        image(tmp_path / "images" / name, 9)
    values = np.zeros((20, 40), np.uint8)
    values[:, 20:] = 7
    for name, size in (("a/1.png", (40, 20)), ("b/1.png", (40, 20)), ("a/2.png", (20, 40))):
        mask = Image.fromarray(values).resize(size)
        path = tmp_path / "masks" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name == "b/1.png":
            mask = mask.convert("P")
            mask.putpalette([255, 0, 0] * 256)  # the index counts, not the colour
        mask.save(path)
    image(tmp_path / "masks" / "alone.png")
    folder = masks.MaskFolder(str(tmp_path / "masks"))
    images = read_source(str(tmp_path / "images"), Columns(), "mask")
    found = folder.pair({"train": images})["train"]
    assert found.left_out.names == {masks.NO_MASK: ["lost.png"]}
    assert folder.unused().names == {masks.NO_IMAGE: ["alone.png"]}
    seen, problems = masks.survey_masks(found.rows)
    assert seen == [{0, 7}] * 3 and problems == [None] * 3
    data = data_of(found, task="mask")
    work = labelled_stream.work_of(data, Fitted(10, masks=True), Limits(), run="test", block_rows=3)
    (batch,) = labelled_stream.blocks(work).iter_batches(batch_size=None)
    bad = [name for name, ok in zip(found.names, batch["valid"], strict=True) if not ok]
    assert bad == ["a/2.png"]
    assert REASONS[batch["reason"].max() - 1] == "mask"
    expected = np.full((10, 10), 255)
    expected[:5] = [0] * 5 + [7] * 5
    for index in np.flatnonzero(batch["valid"]):
        assert (batch["mask"][index] == expected).all()
        assert (batch["image"][index, :, :5] == 9).all()
        assert (batch["image"][index, :, 5:] == 0).all()
    assert batch["height"].tolist() == [20] * 3
    centre = labelled_stream.work_of(data, Centre(4, masks=True), Limits(), run="t", block_rows=3)
    (batch,) = labelled_stream.blocks(centre).iter_batches(batch_size=None)
    assert (batch["mask"][0] == [0, 0, 7, 7]).all()
    data = replace(data, values=(7, 9))  # as classes 0 and 1; 0 is none of them
    centre = labelled_stream.work_of(data, Centre(4, masks=True), Limits(), run="t", block_rows=3)
    (batch,) = labelled_stream.blocks(centre).iter_batches(batch_size=None)
    assert (batch["mask"][0] == [255, 255, 0, 0]).all()


def test_an_empty_folder_of_masks_gives_every_image_none(tmp_path: Path) -> None:
    image(tmp_path / "images" / "1.png")
    (tmp_path / "masks").mkdir()
    images = read_source(str(tmp_path / "images"), Columns(), "mask")
    found = masks.MaskFolder(str(tmp_path / "masks")).pair({"train": images})["train"]
    assert found.rows.num_rows == 0 and found.left_out.names == {masks.NO_MASK: ["1.png"]}


def test_masks_of_colours_say_so(tmp_path: Path) -> None:
    image(tmp_path / "images" / "1.png")
    image(tmp_path / "masks" / "1.png")
    folder = masks.MaskFolder(str(tmp_path / "masks"))
    images = read_source(str(tmp_path / "images"), Columns(), "mask")
    found = folder.pair({"train": images})["train"]
    _, problems = masks.survey_masks(found.rows)
    assert problems == ["RGB pixels, where class indices (grey or palette) must be"]


def test_labels_are_in_the_batches_and_clips_of_a_video_name_their_sample(tmp_path: Path) -> None:
    image(tmp_path / "cat" / "1.png")
    (tmp_path / "dog").mkdir()
    (tmp_path / "dog" / "2.mp4").write_bytes(video(num_frames=30))
    found = read_source(str(tmp_path), Columns(), "class")
    data = data_of(found)
    work = labelled_stream.work_of(
        data, Centre(8), Limits(), run="test", block_rows=4, sampling=Sampling(per_video=3)
    )
    (batch,) = labelled_stream.blocks(work).iter_batches(batch_size=None)
    assert batch["row"].tolist() == [0, 1, 1, 1]
    assert batch["label"].tolist() == [0, 1, 1, 1]
    assert len(set(batch["sample_id"].tolist())) == 4


def test_several_labels_are_in_the_batches_as_ones(tmp_path: Path) -> None:
    image(tmp_path / "1.png")
    image(tmp_path / "2.png", 1)
    (tmp_path / "t.csv").write_text("uri,label\n1.png,a|c\n2.png,b\n")
    data = data_of(read_source(str(tmp_path / "t.csv"), Columns(), "class"), task="classes")
    work = labelled_stream.work_of(data, Centre(8), Limits(), run="test", block_rows=2)
    (batch,) = labelled_stream.blocks(work).iter_batches(batch_size=None)
    assert batch["label_hot"].tolist() == [[1, 0, 1], [0, 1, 0]]


def test_endless_epochs_are_permutations_whatever_the_ranges(tmp_path: Path) -> None:
    for number in range(5):
        image(tmp_path / "x" / f"{number}.png", number)
    data = data_of(read_source(str(tmp_path), Columns(), "class"))
    work = labelled_stream.work_of(data, Centre(8), Limits(), run="test", seed=3)
    order = work.order
    whole = [row for table in order.rows(0, 15) for row in table["row"].to_pylist()]
    assert [sorted(whole[at : at + 5]) for at in (0, 5, 10)] == [[0, 1, 2, 3, 4]] * 3
    assert whole[:5] != whole[5:10]
    parts = [
        row
        for start in range(15)
        for table in order.rows(start, start + 1)
        for row in table["row"].to_pylist()
    ]
    assert parts == whole
