"""jobs.predict: one row a sample, of videos too; what is missing is written, and nothing twice."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from augment.recipe import IMAGENET_MEAN, IMAGENET_STD
from jobs.predict import PredictConfig, predict_source
from jobs.setup.failures import InputError
from models import artifact
from models.encoders.factory import EncoderConfig, build_encoder
from models.supervised.head import HeadConfig, build_head
from pipelines.embeddings.provenance import KEY, Provenance
from pipelines.predictions.one_image import tell
from pipelines.registry.model_versions import register
from pipelines.registry.moves import promote
from pipelines.registry.registered_model import RegisteredModel
from pipelines.registry.signature import Signature
from tests.pipelines.media.videos import video


def adapted(folder: Path, head: HeadConfig) -> str:
    """Write an artifact with a random head."""
    encoder_config = EncoderConfig(name="resnet18_small", width=8)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = build_encoder(encoder_config, 16)
        network = build_head(head, encoder)
    config = {"encoder": encoder_config.model_dump(), "seed": 0}
    preprocess = {"image_size": 16, "mean": IMAGENET_MEAN, "std": IMAGENET_STD}
    artifact.save(
        str(folder), encoder, config=config, preprocess=preprocess, provenance={}, head=network
    )
    return str(folder)


def registered(registry: Path, *artifacts: str) -> RegisteredModel:
    """Register artifacts; the first is the champion."""
    model = RegisteredModel(str(registry), "head")
    by = Signature.now("test")
    for place in artifacts:
        register(model, place, lineage={}, metrics={}, by=by)
    promote(model, "champion", 1, by=by)
    return model


def config(artifact_uri: str, source: Path, out: Path, **more: object) -> PredictConfig:
    values = {"artifact": artifact_uri, "source": {"uri": str(source), "max_bad_fraction": 0.5}}
    return PredictConfig.model_validate({**values, "out": str(out), "part_rows": 16, **more})


@pytest.mark.long
@pytest.mark.usefixtures("ray_session")
def test_every_sample_is_told_once_and_only_what_is_missing_is_written(
    image_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "source"
    shutil.copytree(image_folder / "scene0", source)
    (source / "07.jpg").write_bytes(b"no picture")
    for number in range(3):
        (source / f"{10 + number}.mp4").write_bytes(video(30))
    uri = adapted(tmp_path / "artifact", HeadConfig(name="linear", classes=("a", "b", "c")))
    other = adapted(tmp_path / "other", HeadConfig(name="linear", classes=("a", "b")))
    model = registered(tmp_path / "registry", uri, other)
    named = f"{model.uri}@champion"
    wanted = config(named, source, tmp_path / "out", clip={"per_video": 5}, probabilities=True)
    result = predict_source(wanted)
    assert (result["rows"], result["quarantined"]) == (27, 1)
    assert sum(result["reasons"].values()) == 1 and result["parts_written"] > 2
    place = tmp_path / "out" / "predictions"
    table = pq.read_table(place)
    rows = {Path(row["uri"]).name: row for row in table.to_pylist()}
    files = {path.name for path in source.iterdir()}
    assert len(rows) == table.num_rows and rows.keys() == files - {"07.jpg"}
    assert {row["clips"] for name, row in rows.items() if name.endswith("mp4")} == {5}
    first = next(place.iterdir())
    metadata = pq.read_schema(first).metadata
    made = json.loads(metadata[KEY])["predictions"]
    assert (made["classes"], made["artifact"]) == (["a", "b", "c"], model.version(1, "artifact"))
    assert Provenance.read(metadata) == Provenance(str(source), 1, {})

    loaded = artifact.load(uri)
    pixels = torch.from_numpy(np.array(Image.open(source / "00.png")))
    with torch.inference_mode():
        told = loaded.predict(loaded.preprocess(pixels.permute(2, 0, 1)[None]))[0].numpy()
    assert rows["00.png"]["probabilities"] == pytest.approx(told, abs=0.02)
    assert rows["00.png"]["label"] == "abc"[int(np.argmax(rows["00.png"]["probabilities"]))]
    assert rows["00.png"]["probability"] == max(rows["00.png"]["probabilities"])
    for name in ("00.png", "06.jpg"):
        alone = tell(loaded, source / name, top_k=3)
        assert alone.pop("top_probabilities") == pytest.approx(rows[name]["top_probabilities"])
        assert alone.pop("probability") == pytest.approx(rows[name]["probability"])
        assert alone == {key: rows[name][key] for key in ("label", "top_labels")}

    first.unlink()
    promote(model, "champion", 2, by=Signature.now("test"))
    capfd.readouterr()
    again = predict_source(wanted)
    assert (
        f"artifact {named} is version 2 now, and out was begun with version 1: going on with that;"
        " for version 2 choose another out"
    ) in capfd.readouterr().err
    assert again["parts_written"] == 1 and first.exists()
    assert pq.read_table(place).equals(table)
    with pytest.raises(InputError, match=r"another prediction: it differs in top_k"):
        predict_source(wanted.model_copy(update={"top_k": 1}))
    with pytest.raises(InputError, match=r"another prediction: it differs in artifact_digest"):
        predict_source(wanted.model_copy(update={"artifact": f"{model.uri}@2"}))


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_masks_lie_beside_the_rows_under_the_names_of_their_samples(
    image_folder: Path, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    shutil.copytree(image_folder / "scene0", source / "deep")
    head = HeadConfig(name="dense", task="mask", classes=("a", "b"))
    uri = adapted(tmp_path / "artifact", head)
    result = predict_source(config(uri, source, tmp_path / "out"))
    assert result["rows"] == 25
    for row in pq.read_table(tmp_path / "out" / "predictions").to_pylist():
        name = Path(row["uri"]).name
        assert row["mask"] == str(tmp_path / "out" / "masks" / "deep" / f"{name}.png")
        mask = np.asarray(Image.open(row["mask"]))
        assert mask.shape == (row["height"], row["width"])
        assert mask.shape == Image.open(row["uri"]).size[::-1]
        assert np.bincount(mask.reshape(-1), minlength=2).tolist() == row["class_pixels"]
        assert (tell(artifact.load(uri), row["uri"])["mask"] == mask).mean() > 0.99


def test_an_artifact_without_a_head_is_refused_with_the_remedy(
    small_artifact: str, image_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"has no head: adapt it first, with python -m jobs.adapt"):
        predict_source(config(small_artifact, image_folder, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_what_has_no_effect_on_what_a_head_tells_is_refused(
    image_folder: Path, tmp_path: Path
) -> None:
    boxes = adapted(tmp_path / "boxes", HeadConfig(name="boxes", task="boxes", classes=("a",)))
    with pytest.raises(InputError, match=r"top_k=1 has no effect: .* tells boxes: leave it out"):
        predict_source(config(boxes, image_folder, tmp_path / "out", top_k=1))
    linear = adapted(tmp_path / "linear", HeadConfig(name="linear", classes=("a", "b")))
    with pytest.raises(InputError, match=r"min_score=0\.5 has no effect: .* tells class"):
        predict_source(config(linear, image_folder, tmp_path / "out", min_score=0.5))
