"""Samples of a corpus seen as they are and slightly changed, by encoders of images and of clips."""

from pathlib import Path

import numpy as np
import pytest

from jobs.setup.inputs import load_artifact, manifest_of
from models import artifact
from models.encoders.factory import EncoderConfig, build_encoder
from pipelines.media.clips import Sampling
from pipelines.media.contract import Limits
from pipelines.ray_tasks import Placed
from pipelines.retraining.twice_seen import Looking, see_twice
from tests.pipelines.media.videos import sound, video


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize(
    "time",
    [
        "frames",
        pytest.param("tubelets", marks=pytest.mark.slow),
        pytest.param(None, marks=pytest.mark.slow),
    ],
)
def test_videos_are_seen_as_the_encoder_sees_them(tmp_path: Path, time: str | None) -> None:
    config = EncoderConfig.model_validate({"name": "vit_tiny_small", "width": 8, "time": time})
    taken = {} if time is None else {"num_frames": 4, "frame_stride": 2}
    place = str(tmp_path / "artifact")
    artifact.save(
        place,
        build_encoder(config, 16),
        config={"encoder": config.model_dump(), "seed": 0},
        preprocess={"image_size": 16, "mean": [0.5] * 3, "std": [0.5] * 3, **taken},
        provenance={},
    )
    corpus = tmp_path / "videos"
    corpus.mkdir()
    for number in range(3):
        (corpus / f"{number}.mp4").write_bytes(video(10 + 40 * number))
    (corpus / "sound.mp4").write_bytes(sound())
    rows = manifest_of(str(corpus), str(tmp_path / "m")).read_row_group(0, 0)
    encoder = load_artifact(place)
    sampling = Sampling.seen_by(encoder)
    assert sampling.as_frames == (time is None)
    looking = Looking(place, encoder.image_size, sampling, Placed(False, 1, 1))
    seen = see_twice(rows, looking, Limits(), num_actors=1)
    bad = [uri.endswith("sound.mp4") for uri in rows["uri"].to_pylist()]
    assert (~seen.valid).tolist() == bad
    plain, changed = seen.plain[seen.valid], seen.changed[seen.valid]
    assert plain.shape == changed.shape == (3, encoder.embed_dim)
    assert np.isfinite(plain).all() and not np.allclose(plain, changed)
    assert len(np.unique(plain.round(4), axis=0)) == 3
