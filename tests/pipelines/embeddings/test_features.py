"""What is embedded: each feature is what its description says, and what an encoder cannot give is
refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from augment.recipe import IMAGENET_MEAN, IMAGENET_STD
from models import artifact
from models.encoders.factory import EncoderConfig, build_encoder
from models.probes import colour_statistics
from pipelines.embeddings.features import Extractor, Features
from tests.captioned import SIDE, save_captioned


def save(folder: Path, name: str, size: int, **settings: Any) -> str:
    config = EncoderConfig.model_validate({"name": name} | settings)
    torch.manual_seed(1)
    encoder = build_encoder(config, size)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))  # as though it were trained
    artifact.save(
        str(folder),
        encoder,
        config={"encoder": config.model_dump(mode="json"), "seed": 0},
        preprocess={"image_size": size, "mean": IMAGENET_MEAN, "std": IMAGENET_STD},
        provenance={},
    )
    return str(folder)


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save(tmp_path_factory.mktemp("resnet"), "resnet18_small", 32, width=8)


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save(tmp_path_factory.mktemp("vit"), "vit_tiny_patch16_224", 48)


def images(size: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(size)
    return torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8, generator=generator)


@torch.no_grad()
def test_each_feature_is_what_its_description_says(vit: str) -> None:
    token = Features(vit, pooling="class")
    columns = {
        "own": Features(vit),
        "class": token,
        "third": replace(token, layer=3),
        "last_two": replace(token, last_blocks=2),
        "before_last": replace(token, layer=-2),
        "tokens": Features(vit, form="tokens", normalised=True),
        "maps": Features(vit, form="maps", half=True),
        "untrained": Features(vit, kind="untrained"),
        "colour": Features(vit, kind="colour"),
    }
    pixels = images(48)
    found = Extractor(columns)({48: pixels})
    assert set(found) == set(columns)
    loaded = artifact.load(vit)
    prepared = loaded.preprocess(pixels)
    layers: Any = loaded.encoder.layers(prepared, [3, 11, 12])
    expected = {
        "own": loaded(prepared),
        "class": layers[2].cls,
        "third": layers[0].cls,
        "last_two": torch.cat([layers[1].cls, layers[2].cls], dim=1),
        "before_last": layers[1].cls,
        "tokens": functional.normalize(layers[2].patches, dim=2),
        "maps": loaded.encoder.maps(prepared).half(),
        "untrained": artifact.untrained(vit)(prepared),
        "colour": colour_statistics(pixels),
    }
    for name, values in expected.items():
        torch.testing.assert_close(found[name], values, rtol=1e-3, atol=1e-4)


def save_inflated(folder: Path) -> str:
    """Write an artifact of an encoder of clips, four frames of 16 px."""
    config = EncoderConfig(name="resnet18_small", width=4, time="inflated")
    artifact.save(
        str(folder),
        build_encoder(config, 16),
        config={"encoder": config.model_dump(mode="json"), "seed": 0},
        preprocess={"image_size": 16, "mean": [0.5] * 3, "std": [0.5] * 3, "num_frames": 4},
        provenance={},
    )
    return str(folder)


@torch.no_grad()
def test_a_clip_stands_still_for_the_control_without_motion(tmp_path: Path) -> None:
    uri = save_inflated(tmp_path)
    columns = {kind: Features(uri, kind=kind) for kind in ("pretrained", "still")}
    extract = Extractor(columns)
    pixels = torch.stack([images(16) // (frame + 1) for frame in range(4)], dim=1)
    found = extract({16: pixels})
    still = pixels[:, 2:3].expand(-1, 4, -1, -1, -1)
    assert torch.equal(found["still"], extract({16: still})["pretrained"])
    assert not torch.allclose(found["still"], found["pretrained"], atol=1e-3)
    first, second = extract._loaded.values()
    assert first is second  # one network in memory


@torch.no_grad()
def test_encoders_of_two_sizes_each_take_their_own_images(vit: str, resnet: str) -> None:
    both = {"a": Features(vit), "b": Features(resnet, pooling="gem", layer=2, last_blocks=2)}
    extract = Extractor(both)
    assert extract.sizes == [32, 48]
    found = extract({size: images(size) for size in extract.sizes})
    for name, size in (("a", 48), ("b", 32)):
        alone = Extractor({name: both[name]})({size: images(size)})
        assert torch.equal(found[name], alone[name])
    assert found["b"].shape == (2, 8 + 16)
    wide = Extractor({"maps": Features(resnet, form="maps", last_blocks=4)})({32: images(32)})
    assert wide["maps"].shape == (2, 8 + 16 + 32 + 64, 4, 4)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"layer": 5}, r"layer 5 is none of the encoder, which has 4: give 1 to 4, or -1"),
        ({"layer": -5}, r"layer -5 is none of"),
        ({"layer": 2, "last_blocks": 3}, r"last_blocks 3 must be 1 to 2"),
        ({"pooling": "class"}, r"pooling=class cannot be done .* choose one of auto, mean, max"),
    ],
)
def test_what_an_encoder_does_not_give_is_refused(
    asked: dict[str, Any], message: str, resnet: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Extractor({"x": Features(resnet, **asked)})


def test_an_encoder_without_maps_gives_its_embedding_alone(tmp_path: Path) -> None:
    place = save(tmp_path, "torchvision:densenet121", 32)
    assert Extractor({"x": Features(place)})({32: images(32)})["x"].shape == (2, 1024)
    with pytest.raises(ValueError, match="densenet121 gives an embedding and no feature maps"):
        Extractor({"x": Features(place, form="tokens")})


@pytest.mark.parametrize("form", ["pooled", "tokens", "maps"])
def test_half_precision_turns_vectors_hardly(form: Any, vit: str, resnet: str) -> None:
    for uri, size in ((vit, 48), (resnet, 32)):
        columns, pixels = {"found": Features(uri, form=form, normalised=True)}, {size: images(size)}
        exact = Extractor(columns)(pixels)["found"]
        half = Extractor(columns, autocast=torch.bfloat16)(pixels)["found"]
        assert half.dtype == torch.float32 and not half.equal(exact)
        turned = (half - exact).norm(dim=2 if form == "tokens" else 1)
        assert turned.max() < 0.02


def test_joint_vectors_are_the_projected_ones_beside_the_embedding(tmp_path: Path) -> None:
    uri = str(tmp_path / "pairs")
    save_captioned(uri)
    loaded = artifact.load(uri)
    columns = {
        "joint": Features(uri, form="joint"),
        "own": Features(uri),
        "untrained": Features(uri, "untrained", form="joint"),
    }
    images = torch.randint(0, 256, (4, 3, SIDE, SIDE), dtype=torch.uint8)
    found = Extractor(columns)({SIDE: images})
    prepared = loaded.preprocess(images)
    with torch.no_grad():
        torch.testing.assert_close(found["joint"], loaded.joint(prepared))
        torch.testing.assert_close(found["own"], loaded(prepared))
        before = artifact.untrained(uri).joint(prepared)
    torch.testing.assert_close(found["untrained"], before)
    with pytest.raises(ValueError, match="leave out layer and last_blocks"):
        Extractor({"joint": Features(uri, form="joint", layer=-2)})


def test_joint_vectors_of_an_artifact_without_a_text_tower_are_refused(resnet: str) -> None:
    with pytest.raises(ValueError, match="no text tower"):
        Extractor({"joint": Features(resnet, form="joint")})
