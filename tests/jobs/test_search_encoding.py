"""What is looked for is embedded as the corpus was: clips, sounds and texts too."""

import wave
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from jobs.searching.made_by import Encoding
from jobs.searching.sample_rows import Sample
from jobs.setup.failures import InputError
from jobs.setup.inputs import load_artifact
from jobs.setup.value_range import limits_for
from models import artifact
from models.encoders.factory import EncoderConfig, build_encoder
from models.texts.tokenizer import learn
from pipelines.embeddings.features import Features
from pipelines.embeddings.provenance import VectorColumn
from pipelines.media.clips import Sampling
from pipelines.media.contract import Limits
from tests.pipelines.media.videos import video

TEXTS = ["a cat sleeps", "a dog runs", "rain on the roof", "a cat runs"]


def encoding(
    folder: Path,
    values: dict[str, Any],
    size: int,
    preprocess: dict[str, Any],
    **taken: Any,
) -> tuple[Encoding, Any]:
    config = EncoderConfig.model_validate(values)
    torch.manual_seed(0)
    artifact.save(
        str(folder),
        build_encoder(config, size),
        config={"encoder": config.model_dump(mode="json"), "seed": 0},
        preprocess={"image_size": size, **preprocess},
        provenance={},
    )
    encoder = load_artifact(str(folder))
    column = VectorColumn.of(Features(str(folder)), encoder, (encoder.embed_dim,), **taken)
    return Encoding(SimpleNamespace(column=column, uri="/e"), None), encoder  # type: ignore[arg-type]


def test_a_video_is_embedded_as_the_clip_in_its_middle(tmp_path: Path) -> None:
    values = {"name": "resnet18_small", "width": 8, "time": "inflated"}
    colours = {"mean": [0.5] * 3, "std": [0.5] * 3}
    made, _ = encoding(tmp_path / "a", values, 16, {**colours, "num_frames": 4, "frame_stride": 2})
    black = [np.zeros((48, 64, 3), np.uint8)] * 30
    lit = [np.full((48, 64, 3), 255, np.uint8)] * 30
    files = {"dark": black, "becomes light": [*black[:15], *lit[:15]], "light": lit}
    for name, pictures in files.items():
        (tmp_path / f"{name}.mp4").write_bytes(video(30, pictures=pictures))
    samples = [Sample(str(tmp_path / f"{name}.mp4")) for name in files]
    found = made.embed_files(samples)
    assert found.shape[0] == 3 and np.isfinite(found).all()
    assert len(np.unique(found.round(4), axis=0)) == 3  # the one in the middle shows both
    with pytest.raises(InputError, match=r"query .*gone\.mp4 cannot be used: missing"):
        made.embed_files([Sample(str(tmp_path / "gone.mp4"))])


def test_a_video_is_embedded_as_the_mean_of_the_frames_that_the_corpus_was(tmp_path: Path) -> None:
    values = {"name": "resnet18_small", "width": 8}
    colours = {"mean": [0.5] * 3, "std": [0.5] * 3}
    black = [np.zeros((48, 64, 3), np.uint8)] * 15
    lit = [np.full((48, 64, 3), 255, np.uint8)] * 15
    for name, pictures in (("both", [*black, *lit]), ("dark", [*black] * 2), ("light", lit * 2)):
        (tmp_path / f"{name}.mp4").write_bytes(video(30, pictures=pictures))
    files = [Sample(str(tmp_path / f"{name}.mp4")) for name in ("both", "dark", "light")]

    def found(taken: Sampling | None, *, each_frame: bool = False) -> np.ndarray:
        made, _ = encoding(tmp_path / "a", values, 16, colours, taken=taken, each_frame=each_frame)
        return made.embed_files(files)

    clips = Sampling(10, 3, None, as_frames=False)
    both, dark, light = found(clips)
    np.testing.assert_allclose(both, (dark + light) / 2, rtol=1e-2, atol=1e-3)
    assert np.abs(dark - light).max() > 0.1
    middle, _, _ = found(Sampling())
    assert min(np.abs(middle - dark).max(), np.abs(middle - light).max()) < 1e-2
    np.testing.assert_array_equal(found(clips, each_frame=True)[0], middle)
    np.testing.assert_array_equal(found(None)[0], middle)  # as of exports of earlier versions


def test_a_sound_is_embedded_as_its_window(tmp_path: Path) -> None:
    values = {"name": "wave_gru", "width": 8}
    made, encoder = encoding(tmp_path / "a", values, 4000, {"rate": 8000, "std": 0.1})
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes((8000 * np.sin(np.arange(8000) / 5)).astype(np.int16).tobytes())
    found = made.embed_files([Sample(str(tmp_path / "a.wav"))])
    assert found.shape == (1, encoder.embed_dim) and np.isfinite(found).all()


def test_words_are_embedded_by_an_encoder_of_texts_and_by_no_other(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    tokens = {"tokenizer": learn(TEXTS, 512)}
    made, encoder = encoding(
        tmp_path / "a", {"name": "text_transformer", "text": {"width": 16, "depth": 1}}, 8, tokens
    )
    assert limits_for(encoder, Limits()) == Limits()  # as an export of texts asks
    found = made.embed_texts(TEXTS)
    assert found.shape == (4, encoder.embed_dim)
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    with pytest.raises(InputError, match=r"reads texts: give one as text"):
        made.embed_files([Sample(str(tmp_path / "a.txt"))])
    colours = {"mean": [0.5] * 3, "std": [0.5] * 3}
    other, _ = encoding(tmp_path / "b", {"name": "resnet18_small", "width": 8}, 16, colours)
    with pytest.raises(InputError, match=r"holds form=pooled: .* or an encoder of texts"):
        other.embed_texts(TEXTS)
