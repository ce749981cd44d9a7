"""Packing shards whose images have labels and captions beside them: they go along."""

import io
import tarfile
from pathlib import Path

import pytest
import webdataset
from PIL import Image

from jobs.pack import PackConfig, pack
from pipelines import schema
from pipelines.labels.label_tables import Columns
from pipelines.labels.labelled_source import read_source

pytestmark = pytest.mark.usefixtures("ray_session")


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def test_labels_and_captions_beside_images_outlive_a_pack(tmp_path: Path) -> None:
    for shard in range(2):
        with tarfile.open(tmp_path / f"{shard}.tar", "w") as tar:
            for number in range(6):
                picture = io.BytesIO()
                Image.new("RGB", (8, 8), (number, shard, 0)).save(picture, "PNG")
                add(tar, f"x/{number}.png", picture.getvalue())
                add(tar, f"x/{number}.cls", f"{shard}-{number}".encode())
                add(tar, f"x/{number}.txt", b"a caption")
            add(tar, "x/readme.md", b"nobody's")
    source = {"uri": f"{tmp_path}/{{0..1}}.tar"}
    out = tmp_path / "packed"
    result = pack(PackConfig.model_validate({"source": source, "out": str(out), "shard_mib": 1}))
    assert (result["rows_in"], result["rows"], result["quarantined"]) == (12, 12, 0)
    for place in (result["manifest"], f"{out}/shards"):
        found = read_source(place, Columns(), "class")
        labels = sorted(name for one in found.rows[schema.LABELS].to_pylist() for name in one)
        assert labels == [f"{shard}-{number}" for shard in range(2) for number in range(6)]
        assert not set(found.left_out.counts) - {"no image (.txt)"}
    samples = webdataset.WebDataset(f"{out}/shards/000000.tar", shardshuffle=False)
    for sample in samples:
        red, green, _ = Image.open(io.BytesIO(sample["png"])).getpixel((0, 0))
        assert sample["cls"].decode() == f"{green}-{red}"
        assert sample["txt"] == b"a caption"
