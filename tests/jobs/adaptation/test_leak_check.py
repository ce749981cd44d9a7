"""jobs.adapt check_leak=true: test images whose duplicates the encoder was pretrained on are found,
named, and scored without."""

from pathlib import Path

import pytest
from PIL import Image, ImageOps

from augment.recipe import IMAGENET_MEAN, IMAGENET_STD
from jobs.adapt import AdaptConfig, adapt
from jobs.setup.command_line import InputError
from models import artifact
from models.encoders.factory import EncoderConfig, build_encoder
from pipelines.corpus.listing import list_source
from pipelines.corpus.manifest_writer import write_manifest

pytestmark = pytest.mark.usefixtures("ray_session")


def save(uri: str, provenance: dict[str, object]) -> str:
    config = EncoderConfig(name="resnet18_small", width=8)
    artifact.save(
        uri,
        build_encoder(config, 16),
        config={"encoder": config.model_dump(), "seed": 0},
        preprocess={"image_size": 16, "mean": IMAGENET_MEAN, "std": IMAGENET_STD},
        provenance=provenance,
    )
    return uri


@pytest.mark.long
def test_copies_of_test_images_in_the_corpus_are_found_exact_and_near(
    image_folder: Path, tmp_path: Path
) -> None:
    kept: dict[str, Path] = {}
    for scene in ("scene0", "scene1"):
        images = sorted((image_folder / scene).iterdir())[:16]
        for number, path in enumerate(images):
            part = ("train", "test", "corpus")[0 if number < 8 else 1 if number < 12 else 2]
            target = tmp_path / part / scene / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
            kept[f"{part}/{scene}/{number}"] = target
    corpus = tmp_path / "corpus"
    (corpus / "exact.jpg").write_bytes(kept["test/scene0/8"].read_bytes())
    picture = Image.open(kept["test/scene1/9"]).convert("RGB")
    picture.resize((picture.width * 2, picture.height * 2)).save(corpus / "large.jpg")
    ImageOps.mirror(Image.open(kept["test/scene1/11"]).convert("RGB")).save(corpus / "turned.png")
    (corpus / "broken.jpg").write_bytes(b"no picture")
    manifest = write_manifest(str(tmp_path / "m"), str(corpus), list_source(str(corpus)))
    values = {
        "artifact": save(
            str(tmp_path / "run" / "artifact"), {"source": manifest.uri, "manifest_version": 1}
        ),
        "train": {"uri": str(tmp_path / "train")},
        "test": {"uri": str(tmp_path / "test")},
        "probe": {"k": 3},
        "check_leak": True,
    }
    result = adapt(AdaptConfig.model_validate(values))
    leak = result["leak"]
    pairs = {
        (Path(pair["test"]).name, Path(pair["corpus"]).name, pair["kind"]) for pair in leak["pairs"]
    }
    assert pairs == {
        (kept["test/scene0/8"].name, "exact.jpg", "exact"),
        (kept["test/scene1/9"].name, "large.jpg", "near"),
        (kept["test/scene1/11"].name, "turned.png", "near"),
    }
    assert [pair["matches"] for pair in leak["pairs"]] == [1, 1, 1]
    assert (leak["exact"], leak["near"], leak["test_images"]) == (1, 2, 8)
    assert (leak["corpus_rows"], leak["corpus_unreadable"]) == (12, 1)
    assert 0 <= result["unleaked_top1"] <= 1
    save(values["artifact"], {})
    with pytest.raises(InputError, match=r"its provenance names no source\): give one with leak"):
        adapt(AdaptConfig.model_validate(values))
