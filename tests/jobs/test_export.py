"""jobs.export: which image, member or frame each row is, and what becomes of an export begun before
it was said."""

import json
import tarfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from jobs.export import ExportConfig, export
from jobs.setup.command_line import InputError
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


def test_a_clip_says_from_when_to_when_it_is_on_display() -> None:
    decoder = Decoder(Limits())
    try:
        clip = decoder.clip(video(50, rate=25), Clip(4, 2, None, 0.0))
        assert clip.shown == pytest.approx((0.0, 0.28))  # frames 0, 2, 4 and 6
        whole = decoder.clip(video(5, rate=25), Clip(16, 1, None, 0.0))
        assert whole.shown == pytest.approx((0.0, 0.2))
    finally:
        decoder.close()
