"""271 files that break pipelines, indexed and exported whole: each is embedded or accounted for, in
bounded memory."""

import csv
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from augment.recipe import IMAGENET_MEAN, IMAGENET_STD
from jobs.export import ExportConfig, export
from jobs.setup.inputs import make_manifest
from models import artifact
from models.encoders.factory import EncoderConfig, build_encoder
from pipelines import schema
from pipelines.corpus.manifest import open_manifest
from pipelines.stream import quarantine
from tests.shared_data import shared_data

NASTY = shared_data("nasty.tar")
pytestmark = [
    pytest.mark.usefixtures("ray_session"),
    pytest.mark.skipif(
        NASTY is None, reason="the collection of hostile files is not on this machine"
    ),
]
# What Pillow or FFmpeg alone make of a file, and we do not: damage that they conceal.
STRICTER = {"bitflip_jpg", "broken_png", "large_dim", "exif_err", "tiff_lab"}
# Their damage lies behind the frame that is embedded.
WHOLE_UP_TO_THE_MIDDLE = {"derived_trunc_faststart_60pct.mp4"}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    uri, config = (
        str(tmp_path_factory.mktemp("encoder") / "artifact"),
        EncoderConfig(name="resnet18_small", width=8),
    )
    preprocess = {"image_size": 32, "mean": IMAGENET_MEAN, "std": IMAGENET_STD}
    saved = {"encoder": config.model_dump(), "seed": 0}
    artifact.save(
        uri, build_encoder(config, 32), config=saved, preprocess=preprocess, provenance={}
    )
    return uri


def described() -> Iterator[dict[str, str]]:
    assert NASTY is not None
    with tarfile.open(NASTY) as tar:
        table = tar.extractfile("manifest.csv")
        assert table is not None
        yield from csv.DictReader(io.TextIOWrapper(table, "utf-8"))


@pytest.mark.slow
@pytest.mark.parametrize("packed", [True, False])
def test_every_hostile_file_is_embedded_or_named_with_a_true_reason(
    packed: bool, encoder: str, tmp_path: Path
) -> None:
    assert NASTY is not None
    source = NASTY
    if not packed:
        source = tmp_path / "unpacked"
        with tarfile.open(NASTY) as tar:
            tar.extractall(source, filter="data")
    place, out = str(tmp_path / "manifest"), tmp_path / "export"
    make_manifest(str(source), place)
    wanted = {
        "artifact": encoder,
        "source": {"uri": place, "max_bad_fraction": 1},
        "out": str(out),
        "part_rows": 64,
    }
    done = export(ExportConfig.model_validate(wanted))

    names, left_out = _names(place)
    embedded = {names[i] for i in pq.read_table(out / "embeddings")[schema.SAMPLE_ID].to_pylist()}
    bad = {names[row[schema.SAMPLE_ID]]: row for row in quarantine.read(str(out / "quarantine"))}
    assert done["rows"] == len(embedded) and done["quarantined"] == len(bad) == sum(
        done["reasons"].values()
    )
    assert not embedded & bad.keys() and embedded | bad.keys() == set(names.values())
    rows = list(described())
    # the list itself is left out as well
    assert len(rows) == 271 == len(embedded) + len(bad) + left_out - 1
    for row in rows:
        if (name := row["file"].rpartition("/")[2]) in names.values():
            _check(row, name, bad.get(name))


def _names(place: str) -> tuple[dict[int, str], int]:
    """File name of each sample, and how many files were left out."""
    manifest = open_manifest(place)
    rows = pa.concat_tables(
        manifest.read_row_group(*group[:2]) for group in manifest.row_groups()
    ).to_pylist()
    names = {
        row[schema.SAMPLE_ID]: (row["member"] or row[schema.URI]).rpartition("/")[2] for row in rows
    }
    return names, sum(manifest.left_out.values())


def _check(row: dict[str, str], name: str, problem: dict[str, Any] | None) -> None:
    tags = set(row["tags"].split(";"))
    if problem is None:
        fine = row["decodes"] == "1" or name in WHOLE_UP_TO_THE_MIDDLE or "broken_psd" in tags
        assert fine and "bomb" not in tags, f"{name} is embedded: {row}"
        return
    assert row["decodes"] == "0" or tags & STRICTER, f"{name} is refused: {problem}"
    expected = {
        "video_audio_only": "no_video",
        "video_zero_frames": "no_video",
        "zero_byte": "empty",
    }
    for tag in tags & expected.keys():
        assert problem["reason"] == expected[tag], f"{name}: {problem}"
    if any(tag.startswith("truncated_") for tag in tags):
        assert problem["reason"] in ("truncated", "corrupt"), f"{name}: {problem}"
    if "bomb" in tags:
        assert problem["reason"] in ("too_many_pixels", "too_large", "corrupt", "truncated"), (
            f"{name}: {problem}"
        )
