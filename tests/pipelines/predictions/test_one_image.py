"""One image is told of in this process, whatever form it comes in."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from augment.recipe import IMAGENET_MEAN, IMAGENET_STD
from models.artifact import Artifact
from models.encoders.factory import EncoderConfig, build_encoder
from models.preprocess import Preprocess
from models.supervised.head import HeadConfig, build_head
from pipelines.predictions.one_image import Source, tell


def adapted(head: HeadConfig | None) -> Artifact:
    encoder = build_encoder(EncoderConfig(name="resnet18_small", width=8), 16)
    preprocess = Preprocess(image_size=16, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    return Artifact(
        encoder,
        digest="",
        config={},
        preprocess=preprocess,
        provenance={},
        head=build_head(head, encoder) if head else None,
    )


@pytest.fixture
def photograph(photographs: list[np.ndarray]) -> np.ndarray:
    return photographs[1][:90, :120]


def test_a_file_its_bytes_pixels_and_pillows_image_are_told_alike(
    photograph: np.ndarray, tmp_path: Path
) -> None:
    network = adapted(HeadConfig(name="linear", classes=("a", "b", "c")))
    image = Image.fromarray(photograph)
    image.save(tmp_path / "cat.png")
    data = (tmp_path / "cat.png").read_bytes()
    forms: list[Source] = [tmp_path / "cat.png", str(tmp_path / "cat.png"), data, image, photograph]
    first, *others = [tell(network, form, top_k=2) for form in forms]
    assert all(told == first for told in others)
    assert first["label"] == first["top_labels"][0] and len(first["top_labels"]) == 2


def test_a_photograph_taken_sideways_is_told_of_upright(photograph: np.ndarray) -> None:
    network = adapted(HeadConfig(name="dense", task="mask", classes=("a", "b")))
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    Image.fromarray(photograph).save(file, "PNG", exif=exif)
    told = tell(network, file.getvalue())
    assert told["mask"].shape == (120, 90) and told["classes"] == ["a", "b"]
    assert (tell(network, Image.open(file))["mask"] == told["mask"]).all()


def test_boxes_are_told_in_the_pixels_of_the_image(photograph: np.ndarray) -> None:
    network = adapted(HeadConfig(name="boxes", task="boxes", classes=("a",), width=16))
    network.head.detector.score_thresh = 0.0  # type: ignore[union-attr]  # it has learnt nothing
    told = tell(network, photograph, min_score=0)
    assert (told["height"], told["width"]) == (90, 120) and told["boxes"]
    for box in told["boxes"]:
        right, bottom = box["x"] + box["width"], box["y"] + box["height"]
        assert 0 <= box["x"] <= np.float32(right) <= 120  # sides are told as float32
        assert 0 <= box["y"] <= np.float32(bottom) <= 90
    assert tell(network, photograph, min_score=0.99)["boxes"] == []


def test_what_cannot_be_told_is_refused_in_one_line(tmp_path: Path) -> None:
    network = adapted(HeadConfig(name="linear", classes=("a", "b")))
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"bad\.jpg: unknown_type: "):
        tell(network, tmp_path / "bad.jpg")
    with pytest.raises(ValueError, match=r"\(H, W, 3\) uint8, got \(4, 4\) float64"):
        tell(network, np.zeros((4, 4)))
    with pytest.raises(ValueError, match=r"no head: adapt it first, with jobs\.adapt"):
        tell(adapted(None), np.zeros((4, 4, 3), np.uint8))
