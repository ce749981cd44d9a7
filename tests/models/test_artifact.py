"""The artifact: what is saved is what is loaded, without Ray and without pickle."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import skimage.data
import torch
from torch import nn

from augment.presets import simclr_views
from augment.recipe import IMAGENET_MEAN, IMAGENET_STD
from models import artifact
from models.contrastive.simclr import SimCLRConfig
from models.encoders.factory import EncoderConfig
from models.registry import build_method

SIZE = 16
ENCODER = EncoderConfig(name="resnet18_small", width=8)
CONFIG: dict[str, Any] = {"encoder": ENCODER.model_dump(), "seed": 5, "method": {"name": "simclr"}}
PREPROCESS: dict[str, Any] = {"image_size": SIZE, "mean": IMAGENET_MEAN, "std": IMAGENET_STD}
PROVENANCE = {"samples_seen": 1000, "manifest": "abc"}


def trained_encoder() -> nn.Module:
    """An encoder whose weights and running statistics are no longer those of its seed."""
    config = SimCLRConfig(hidden_dim=8, projection_dim=4)
    encoder = build_method(config, ENCODER, simclr_views(SIZE), CONFIG["seed"]).encoder
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.05)
        encoder(torch.randn(8, 3, SIZE, SIZE, generator=generator))
    return encoder.eval()


def save(uri: str, encoder: nn.Module | None = None, **changes: Any) -> str:
    settings = {"config": CONFIG, "preprocess": PREPROCESS, "provenance": PROVENANCE} | changes
    return artifact.save(uri, encoder or trained_encoder(), **settings)


@pytest.mark.parametrize("scheme", ["path", "file://", "memory://"])
def test_what_was_saved_is_loaded(tmp_path: Path, scheme: str) -> None:
    uri = str(tmp_path / "artifact") if scheme == "path" else f"{scheme}{tmp_path}/artifact"
    encoder = trained_encoder()
    digest = save(uri, encoder)
    loaded = artifact.load(uri)
    images = torch.randn(2, 3, SIZE, SIZE)
    assert torch.equal(loaded(images), encoder(images))
    assert (loaded.digest, loaded.embed_dim, loaded.image_size) == (digest, 64, SIZE)
    assert (loaded.config, loaded.provenance) == (CONFIG, PROVENANCE)
    assert not loaded.training


def test_only_the_two_files_are_left(tmp_path: Path) -> None:
    save(str(tmp_path))
    save(str(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "artifact.json",
        "encoder.safetensors",
    ]


def test_an_encoder_in_channels_last_has_the_same_digest(tmp_path: Path) -> None:
    plain = save(str(tmp_path / "a"))
    assert (
        save(str(tmp_path / "b"), trained_encoder().to(memory_format=torch.channels_last)) == plain
    )


def test_digest_changes_with_weights_config_and_preprocessing_but_not_with_provenance(
    tmp_path: Path,
) -> None:
    other = trained_encoder()
    with torch.no_grad():
        next(other.parameters()).view(-1)[0] += 1
    digests = [
        save(str(tmp_path / "plain")),
        save(str(tmp_path / "weights"), other),
        save(str(tmp_path / "config"), config=CONFIG | {"method": {"name": "mae"}}),
        save(str(tmp_path / "preprocess"), preprocess=PREPROCESS | {"mean": (0.5, 0.5, 0.5)}),
    ]
    assert len(set(digests)) == 4
    assert save(str(tmp_path / "provenance"), provenance={}) == digests[0]


def test_untrained_is_the_encoder_that_training_started_from(tmp_path: Path) -> None:
    digest = save(str(tmp_path))
    state = torch.get_rng_state()
    baseline = artifact.untrained(str(tmp_path))
    assert torch.equal(state, torch.get_rng_state())
    started = build_method(
        SimCLRConfig(), ENCODER, simclr_views(SIZE), CONFIG["seed"]
    ).encoder.eval()
    images = torch.randn(2, 3, SIZE, SIZE)
    assert torch.equal(baseline(images), started(images))
    assert baseline.digest != digest and baseline.provenance["initialised_like"] == digest
    assert not torch.equal(baseline(images), artifact.load(str(tmp_path))(images))


def test_weights_of_another_artifact_are_refused(tmp_path: Path) -> None:
    save(str(tmp_path))
    weights = tmp_path / "encoder.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    with pytest.raises(ValueError, match="do not match"):
        artifact.load(str(tmp_path))


def test_a_description_never_stands_without_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    monkeypatch.setattr(artifact.files, "write", lambda uri, name, data: written.append(name))
    save(str(tmp_path))
    assert written == ["encoder.safetensors", "artifact.json"]


def test_a_missing_artifact_is_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        artifact.load(str(tmp_path / "nothing"))


def test_another_format_is_refused(tmp_path: Path) -> None:
    save(str(tmp_path))
    path = tmp_path / "artifact.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 99}))
    with pytest.raises(ValueError, match="format 99"):
        artifact.load(str(tmp_path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"config": {"encoder": ENCODER.model_dump()}}, r"config\.seed"),
        ({"config": {"seed": 1}}, r"config\.encoder"),
        ({"preprocess": {"image_size": 16}}, "preprocess"),
        ({"provenance": {"when": object()}}, "plain JSON"),
    ],
)
def test_an_incomplete_description_is_refused_before_anything_is_written(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        save(str(tmp_path), **changes)
    assert not list(tmp_path.iterdir())


def test_preprocess_takes_the_central_square_antialiased_and_normalised(tmp_path: Path) -> None:
    save(str(tmp_path))
    loaded = artifact.load(str(tmp_path))
    # (1, 3, 300, 451)
    photograph = torch.from_numpy(skimage.data.chelsea()).permute(2, 0, 1).unsqueeze(0)
    prepared = loaded.preprocess(photograph)
    assert prepared.shape == (1, 3, SIZE, SIZE) and prepared.dtype == torch.float32
    square = photograph[:, :, :, 75:375]
    torch.testing.assert_close(loaded.preprocess(square), prepared)
    rgb = prepared * torch.tensor(IMAGENET_STD).view(3, 1, 1) + torch.tensor(IMAGENET_MEAN).view(
        3, 1, 1
    )
    # Antialiasing: far from the border an output pixel is near the mean of the input pixels it
    # covers.
    blocks = torch.nn.functional.adaptive_avg_pool2d(square.float() / 255, SIZE)
    assert (rgb - blocks).abs().mean() < 0.02
    nearest = square[:, :, 9::19, 9::19][:, :, :SIZE, :SIZE].float() / 255
    assert (rgb - blocks).abs().mean() < 0.5 * (nearest - blocks).abs().mean()


def test_an_image_of_the_right_size_is_only_normalised(tmp_path: Path) -> None:
    save(str(tmp_path))
    loaded = artifact.load(str(tmp_path))
    images = (
        torch.from_numpy(np.ascontiguousarray(skimage.data.coffee()[:SIZE, :SIZE]))
        .permute(2, 0, 1)
        .unsqueeze(0)
    )
    expected = (images / 255 - torch.tensor(IMAGENET_MEAN).view(3, 1, 1)) / torch.tensor(
        IMAGENET_STD
    ).view(3, 1, 1)
    torch.testing.assert_close(loaded.preprocess(images), expected)
    with pytest.raises(ValueError, match="uint8"):
        loaded.preprocess(images.float())


def test_it_loads_in_a_process_that_never_imports_ray(tmp_path: Path) -> None:
    save(str(tmp_path))
    code = (
        "import sys, torch; from models import artifact; a = artifact.load(sys.argv[1]);"
        "z = a(a.preprocess(torch.zeros(2, 3, 20, 30, dtype=torch.uint8)));"
        "assert z.shape == (2, a.embed_dim);"
        "assert not [m for m in sys.modules if m.split('.')[0] in ('ray', 'jobs', 'pipelines')]"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, timeout=120)


def test_no_file_of_the_artifact_is_a_pickle(tmp_path: Path) -> None:
    save(str(tmp_path))
    header_length = int.from_bytes((tmp_path / "encoder.safetensors").read_bytes()[:8], "little")
    header = json.loads((tmp_path / "encoder.safetensors").read_bytes()[8 : 8 + header_length])
    assert "stem.0.weight" in header
    with fsspec.open(str(tmp_path / "artifact.json")) as file:
        assert set(json.load(file)) == {"format", "digest", "config", "preprocess", "provenance"}
