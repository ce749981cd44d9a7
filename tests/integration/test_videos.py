"""Folders of videos and images through index, pretraining and export."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from augment.presets import simclr_views
from jobs.adapt import AdaptConfig, embed_labelled
from jobs.export import ExportConfig, export
from jobs.pretrain import pretrain
from jobs.preview import PreviewConfig, preview
from jobs.preview import complete as complete_preview
from jobs.setup.command_line import parse
from jobs.setup.failures import InputError
from jobs.setup.inputs import make_manifest, manifest_of
from jobs.training.run_config import PretrainConfig, complete_pretrain
from models import artifact
from pipelines import schema
from pipelines.media.clips import Sampling
from pipelines.media.contract import Limits
from pipelines.stream import ingest, quarantine, shapes
from pipelines.stream.plan import Plan
from tests.pipelines.media.videos import sound, video

pytestmark = pytest.mark.usefixtures("ray_session")

SMALL = [
    *(
        "simclr_small",
        "encoder.width=8",
        "method.hidden_dim=32",
        "method.projection_dim=16",
        "views.size=16",
    ),
    *("global_batch_size=32", "log.every_steps=1", "cluster.max_failures=0"),
]


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory, image_folder: Path) -> Path:
    """25 images, 12 videos and a file of sound that calls itself one."""
    root = tmp_path_factory.mktemp("mixed")
    shutil.copytree(image_folder / "scene0", root / "stills")
    for number in range(12):
        (root / f"{number:02d}.{'mkv' if number % 2 else 'mp4'}").write_bytes(
            video(20 + number, kind="matroska" if number % 2 else "mp4", gop=8)
        )
    (root / "sound.mp4").write_bytes(sound())
    return root


@pytest.mark.slow
def test_images_and_frames_of_videos_are_pretrained_on_and_exported_together(
    mixed: Path, tmp_path: Path
) -> None:
    words = [f"source.uri={mixed}", f"out={tmp_path}/run", "num_steps=4", "clip.per_video=3"]
    with pytest.raises(InputError, match=r"holds 39 clips of videos.*set clip\.as_frames=true"):
        pretrain(_config(*words))
    done = pretrain(_config(*words, "clip.as_frames=true"))
    assert done["steps"] == 4 and done["bad_samples"] == done["bad_no_video"] > 0
    bad = quarantine.read(f"{tmp_path}/run/quarantine")
    assert {(Path(row["uri"]).name, row["stage"], row["reason"]) for row in bad} == {
        ("sound.mp4", "decode", "no_video")
    }

    place = {"artifact": done["artifact"], "source": {"uri": str(mixed)}, "clip": {"per_video": 2}}
    exported = export(ExportConfig.model_validate({**place, "out": str(tmp_path / "e")}))
    assert (exported["rows"], exported["quarantined"]) == (25 + 12 * 2, 2)
    assert exported["reasons"] == {"no_video": 2}
    table = pq.read_table(tmp_path / "e" / "embeddings")
    clips = [row["clip"] for row in table.to_pylist() if row["uri"].endswith("03.mkv")]
    assert sorted(clips) == [0, 1] and table["clip"].null_count == 25


def test_a_preview_shows_frames_of_videos(mixed: Path, tmp_path: Path) -> None:
    words = ["simclr_small", f"source.uri={mixed}", f"out={tmp_path}/a.png", "num_images=12"]
    made = parse(complete_preview, [*words, "clip.as_frames=true"])
    assert isinstance(made, PreviewConfig)
    drawn = preview(made)
    assert (
        drawn["images"] + drawn["unreadable"] == 12 and (tmp_path / "a.png").stat().st_size > 10_000
    )


def test_a_manifest_with_another_number_of_clips_is_refused_with_the_remedy(
    mixed: Path, tmp_path: Path
) -> None:
    place = str(tmp_path / "manifest")
    manifest = make_manifest(str(mixed), place, 2)
    assert (manifest.num_rows, manifest.media, manifest.per_video) == (
        25 + 26,
        {"image": 25, "video": 26},
        2,
    )
    rows = next(Plan.fresh(manifest, 0).rows(0, 51)).to_pylist()
    assert len({row["sample_id"] for row in rows}) == 51
    assert {row["clip"] for row in rows if row["media"] == "video"} == {0, 1}
    with pytest.raises(
        InputError,
        match=r"was listed with 2: .* or list anew with python -m jobs\.index .* clip\.per_video=4",
    ):
        manifest_of(place, "", 4)
    assert manifest_of(place, "", None) == manifest_of(place, "", 2) == manifest
    without = make_manifest(str(mixed), str(tmp_path / "stills"), 0)
    assert (without.num_rows, without.media) == (25, {"image": 25})
    assert sum(without.left_out.values()) == 13


def test_clips_stream_with_one_box_for_all_their_frames(mixed: Path, tmp_path: Path) -> None:
    manifest = make_manifest(str(mixed), str(tmp_path / "manifest"), 2)
    views = simclr_views(16)
    shape = shapes.Clips(shapes.Crops(views, 0, photometric=False), num_frames=5)
    sampling = Sampling(num_frames=5, frame_stride=2, per_video=2, as_frames=False, seed=0)
    work = ingest.Ingest(
        Plan.fresh(manifest, 0), shape, 17, Limits(), quarantine=None, run="test", sampling=sampling
    )
    batches = list(ingest.dataset(work, [(0, 51), (51, 102)]).iter_batches(batch_size=None))
    columns = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
    clips = columns["global_crops"]
    assert clips.shape == (102, 2, 5, 3, 16, 16) and clips.dtype == np.uint8
    assert (~columns[schema.VALID]).sum() == 4  # the sound, twice an epoch
    rows = [
        row
        for start in (0, 51)
        for table in Plan.fresh(manifest, 0).rows(start, start + 51)
        for row in table.to_pylist()
    ]
    still = np.array([row["media"] == "image" for row in rows])
    assert (
        clips[still] == clips[still][:, :, :1]
    ).all()  # nothing moves, and the box does not either
    ids = columns[schema.SAMPLE_ID]
    first, second = clips[:51][np.argsort(ids[:51])], clips[51:][np.argsort(ids[51:])]
    assert not np.array_equal(first, second)  # another epoch, other positions and boxes


@pytest.mark.slow
def test_clips_are_pretrained_on_and_their_encoder_takes_as_many_frames_everywhere(
    tmp_path: Path,
) -> None:
    for number in range(12):
        folder = tmp_path / "videos" / ("slow" if number % 2 else "fast")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.mp4").write_bytes(video(24 + number, gop=8))
    words = [f"source.uri={tmp_path}/videos", f"out={tmp_path}/run", "num_steps=2"]
    clip = ["clip.num_frames=4", "clip.frame_stride=3", "clip.per_sample=2", "clip.max_gap_s=1"]
    with pytest.raises(InputError, match=r"clip\.num_frames=5 must be a multiple of encoder"):
        _config(*words, "encoder.name=vit_tiny_small", "encoder.time=tubelets", "clip.num_frames=5")
    done = pretrain(_config(*words, "encoder.time=inflated", "global_batch_size=8", *clip))
    assert done["steps"] == 2 and done["bad_samples"] == 0 and done["health_rankme"] >= 1

    encoder = artifact.load(done["artifact"])
    assert (encoder.num_frames, encoder.prepared.frame_stride) == (4, 3)
    assert encoder(encoder.preprocess(torch.zeros(2, 4, 3, 20, 30, dtype=torch.uint8))).shape == (
        2,
        encoder.embed_dim,
    )
    place = {"artifact": done["artifact"], "source": {"uri": f"{tmp_path}/videos"}}
    exported = export(ExportConfig.model_validate({**place, "out": str(tmp_path / "e")}))
    assert (exported["rows"], exported["quarantined"]) == (12, 0)
    table = pq.read_table(tmp_path / "e" / "embeddings")
    last = 9 / 25 + 1 / 25  # three times three frames on, and as long as it is shown
    length = np.array(table["end_s"]) - np.array(table["start_s"])
    assert length == pytest.approx(last, abs=1e-3)
    with pytest.raises(InputError, match="the artifact sees clips of 4 frames, leave it out"):
        export(
            ExportConfig.model_validate(
                {**place, "out": str(tmp_path / "f"), "clip": {"num_frames": 8}}
            )
        )
    labelled = {"uri": f"{tmp_path}/videos"}
    wanted = {"artifact": done["artifact"], "train": labelled, "test": {"fraction": 0.5}}
    embedded = embed_labelled(AdaptConfig.model_validate(wanted))
    (own,) = embedded.features["pretrained"].values()
    by_file = dict(
        zip(table["uri"].to_pylist(), np.array(table["embedding"].to_pylist()), strict=True)
    )
    assert own.numpy() == pytest.approx(
        np.stack([by_file[uri] for uri in embedded.data.rows["uri"].to_pylist()]), abs=1e-5
    )


def _config(*words: str) -> PretrainConfig:
    made = parse(complete_pretrain, [*SMALL, *words])
    assert isinstance(made, PretrainConfig)
    return made
