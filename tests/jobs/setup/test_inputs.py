"""What a method eats is checked against what the corpus holds."""

import numpy as np
import pytest
import torch

from augment.generator import ViewGenerator
from jobs.setup.command_line import parse
from jobs.setup.failures import InputError
from jobs.training.planned_data import shape_of
from jobs.training.run_config import PretrainConfig, check_corpus, complete_pretrain
from models.contrastive.simclr import SimCLR
from pipelines.corpus.manifest import Manifest

WORDS = ["simclr_small", "source.uri=/data", "out=/out", "num_steps=10", "views.size=16"]


def config(*words: str) -> PretrainConfig:
    return parse(complete_pretrain, [*WORDS, *words])


def corpus(**media: int) -> Manifest:
    return Manifest("/m", 1, "/data", (), media=media)


def test_a_method_of_images_takes_images_and_single_frames() -> None:
    check_corpus(config(), corpus(image=3))
    check_corpus(config("clip.as_frames=true"), corpus(image=3, video=2))
    with pytest.raises(
        InputError, match=r"holds 2 clips of videos, and .*simclr takes images: set"
    ):
        check_corpus(config(), corpus(image=3, video=2))


def test_a_method_of_clips_takes_videos_and_still_frames_where_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(SimCLR, "media", "clip")
    check_corpus(config(), corpus(video=2))
    check_corpus(config("clip.as_frames=true"), corpus(image=3, video=2))
    with pytest.raises(InputError, match=r"holds 3 images, .* takes clips: list videos alone"):
        check_corpus(config(), corpus(image=3))


def test_a_method_of_sound_takes_neither(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SimCLR, "media", "audio")
    with pytest.raises(InputError, match="takes sound: give it another source"):
        check_corpus(config(), corpus(image=3))


def test_a_column_that_the_corpus_lacks_is_refused_by_its_name_and_origin(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Manifest, "columns", ["uri", "caption"])
    monkeypatch.setattr(SimCLR, "columns", {"caption": "a .txt file beside each image"})
    check_corpus(config(), corpus(image=3))
    monkeypatch.setattr(Manifest, "columns", ["uri"])
    with pytest.raises(InputError, match=r"no column caption, which .*simclr needs \(a \.txt"):
        check_corpus(config(), corpus(image=3))


def test_a_method_of_clips_is_fed_clips(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = config("clip.num_frames=5")
    generator = ViewGenerator(wanted.views, 0)
    assert shape_of(wanted, generator, photometric=False).empty(2)["global_crops"].shape == (
        *(2, 2, 3),
        *(16, 16),
    )
    monkeypatch.setattr(SimCLR, "media", "clip")
    columns = shape_of(wanted, generator, photometric=False).empty(2)
    assert columns["global_crops"].shape == (2, 2, 5, 3, 16, 16)
    crops = {"global_crops": torch.from_numpy(np.zeros_like(columns["global_crops"]))}
    views = generator(crops, torch.zeros(2).long(), torch.arange(2), photometric_done=True)
    assert views["global_crops"].shape == (2, 2, 5, 3, 16, 16)
