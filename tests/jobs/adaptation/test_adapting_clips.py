"""jobs.adapt on labelled videos with an encoder of clips: several clips of a video averaged, whole
source videos on one side of a split, probes beside one still frame, heads and encoders trained."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from augment.picture import Picture
from jobs.adapt import complete, embed_labelled, judge, run
from jobs.probing.probe_sections import OWN, AdaptConfig, ProbeConfig
from models import artifact
from models.encoders.factory import EncoderConfig, build_encoder
from pipelines import schema
from pipelines.media.contract import Clip, Limits
from pipelines.media.video import decode_clip
from pipelines.stream.shapes import Centre, Clips
from tests.pipelines.media.videos import video

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_session")]

NUM_FRAMES = 4
SIZE = 16


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory, photographs: list[np.ndarray]) -> str:
    """A square that moves to the right or to the left over photographs: six source videos, of each
    four files."""
    root = tmp_path_factory.mktemp("labelled")
    rows = ["uri,label,group"]
    for number in range(24):
        ground = photographs[number % 3][:48, 8 * (number // 3) : 8 * (number // 3) + 64]
        places = [4 + 2 * time for time in range(20)]
        name = "right" if number % 2 else "left"
        frames = []
        for place in places if number % 2 else places[::-1]:
            frame = ground.copy()
            frame[16:32, place : place + 16] = 255
            frames.append(frame)
        (root / f"{number}.mp4").write_bytes(video(20, pictures=frames))
        rows.append(f"{number}.mp4,{name},source {number // 4}")
    (root / "labels.csv").write_text("\n".join(rows))
    return str(root / "labels.csv")


def saved(folder: Path, time: str | None, **preprocess: Any) -> str:
    config = EncoderConfig.model_validate({"name": "resnet18_small", "width": 4, "time": time})
    torch.manual_seed(2)
    artifact.save(
        str(folder),
        build_encoder(config, SIZE),
        config={"encoder": config.model_dump(mode="json"), "seed": 1},
        preprocess={"image_size": SIZE, "mean": [0.5] * 3, "std": [0.5] * 3, **preprocess},
        provenance={},
    )
    return str(folder)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An encoder of clips."""
    place = tmp_path_factory.mktemp("clips")
    return saved(place, "inflated", num_frames=NUM_FRAMES, frame_stride=2)


def asked(encoder: str, table: str, **more: Any) -> dict[str, Any]:
    return {
        "artifact": encoder,
        "train": {"uri": table},
        "test": {"fraction": 0.34},
        "clip": {"per_video": 2},
        **more,
    }


def embedded_directly(encoder: str, uri: str) -> torch.Tensor:
    """The mean over the clips in the middle of both halves of a video."""
    loaded = artifact.load(encoder)
    shape = Clips(Centre(SIZE), NUM_FRAMES)
    columns = shape.empty(2)
    filler = shape.filler(columns, np.zeros(2, np.int64), np.arange(2))
    data = Path(uri.removeprefix("file://")).read_bytes()
    for row, position in enumerate((0.25, 0.75)):
        clip = Clip(NUM_FRAMES, 2, None, position)
        filler.fill(row, Picture.whole(decode_clip(io.BytesIO(data), clip, Limits()).frames))
    images = torch.from_numpy(columns[schema.IMAGE])
    with torch.no_grad():
        return loaded(loaded.preprocess(images)).mean(0)


def test_clips_of_a_video_are_averaged_and_judged_beside_one_frame_and_images(
    encoder: str, table: str, tmp_path: Path
) -> None:
    images = saved(tmp_path / "images", None)
    labelled = embed_labelled(AdaptConfig.model_validate(asked(encoder, table, compare=images)))
    data = labelled.data
    assert data.num_rows == 24 and data.of("test").sum() in (8, 12)
    sides = {
        split: set(np.array(data.rows[schema.GROUP].to_pylist())[data.of(split)])
        for split in ("train", "val", "test")
    }
    assert not sides["test"] & (sides["train"] | sides["val"])
    assert not sides["train"] & sides["val"]
    for row in (0, 23):
        expected = embedded_directly(encoder, data.rows[schema.URI][row].as_py())
        found = labelled.features["pretrained"][OWN][row]
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    for probe in (
        ProbeConfig(name="knn", k=(3,)),
        ProbeConfig(name="linear", weight_decay=(1e-2,)),
        ProbeConfig(name="retrieve"),
    ):
        told = judge(probe, labelled)
        measure = "map" if probe.name == "retrieve" else "top1"
        for prefix in ("", "untrained_", "colour_", "still_", "compared_"):
            assert 0 <= told[f"{prefix}{measure}"] <= 1
        assert "still" in told["result"] and "difference" in told


@pytest.mark.parametrize(
    "probe",
    [{"name": "attentive", "lr_scales": [1], "weight_decays": [0.05]}, {"name": "finetune"}],
    ids=["attentive", "finetune"],
)
def test_heads_and_encoders_of_clips_learn_from_labelled_videos(
    probe: dict[str, Any], encoder: str, table: str, tmp_path: Path
) -> None:
    more = {"probe": {**probe, "baseline": False}, "num_steps": 2, "global_batch_size": 8}
    values = asked(encoder, table, out=str(tmp_path / "out"), **more)
    kind, values = complete(values)
    told = run(kind.model_validate(values))
    assert told["num_test"] in (8, 12) and 0 <= told["top1"] <= 1
    trained = artifact.load(told["artifact"])
    assert (trained.num_frames, trained.of_images.frame_stride) == (NUM_FRAMES, 2)
    assert trained.head is not None
