"""Adaptations that train: they learn, they resume, and what they leave tells the same."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.ops import box_iou

from jobs.adapt import complete, run
from jobs.adaptation.trained import adapt_by_training
from jobs.adaptation.training_sections import TrainedAdaptConfig
from jobs.artifact import MakeArtifactConfig, make
from jobs.reporting.adaptation_page import RESULT
from jobs.setup.command_line import main
from jobs.setup.failures import InputError
from models import artifact
from models.encoders.factory import EncoderConfig, build_encoder
from models.supervised.head import AttentiveHead
from pipelines.corpus.listing import list_source
from pipelines.corpus.manifest_writer import write_manifest
from pipelines.predictions.one_image import tell
from tests.faults.killing import Killer

pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.fixture
def brightness(tmp_path: Path) -> Path:
    """Noise in two classes, of which one is brighter; the right half of every image is."""
    draw = np.random.default_rng(0)
    for split, count in (("train", 16), ("test", 8)):
        for number in range(2 * count):
            name = "bright" if number % 2 else "dark"
            pixels = draw.integers(0, 100, (24, 24, 3)) + 100 * (number % 2)
            folder = tmp_path / split / name
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{split}{number}.png")
    return tmp_path


@pytest.fixture
def halves(tmp_path: Path) -> Path:
    """Noise whose one half is brighter, with masks that say which; a border is not judged."""
    draw = np.random.default_rng(0)
    for split, count in (("train", 16), ("test", 6)):
        for number in range(count):
            pixels = draw.integers(0, 80, (24, 32, 3))
            mask = np.zeros((24, 32), np.uint8)
            half = np.s_[:, 16:] if number % 2 else np.s_[:, :16]
            pixels[half] += 150
            mask[half] = 255
            mask[0] = 9
            for kind, values in (("images", pixels.astype(np.uint8)), ("masks", mask)):
                folder = tmp_path / kind / split
                folder.mkdir(parents=True, exist_ok=True)
                Image.fromarray(values).save(folder / f"{split}{number}.png")
    return tmp_path


@pytest.fixture
def squares(tmp_path: Path) -> Path:
    """Noise with a bright square or a dark one, their boxes in a COCO file."""
    draw = np.random.default_rng(0)
    images = []
    boxes = []
    for split, count in (("train", 24), ("test", 6)):
        for number in range(count):
            pixels = draw.integers(100, 140, (24, 32, 3)).astype(np.uint8)
            left, top = draw.integers(0, (20, 12))
            pixels[top : top + 10, left : left + 10] = 250 if number % 2 else 5
            folder = tmp_path / "images" / split
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / f"{split}{number}.png")
            name = f"{split}/{split}{number}.png"
            wide = 30 if name == "train/train3.png" else 32  # of another image
            images.append({"id": name, "file_name": name, "height": 24, "width": wide})
            box = {"bbox": [int(left), int(top), 10, 10], "category_id": number % 2}
            boxes.append({"id": len(boxes), "image_id": name, "iscrowd": 0, **box})
    names = [{"id": 0, "name": "dark"}, {"id": 1, "name": "bright"}]
    said = {"images": images, "annotations": boxes, "categories": names}
    (tmp_path / "boxes.json").write_text(json.dumps(said))
    return tmp_path


def config(small_artifact: str, folder: Path, name: str, **more: Any) -> TrainedAdaptConfig:
    values = {
        "artifact": small_artifact,
        "train": {"uri": str(folder / "train")},
        "test": {"uri": str(folder / "test")},
        "out": str(folder / "out"),
        "probe": {"name": name, **more.pop("probe", {})},
        "optim": {"lr": 0.01, "lr_scaling": "none"},
        "views": {"scale": (0.5, 1.0)},
        "global_batch_size": 16,
        "num_steps": 12,
        "log": {"every_steps": 4, "tensorboard": False},
        **more,
    }
    return TrainedAdaptConfig.model_validate(values)


@pytest.mark.long
def test_finetuning_learns_leaves_an_artifact_and_is_not_done_twice(
    small_artifact: str, brightness: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = config(small_artifact, brightness, "finetune", probe={"baseline": False})
    result = adapt_by_training(wanted)
    assert result["classes"] == ["bright", "dark"] and result["num_classes"] == 2
    assert result["top1"] > 0.9 and result["ci95"][0] <= result["top1"]
    assert set(result) >= {"confusion", "calibration_error", "nll"}
    assert result["colour_top1"] > 0.9 and ", colour " in result["result"]
    assert result["per_class"].keys() == {"bright", "dark"}
    assert result["parameters"]["trained"] > 0
    assert result["result"].startswith("finetune top-1 of 2 classes: pretrained ")
    assert json.loads((brightness / "out" / RESULT).read_text())["top1"] == result["top1"]
    adapted = artifact.load(result["artifact"])
    assert adapted.digest == result["artifact_digest"]
    files = list(brightness.glob("test/*/*.png"))
    told = [tell(adapted, file)["label"] == file.parent.name for file in files]
    assert sum(told) / len(files) == result["top1"]
    capsys.readouterr()
    assert adapt_by_training(wanted) == result
    assert "steps of" not in capsys.readouterr().err

    shutil.move(brightness / "train" / "dark", brightness / "train" / "dim")
    shutil.move(brightness / "test" / "dark", brightness / "test" / "dim")
    with pytest.raises(
        InputError, match=r"another experiment: it differs in method\.head\.classes"
    ):
        adapt_by_training(wanted)


@pytest.mark.long
def test_segmentation_learns_the_class_of_each_pixel(small_artifact: str, halves: Path) -> None:
    masks = {"uri": str(halves / "masks"), "ignore": 9}
    corpus = halves / "corpus"
    corpus.mkdir()
    shutil.copy(halves / "images" / "test" / "test1.png", corpus)
    manifest = write_manifest(str(halves / "m"), str(corpus), list_source(str(corpus)))
    given = config(
        small_artifact,
        halves / "images",
        "segment",
        masks=masks,
        check_leak=True,
        leak={"corpus": manifest.uri, "max_distance": 0},
        num_steps=20,
        optim={"lr": 0.05, "lr_scaling": "none"},
        probe={"baseline": False},
    )
    result = adapt_by_training(given)
    assert result["miou"] > 0.6 and result["ci95"][0] <= result["miou"] <= result["ci95"][1]
    assert result["per_class"].keys() == {"0", "255"}
    assert (result["leak"]["exact"], result["leak"]["near"]) == (1, 0)
    assert 0.6 < result["unleaked_miou"] != result["miou"]
    assert "untrained_miou" not in result
    assert np.trace(result["confusion"]) / np.sum(result["confusion"]) == result["pixel_top1"]
    assert "segment mIoU of 2 classes" in result["result"]
    head = artifact.load(result["artifact"]).head
    assert head is not None and head.config.values == (0, 255)
    start = artifact.load(small_artifact).encoder.state_dict()
    tuned = artifact.load(result["artifact"]).encoder.state_dict()
    assert all((tuned[name] == value).all() for name, value in start.items())


@pytest.mark.long
@pytest.mark.timeout(300)
def test_detection_learns_boxes_and_its_artifact_tells_them(
    small_artifact: str, squares: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = config(
        small_artifact,
        squares / "images",
        "detect",
        boxes={"uri": str(squares / "boxes.json")},
        num_steps=240,
        optim={"lr": 0.003, "lr_scaling": "none"},
        views={"size": 64, "scale": (0.5, 1.0)},  # the least anchors are of 16 px
        probe={"baseline": False, "trained": "all", "width": 16},
    )
    result = adapt_by_training(given)
    assert result["map50"] > 0.3 and 0 <= result["map"] <= result["map50"]
    assert result["ci95"][0] <= result["map50"] <= result["ci95"][1]
    assert result["per_class"].keys() == {"bright", "dark"} == set(result["classes"])
    assert result["result"].startswith("detect mAP50 of 2 classes: pretrained ")
    assert result["unreadable_names"]["train"] == ["train3.png"]
    assert "1 x boxes" in capsys.readouterr().err
    adapted = artifact.load(result["artifact"])
    pixels = np.asarray(Image.open(squares / "images" / "test" / "test1.png"))
    found = adapted.predict(torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None])[0]
    said = json.loads((squares / "boxes.json").read_text())["annotations"]
    left, top, wide, tall = next(b["bbox"] for b in said if b["image_id"] == "test/test1.png")
    true = torch.tensor([[left, top, left + wide, top + tall]])
    assert box_iou(found.corners[:1], true) > 0.5
    assert (found.corners <= torch.tensor([32, 24, 32, 24])).all()


def test_an_encoder_of_sounds_is_refused_before_anything_starts(
    brightness: Path, tmp_path: Path
) -> None:
    heard = EncoderConfig.model_validate({"name": "wave_gru", "width": 8})
    artifact.save(
        str(tmp_path / "sounds"),
        build_encoder(heard, 4000),
        config={"encoder": heard.model_dump(mode="json"), "seed": 0},
        preprocess={"image_size": 4000, "rate": 8000, "std": 0.1},
        provenance={},
    )
    asked = config(str(tmp_path / "sounds"), brightness, "finetune")
    with pytest.raises(InputError, match=r"is an encoder of sounds: take probe\.name=linear"):
        adapt_by_training(asked)


def test_labels_of_another_kind_are_refused(small_artifact: str, brightness: Path) -> None:
    with pytest.raises(
        InputError, match=r"probe\.name segment learns from mask labels, .* class: give masks\.uri"
    ):
        adapt_by_training(config(small_artifact, brightness, "segment"))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_random_weights_are_trained_beside_it(small_artifact: str, brightness: Path) -> None:
    given = config(small_artifact, brightness, "finetune", num_steps=4)
    result = adapt_by_training(given)
    assert {"top1", "ci95", "scratch_top1", "scratch_ci95"} <= set(result)
    assert ", scratch " in result["result"]
    own, other = (
        artifact.load(str(brightness / "out" / part)) for part in ("artifact", "scratch/artifact")
    )
    assert own.digest != other.digest


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_of_several_settings_the_best_on_validation_ships_alone(
    small_artifact: str, brightness: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"lr_scales": [1e-6, 1], "weight_decays": 0.1}
    given = config(
        small_artifact,
        brightness,
        "attentive",
        probe=settings,
        val={"fraction": 0.25},
        num_steps=30,
    )
    result = adapt_by_training(given)
    assert result["num_train"] + result["num_val"] == 32 and result["num_val"] >= 4
    still, learnt = result["settings"]
    assert result["chosen"] == {"lr_scale": 1.0, "weight_decay": 0.1}
    assert still["val_top1"] < learnt["val_top1"] and result["top1"] > 0.9
    assert len(result["untrained_settings"]) == 2 and result["untrained_chosen"]
    assert "chosen of 2 settings by" in capsys.readouterr().err
    page = (brightness / "out" / "index.html").read_text()
    assert "Settings tried on validation" in page and "lr scale" in page
    adapted = artifact.load(result["artifact"])
    assert adapted.provenance["chosen"] == result["chosen"]
    assert isinstance(adapted.head, AttentiveHead)
    files = list(brightness.glob("test/*/*.png"))
    told = [tell(adapted, file)["label"] == file.parent.name for file in files]
    assert sum(told) / len(files) == result["top1"]
    assert not (brightness / "out" / "heads").exists()
    made = MakeArtifactConfig(run=str(brightness / "out"), out=str(brightness / "made"))
    assert make(made)["artifact_digest"]
    again = artifact.load(str(brightness / "made")).head
    assert again is not None
    for name, value in adapted.head.state_dict().items():
        assert (again.state_dict()[name] == value).all(), name
    assert adapt_by_training(given) == result
    assert "steps of" not in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_same_is_trained_from_another_artifact_and_judged_on_the_same_samples(
    small_artifact: str, other_artifact: str, brightness: Path
) -> None:
    few = {"probe": {"baseline": False}, "num_steps": 4}
    given = config(small_artifact, brightness, "finetune", compare=other_artifact, **few)
    result = adapt_by_training(given)
    low, high = result["difference_ci95"]
    assert low <= result["difference"] <= high
    assert result["difference"] == pytest.approx(result["top1"] - result["compared_top1"])
    assert result["compared_digest"] == artifact.load(other_artifact).digest
    assert "; ahead of compared by " in result["result"]
    page = (brightness / "out" / "index.html").read_text()
    assert "Ahead of the compared encoder by" in page
    alone = config(other_artifact, brightness, "finetune", **few)
    alone = alone.model_copy(update={"out": str(brightness / "alone")})
    assert adapt_by_training(alone)["top1"] == result["compared_top1"]
    own, theirs = (
        artifact.load(str(brightness / place / "artifact")).encoder.state_dict()
        for place in ("alone", "out/compare")
    )
    for name, value in theirs.items():
        torch.testing.assert_close(own[name], value)
    assert adapt_by_training(given) == result
    with pytest.raises(InputError, match=r"another experiment: it differs in .*encoder\.weights"):
        adapt_by_training(given.model_copy(update={"compare": str(brightness / "alone")}))


def test_an_artifact_is_not_compared_with_itself(small_artifact: str, brightness: Path) -> None:
    with pytest.raises(InputError, match=r"compare .* is the encoder of artifact .*: give another"):
        adapt_by_training(config(small_artifact, brightness, "finetune", compare=small_artifact))


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_killed_adaptation_goes_on_with_another_number_of_workers(
    small_artifact: str, brightness: Path
) -> None:
    words = [f"artifact={small_artifact}", f"train.uri={brightness}/train"]
    words += [f"test.uri={brightness}/test", "probe.name=finetune", f"out={brightness}/out"]
    words += ["probe.baseline=false", "num_steps=120", "global_batch_size=48"]
    words += ["checkpoint.every_s=1", "log.every_steps=5", "optim.lr=0.01"]
    Killer(words, seed=1, kills=2, victims=("train worker", "driver"), verb="adapt").run()
    result = json.loads((brightness / "out" / RESULT).read_text())
    assert result["top1"] > 0.9
    lines = (brightness / "out" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["step"] == 120


@pytest.mark.parametrize(
    "given",
    [
        ["probe.name=segment", "probe.mixup=0.5"],
        ["probe.name=finetune", "probe.lr_scales=[1,2]"],
        ["probe.name=attentive", "probe.trained=all", "probe.weight_decays=0.1"],
        ["probe.name=attentive", "optim.weight_decay=0.1"],
        ["probe.name=segment", "start.layer_decay=0.5"],
        ["probe.name=attentive", "start.frozen_steps=3"],
        ["probe.name=finetune", "probe.trained=lora", "start.pull=0.1"],
    ],
)
def test_the_command_line_refuses_what_another_probe_takes(
    given: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["artifact=a", "train.uri=t", "test.uri=t", "out=o"]
    assert main("adapt", "", complete, run, [*words, *given]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert given[-1].partition("=")[0] in line
