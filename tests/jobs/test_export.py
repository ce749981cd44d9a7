"""jobs.export: which image, member or frame each row is, and what becomes of an export begun before
it was said."""

import json
import os
import shutil
import tarfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from jobs.export import ExportConfig, export
from jobs.setup.failures import InputError, RunError
from jobs.setup.inputs import make_manifest
from jobs.setup.sections import SourceConfig
from pipelines.media.contract import Clip, Limits
from pipelines.media.decoder import Decoder
from tests.pipelines.media.videos import video


def config(artifact: str, source: Path, out: Path) -> ExportConfig:
    return ExportConfig.model_validate(
        {
            "artifact": artifact,
            "source": {"uri": str(source)},
            "out": str(out),
            "clip": {"per_video": 2},
        }
    )


@pytest.mark.usefixtures("ray_session")
def test_every_row_names_its_member_key_and_time(
    image_folder: Path, small_artifact: str, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "loose.png").write_bytes((image_folder / "scene0" / "00.png").read_bytes())
    (source / "clip.mp4").write_bytes(video(50, rate=25))
    with tarfile.open(source / "shard.tar", "w") as tar:
        tar.add(image_folder / "scene0" / "01.jpg", "cats/01.left.jpg")
        tar.add(source / "clip.mp4", "02.mp4")

    wanted = config(small_artifact, source, tmp_path / "out")
    assert export(wanted)["rows"] == 6
    rows = pq.read_table(tmp_path / "out" / "embeddings").to_pylist()
    told = {
        (Path(row["uri"]).name, row["member"], row["key"], row["clip"], row["start_s"])
        for row in rows
    }
    assert told == {
        ("loose.png", None, None, None, None),
        ("shard.tar", "cats/01.left.jpg", "cats/01", None, None),
        ("shard.tar", "02.mp4", "02", 0, 0.48),
        ("shard.tar", "02.mp4", "02", 1, 1.48),
        ("clip.mp4", None, None, 0, 0.48),
        ("clip.mp4", None, None, 1, 1.48),
    }
    ends = {row["end_s"] and round(row["end_s"] - row["start_s"], 6) for row in rows}
    assert ends == {None, 0.04}

    record = tmp_path / "out" / "export.json"
    earlier = json.loads(record.read_text())
    del earlier["format"]
    record.write_text(json.dumps(earlier))
    with pytest.raises(InputError, match="holds an export of an earlier version"):
        export(wanted)


@pytest.fixture
def rotten(image_folder: Path, tmp_path: Path) -> Path:
    """200 files, 72 of which are no pictures."""
    folder = tmp_path / "rotten"
    shutil.copytree(image_folder, folder)
    for number in range(9):
        for scene in folder.iterdir():
            (scene / f"{5 * (number % 5) + 1 + number // 5:02d}.jpg").write_bytes(b"no picture")
    return folder


@pytest.mark.usefixtures("ray_session")
def test_too_many_bad_samples_end_an_export_before_all_are_read(
    rotten: Path, small_artifact: str, tmp_path: Path
) -> None:
    source = {"uri": str(rotten), "max_bad_fraction": 0.2}
    wanted = config(small_artifact, rotten, tmp_path / "out")
    few = wanted.model_copy(update={"part_rows": 16, "source": SourceConfig(**source)})
    with pytest.raises(RunError, match=r"are bad .*more than source.max_bad_fraction=0.2") as said:
        export(few)
    seen = int(str(said.value).partition(" of ")[2].partition(" ")[0])
    assert 100 <= seen < 200


@pytest.mark.usefixtures("ray_session")
def test_a_short_export_is_judged_at_its_end_and_verifies_where_that_is_asked_for(
    image_folder: Path, small_artifact: str, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    shutil.copytree(image_folder / "scene0", source)
    manifest = make_manifest(str(source), str(tmp_path / "index"))
    for path in sorted(source.iterdir())[:6]:
        os.utime(path, ns=(0, 1))  # written again, for all that anybody can tell
    wanted = config(small_artifact, Path(manifest.uri), tmp_path / "out")
    verified = {"uri": manifest.uri, "verify": "etag"}
    with pytest.raises(RunError, match=r"6 of 25 samples \(24%\) are bad \(6 checksum\)"):
        export(wanted.model_copy(update={"source": SourceConfig(**verified)}))
    unread = {"rows": 0, "parts_kept": 1, "quarantined": 0, "reasons": {"checksum": 6}}
    allowed = SourceConfig(**verified, max_bad_fraction=0.3)
    assert unread.items() <= export(wanted.model_copy(update={"source": allowed})).items()


def test_a_clip_says_from_when_to_when_it_is_on_display() -> None:
    decoder = Decoder(Limits())
    try:
        clip = decoder.clip(video(50, rate=25), Clip(4, 2, None, 0.0))
        assert clip.shown == pytest.approx((0.0, 0.28))  # frames 0, 2, 4 and 6
        whole = decoder.clip(video(5, rate=25), Clip(16, 1, None, 0.0))
        assert whole.shown == pytest.approx((0.0, 0.2))
    finally:
        decoder.close()
