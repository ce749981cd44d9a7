"""jobs.adapt on files with frozen features: two encoders in one pass, several labels, masks."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from jobs.adapt import AdaptConfig, ProbeConfig, adapt, embed_labelled, judge
from jobs.probing.probe_sections import OWN
from jobs.reporting.adaptation_page import RESULT
from jobs.setup.failures import InputError
from pipelines.corpus.listing import list_source
from pipelines.corpus.manifest_writer import write_manifest

pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.fixture
def labelled(image_folder: Path, tmp_path: Path) -> Path:
    """Three scenes; a table says which image has which classes."""
    rows = ["uri,label,split"]
    for number, scene in enumerate(("scene0", "scene1", "scene2")):
        for index, image in enumerate(sorted((image_folder / scene).iterdir())[:20]):
            split = "train" if index < 14 else "test"
            folder = tmp_path / split / scene
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(image, folder)
            names = f"{scene}|outside" if number == 1 else scene
            rows.append(f"{folder / image.name},{names},{split}")
    (tmp_path / "several.csv").write_text("\n".join(rows))
    return tmp_path


def config(uri: str, folder: Path, **more: Any) -> AdaptConfig:
    values = {
        "artifact": uri,
        "train": {"uri": str(folder / "train")},
        "test": {"uri": str(folder / "test")},
        **more,
    }
    return AdaptConfig.model_validate(values)


@pytest.mark.slow
def test_two_encoders_each_get_their_own_preprocessing_in_one_pass(
    labelled: Path, small_artifact: str, other_artifact: str
) -> None:
    sweep = {"name": "linear", "pooling": ["auto", "max"], "blocks": [1, 2]}
    wanted = config(
        small_artifact, labelled, compare=other_artifact, probe=sweep, val={"fraction": 0.3}
    )
    features = embed_labelled(wanted)
    linear = judge(wanted.probe, features)
    assert len(linear["settings"]) == 4 * 4
    assert {(one["pooling"], one["blocks"]) for one in linear["settings"]} == {
        ("auto", 1),
        ("auto", 2),
        ("max", 1),
        ("max", 2),
    }
    assert "ahead of compared by" in linear["result"]
    alone = embed_labelled(config(other_artifact, labelled, val={"fraction": 0.3}))
    torch.testing.assert_close(
        alone.features["pretrained"][OWN], features.features["compared"][OWN]
    )
    probe = ProbeConfig(name="knn", k=(5,))
    assert judge(probe, alone)["top1"] == judge(probe, features)["compared_top1"]
    with pytest.raises(InputError, match=r"compare .* is the encoder of artifact"):
        adapt(config(small_artifact, labelled, compare=small_artifact))


@pytest.mark.slow
def test_several_labels_a_sample_are_judged_by_average_precision_and_left_in_out(
    labelled: Path, small_artifact: str
) -> None:
    several = {"train": {"uri": str(labelled / "several.csv")}, "test": {}}
    out = labelled / "out"
    values = {"probe": {"name": "linear"}, "val": {"fraction": 0.3}, "out": str(out), **several}
    told = adapt(config(small_artifact, labelled, **values))
    assert set(told["per_class"]) == {"outside", "scene0", "scene1", "scene2"}
    assert told["per_class"]["outside"] == pytest.approx(told["per_class"]["scene1"], abs=0.02)
    assert told["ci95"][0] <= told["map"] <= told["ci95"][1]
    assert told["chosen"]["weight_decay"] in (1e-4, 1e-3, 1e-2, 1e-1)
    written = json.loads((out / RESULT).read_bytes())
    assert written == {name: value for name, value in told.items() if name != "result"}
    with pytest.raises(InputError, match="holds another adaptation: it differs in probe"):
        adapt(config(small_artifact, labelled, **values | {"probe": {"name": "knn"}}))


@pytest.mark.slow
@pytest.mark.parametrize("compared", [False, True])
def test_nearest_patches_tell_masks(
    compared: bool, tmp_path: Path, small_artifact: str, other_artifact: str
) -> None:
    draw = np.random.default_rng(0)
    for split, count in (("train", 16), ("test", 6)):
        for number in range(count):
            pixels = draw.integers(0, 60, (24, 32, 3))
            mask = np.zeros((24, 32), np.uint8)
            half = np.s_[:, 16:] if number % 2 else np.s_[:, :16]
            pixels[half] += 150
            mask[half] = 1
            if not compared and (split, number) == ("test", 1):
                mask = 1 - mask  # a wrong one, of the image that the corpus has
            mask[0] = 255
            for kind, values in ((split, pixels.astype(np.uint8)), ("masks", mask)):
                folder = tmp_path / kind
                folder = folder / split if kind == "masks" else folder
                folder.mkdir(parents=True, exist_ok=True)
                Image.fromarray(values).save(folder / f"{split}{number}.png")
    masks = {"masks": {"uri": str(tmp_path / "masks")}, "val": {"fraction": 0.2}}
    probe = {"k": [3, 9], "patches": 100}
    other: dict[str, Any] = {"compare": other_artifact}
    if not compared:
        (tmp_path / "corpus").mkdir()
        shutil.copy(tmp_path / "test" / "test1.png", tmp_path / "corpus")
        corpus = str(tmp_path / "corpus")
        manifest = write_manifest(str(tmp_path / "m"), corpus, list_source(corpus))
        other = {"check_leak": True, "leak": {"corpus": manifest.uri, "max_distance": 0}}
    told = adapt(config(small_artifact, tmp_path, probe=probe, **other, **masks))
    assert told["task"] == "mask" and told["num_test"] == 6
    assert told["colour_miou"] > 0.6 and told["miou"] > 0.5
    assert told["ci95"][0] <= told["miou"] <= told["ci95"][1]
    assert (
        set(told["by_k"]) == {"3", "9"} and told["by_k"][str(told["chosen"]["k"])] == told["miou"]
    )
    if not compared:
        assert (told["leak"]["exact"], told["leak"]["near"]) == (1, 0)
        assert told["unleaked_miou"] > told["miou"] + 0.1
        assert told["colour_unleaked_miou"] > told["colour_miou"] + 0.1
        return
    assert told["difference"] == pytest.approx(told["miou"] - told["compared_miou"])
    with pytest.raises(InputError, match=r"probe.k 101 is more than the 64 labelled patches"):
        adapt(config(small_artifact, tmp_path, probe={"k": 101, "patches": 100}, **masks))
