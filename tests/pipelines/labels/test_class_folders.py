"""pipelines.labels.class_folders: the first folder below the source is the class, and nothing goes
without a word."""

import tarfile
import unicodedata
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines import schema
from pipelines.labels.class_folders import BESIDE, read_class_folders
from pipelines.labels.labelled_rows import LabelledRows
from tests.object_store import ObjectStore

FILES = [
    "cat/part1/1.jpg",
    "cat/part2/2.jpg",
    "dog/images/3.JPEG",
    "dog/4.jpg",
    "dog/notes.txt",
    "beside.jpg",
    "readme.md",
    "texts/only.txt",
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes with folders of their own, files beside them, and classes without an image."""
    source = tmp_path / "source"
    for name in FILES:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(name.encode())
    (source / "empty").mkdir()
    return source


def found(uri: str) -> list[tuple[str, str]]:
    labelled = read_class_folders(uri)
    rows = labelled.rows
    names = [
        str(member or uri).rpartition("/")[2]
        for uri, member in zip(
            rows[schema.URI].to_pylist(), rows["member"].to_pylist(), strict=True
        )
    ]
    return sorted(zip(names, classes_of(labelled), strict=True))


def classes_of(labelled: LabelledRows) -> list[str]:
    return [name for labels in labelled.rows[schema.LABELS].to_pylist() for name in labels]


def test_the_first_folder_below_the_source_is_the_class_however_deep_the_image_lies(
    folder: Path,
) -> None:
    expected = [("1.jpg", "cat"), ("2.jpg", "cat"), ("3.JPEG", "dog"), ("4.jpg", "dog")]
    assert found(str(folder)) == found(f"{folder}/") == expected
    assert found(f"{folder}/*/*.jpg") == [("4.jpg", "dog")]
    assert found(f"{folder}/{{cat,dog}}") == expected


def test_what_is_left_out_is_counted_and_classes_without_images_are_named(folder: Path) -> None:
    labelled = read_class_folders(str(folder))
    assert labelled.left_out.counts == Counter(
        {BESIDE: 1, "no image (.txt)": 2, "no image (.md)": 1}
    )
    assert labelled.left_out.names[BESIDE] == ["beside.jpg"]
    assert labelled.empty == ["empty", "texts"]


def test_links_to_class_folders_are_followed_and_circles_are_left_out(
    folder: Path, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "5.jpg").write_bytes(b"5")
    (elsewhere / "back").symlink_to(folder)
    (folder / "bird").symlink_to(elsewhere)
    (folder / "cat" / "home").symlink_to(folder)
    (folder / "cat" / "more").symlink_to(elsewhere)
    assert ("5.jpg", "bird") in found(str(folder))
    assert ("5.jpg", "cat") in found(str(folder))
    labelled = read_class_folders(str(folder))
    assert labelled.rows.num_rows == 6
    assert labelled.left_out.counts["link to a folder"] == 3


def test_one_name_in_two_unicode_forms_is_one_class(tmp_path: Path) -> None:
    for form in ("NFC", "NFD"):
        name = unicodedata.normalize(form, "müll") + f"/{form}.jpg"
        (tmp_path / form / name).parent.mkdir(parents=True)
        (tmp_path / form / name).write_bytes(b"x")
    composed, decomposed = (read_class_folders(str(tmp_path / form)) for form in ("NFC", "NFD"))
    assert composed.classes == decomposed.classes == [unicodedata.normalize("NFC", "müll")]
    assert composed.empty == decomposed.empty == []


def test_members_of_shards_are_labelled_as_though_unpacked(folder: Path, tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    shards.mkdir()
    with tarfile.open(shards / "0.tar", "w") as tar:
        tar.add(folder / "cat", "./cat")
        tar.add(folder / "beside.jpg", "beside.jpg")
    with tarfile.open(shards / "1.tar", "w") as tar:
        tar.add(folder / "dog", "dog")
    expected = [("1.jpg", "cat"), ("2.jpg", "cat"), ("3.JPEG", "dog"), ("4.jpg", "dog")]
    assert found(str(shards)) == found(f"{shards}/{{0..1}}.tar") == expected
    assert found(str(shards / "0.tar")) == expected[:2]
    assert read_class_folders(str(shards)).left_out.counts[BESIDE] == 1
    (folder / "dog" / "5.tar").write_bytes((shards / "1.tar").read_bytes())
    assert [name for name, kind in found(str(folder)) if kind == "dog"].count("4.jpg") == 2


@pytest.mark.usefixtures("ray_session")
def test_buckets_are_labelled_as_folders_are(
    object_store: ObjectStore, folder: Path, put_folder: Callable[[Path, str], None]
) -> None:
    object_store.make_bucket("labels")
    put_folder(folder, "s3://labels/some where")
    local, remote = read_class_folders(str(folder)), read_class_folders("s3://labels/some where/")
    assert sorted(classes_of(local)) == sorted(classes_of(remote))
    assert local.left_out == remote.left_out
    assert remote.empty == ["texts"]  # a bucket has no folder without an object
    assert found("s3://labels/some where/*/images/*")[0] == ("3.JPEG", "dog")


def test_samples_are_left_out_for_a_reason(folder: Path) -> None:
    labelled = read_class_folders(str(folder))
    first = labelled.rows[schema.SAMPLE_ID][0].as_py()
    gone = labelled.rows[schema.SAMPLE_ID].to_numpy() == first
    less = labelled.without(gone, "why")
    assert classes_of(less) == classes_of(labelled)[1:]
    assert less.rows.equals(labelled.rows.slice(1))
    assert less.left_out.counts["why"] == 1
    assert less.left_out.names["why"] == [labelled.names[0]]
