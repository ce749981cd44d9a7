"""What a method eats is checked against what the corpus holds."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from augment.generator import ViewGenerator
from jobs import pretrain
from jobs.corpora.corpus_checks import check_corpus
from jobs.setup.command_line import parse
from jobs.setup.failures import InputError
from jobs.setup.inputs import make_manifest, manifest_of
from jobs.setup.sections import SourceConfig
from jobs.training.planned_data import shape_of
from jobs.training.run_config import PretrainConfig, complete_pretrain
from models.contrastive.simclr import SimCLR
from pipelines.corpus.manifest import Manifest
from pipelines.stream.ledger import Ledger, Span
from pipelines.stream.plan import Plan

WORDS = ["simclr_small", "source.uri=/data", "out=/out", "num_steps=10", "views.size=16"]


def config(*words: str) -> PretrainConfig:
    return parse(complete_pretrain, [*WORDS, *words])


def corpus(**media: int) -> Manifest:
    return Manifest("/m", 1, "/data", (), media=media)


def test_a_version_of_a_manifest_is_opened_and_one_that_is_not_there_refused(
    image_folder: Path, tmp_path: Path
) -> None:
    source, listing = tmp_path / "source", str(tmp_path / "manifest")
    shutil.copytree(image_folder / "scene0", source)
    first = make_manifest(str(source), listing)
    next(source.iterdir()).unlink()
    make_manifest(str(source), listing)

    def opened(uri: str, version: int | None) -> Manifest:
        return manifest_of(SourceConfig(uri=uri, version=version), str(tmp_path / "other"))

    assert (opened(listing, 1).num_rows, opened(listing, None).version) == (first.num_rows, 2)
    with pytest.raises(InputError, match=r"source\.version 3 of .*manifest: it has 1, 2"):
        opened(listing, 3)
    with pytest.raises(InputError, match=r"source\.version 1 of .*source: it is no manifest"):
        opened(str(source), 1)


def test_a_run_does_not_go_back_to_an_older_version_of_its_manifest(
    image_folder: Path, tmp_path: Path
) -> None:
    source, listing = tmp_path / "source", str(tmp_path / "manifest")
    shutil.copytree(image_folder / "scene0", source)
    make_manifest(str(source), listing)
    next(source.iterdir()).unlink()
    make_manifest(str(source), listing)

    def plan(version: int | None, read: int) -> Plan:
        given = config()
        asked = given.source.model_copy(update={"uri": listing, "version": version})
        run: Any = SimpleNamespace(
            uri="/out", path=str, ledger=lambda: Ledger(4, (Span(0, read, 1),))
        )
        return pretrain._plan(given.model_copy(update={"source": asked}), run)

    assert [span.version for span in plan(1, read=1).ledger.spans] == [1]
    assert [span.version for span in plan(None, read=1).ledger.spans] == [1, 2]
    with pytest.raises(InputError, match=r"out /out holds version 2 .*source\.version 1 is older"):
        plan(1, read=2)


def test_a_method_of_images_takes_images_and_single_frames() -> None:
    check_corpus(config(), corpus(image=3))
    check_corpus(config("clip.as_frames=true"), corpus(image=3, video=2))
    with pytest.raises(
        InputError, match=r"holds 2 clips of videos, and .*simclr takes images: set"
    ):
        check_corpus(config(), corpus(image=3, video=2))


def test_an_encoder_of_clips_takes_videos_and_still_frames_where_asked_for() -> None:
    check_corpus(config("encoder.time=frames"), corpus(video=2))
    still = config("encoder.time=frames", "clip.as_frames=true")
    check_corpus(still, corpus(image=3, video=2))
    with pytest.raises(InputError, match=r"holds 3 images, .* takes clips: list videos alone"):
        check_corpus(config("encoder.time=frames"), corpus(image=3))


def test_a_method_of_sound_takes_neither(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SimCLR, "media", "audio")
    with pytest.raises(InputError, match="takes sounds: give it another source"):
        check_corpus(config(), corpus(image=3))


def test_a_column_that_the_corpus_lacks_is_refused_by_its_name_and_origin(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Manifest, "columns", ["uri", "tag"])
    monkeypatch.setattr(SimCLR, "columns", {"tag": "a .txt file beside each image"})
    check_corpus(config(), corpus(image=3))
    monkeypatch.setattr(Manifest, "columns", ["uri"])
    with pytest.raises(InputError, match=r"no column tag, which .*simclr needs \(a \.txt"):
        check_corpus(config(), corpus(image=3))


def test_captions_are_taken_where_the_method_takes_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = "source.captions=./{stem}.txt"
    with pytest.raises(InputError, match=r"source.captions .*simclr takes no captions, leave it"):
        check_corpus(config(given), corpus(image=3))
    monkeypatch.setattr(SimCLR, "columns", {"caption": "of each image"})
    check_corpus(config(given), corpus(image=3))
    with pytest.raises(InputError, match=r"simclr needs a caption of each sample: name .*captions"):
        check_corpus(config(), corpus(image=3))
    with pytest.raises(InputError, match=r"source.captions: .*names one file for all samples"):
        config("source.captions=caption.txt")
    with pytest.raises(InputError, match=r"source.caption_column .*source.captions"):
        config(given, "source.caption_column=text")


def test_sound_is_taken_of_videos(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SimCLR, "columns", {"sound": "of each video"})
    check_corpus(config("clip.as_frames=true"), corpus(image=1, video=2))
    with pytest.raises(InputError, match=r"holds no videos, whose sound method.name=simclr"):
        check_corpus(config(), corpus(image=3))


def test_captions_make_another_experiment() -> None:
    plain = config().experiment()
    assert not [key for key in plain if "caption" in key]
    table = config("source.captions=s3://b/captions.csv", "source.caption_column=text")
    added = {key: table.experiment()[key] for key in table.experiment().keys() - plain.keys()}
    assert added == {
        "source.captions": "s3://b/captions.csv",
        "source.caption_column": "text",
    }


PAIR = "source.pair=../depth/{stem}.png"
HHA = ("source.pair_kind=hha", "source.pair_camera=[292.5,292.5,160,120]")


def test_second_images_are_taken_where_the_method_takes_their_kind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(InputError, match=r"source.pair .*simclr takes no second image, leave it"):
        check_corpus(config(PAIR), corpus(image=3))
    monkeypatch.setattr(SimCLR, "pairs", ("hha",))
    check_corpus(config(PAIR, *HHA), corpus(image=3))
    with pytest.raises(InputError, match=r"needs a second image .*source.pair_kind=hha"):
        check_corpus(config(), corpus(image=3))
    with pytest.raises(InputError, match=r"source.pair_kind colours: .*simclr takes hha"):
        check_corpus(config(PAIR), corpus(image=3))
    with pytest.raises(InputError, match=r"holds videos, which have no second image"):
        check_corpus(config(PAIR, *HHA, "clip.as_frames=true"), corpus(image=3, video=2))
    with pytest.raises(InputError, match=r"views.groups.global_crops.rotate would turn the first"):
        check_corpus(config(PAIR, *HHA, "views.groups.global_crops.rotate.p=1"), corpus(image=3))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("source.pair=depth.png",), r"source.pair: .*one file for all samples"),
        ((PAIR, "source.pair_kind=hha"), r"pair_camera is needed .*\[FX,FY,CX,CY\]"),
        ((PAIR, "source.pair_unit_m=0.01"), r"source.pair_unit_m .*source.pair_kind"),
        (("source.pair_kind=depth",), r"source.pair_kind .*source.pair"),
    ],
)
def test_settings_of_second_images_that_would_do_nothing_are_refused(
    words: tuple[str, ...], says: str
) -> None:
    with pytest.raises(InputError, match=says):
        config(*words)


def test_second_images_make_another_experiment_and_none_the_same_as_ever() -> None:
    plain = config().experiment()
    assert not [key for key in plain if "pair" in key]
    paired = config(PAIR, *HHA).experiment()
    assert {key: paired[key] for key in paired.keys() - plain.keys()} == {
        "source.pair": "../depth/{stem}.png",
        "source.pair_kind": "hha",
        "source.pair_camera": [292.5, 292.5, 160.0, 120.0],
        "source.pair_unit_m": 0.001,
    }
    colours = config(PAIR).experiment()
    assert colours.keys() - plain.keys() == {"source.pair", "source.pair_kind"}
    images = config(PAIR).source.second_images(corpus(image=3), 0)
    assert images is not None and images.files.left_out is None
    assert config().source.second_images(corpus(image=3), 0) is None


def test_an_encoder_of_clips_is_fed_clips() -> None:
    wanted = config("clip.num_frames=5")
    generator = ViewGenerator(wanted.views, 0)
    assert shape_of(wanted, photometric=False).empty(2)["global_crops"].shape == (
        *(2, 2, 3),
        *(16, 16),
    )
    wanted = config("clip.num_frames=5", "encoder.time=frames")
    columns = shape_of(wanted, photometric=False).empty(2)
    assert columns["global_crops"].shape == (2, 2, 5, 3, 16, 16)
    crops = {"global_crops": torch.from_numpy(np.zeros_like(columns["global_crops"]))}
    views = generator(crops, torch.zeros(2).long(), torch.arange(2), photometric_done=True)
    assert views["global_crops"].shape == (2, 2, 5, 3, 16, 16)
