"""Files of weights: read without unpickling, refused in one line."""

import io
import pickle
from pathlib import Path

import fsspec
import pytest
import torch

from models import artifact
from models.encoders.factory import EncoderConfig, build_encoder
from models.registry import METHODS, build_method
from models.starting.fitting import starting_encoder
from models.starting.weight_files import read_weights
from tests.small_methods import SIZE, build

SMALL = EncoderConfig(name="resnet18_small", width=8)
PREPROCESS = {"image_size": SIZE, "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}


def written(uri: str, config: EncoderConfig, size: int = SIZE) -> dict[str, torch.Tensor]:
    """Write an artifact of weights that no seed gives."""
    encoder = build_encoder(config, size)
    with torch.no_grad():
        for value in encoder.state_dict().values():
            if value.is_floating_point():
                value.uniform_(0.5, 1.5)
    described = {"encoder": config.model_dump(), "seed": 0}
    artifact.save(
        uri, encoder, config=described, preprocess=PREPROCESS | {"image_size": size}, provenance={}
    )
    return encoder.state_dict()


def starting(config: EncoderConfig, uri: str) -> EncoderConfig:
    return config.model_copy(update={"weights": uri})


@pytest.mark.parametrize("scheme", ["", "memory://"])
def test_an_artifact_fills_its_encoder_whole(tmp_path: Path, scheme: str) -> None:
    uri = f"{scheme}{tmp_path}/artifact"
    expected = written(uri, SMALL)
    encoder, fit = starting_encoder(starting(SMALL, uri), SIZE)
    assert fit is not None
    assert (fit.tensor_share, fit.value_share) == (1, 1)
    assert (fit.resampled, fit.missing, fit.left_over) == ((), {}, ())
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, expected[name]), name


def test_an_artifact_of_another_size_of_image_is_resampled(tmp_path: Path) -> None:
    config = EncoderConfig(name="vit_tiny_small", width=8)
    written(str(tmp_path), config, 32)
    _, fit = starting_encoder(starting(config, str(tmp_path)), 64)
    assert fit is not None
    # the grid stays 8 x 8, of larger patches
    assert fit.resampled == ("patch_embed.proj.weight",) and not fit.missing


@pytest.mark.parametrize("name", list(METHODS))
def test_every_method_and_its_teacher_start_from_the_weights(name: str, tmp_path: Path) -> None:
    random, config = build(name)
    expected = written(str(tmp_path), config)
    method = build_method(
        METHODS[name].small, starting(config, str(tmp_path)), random.views, seed=0
    )
    for encoder in (method.encoder, method.trained_encoder):
        for key, value in encoder.state_dict().items():
            assert torch.equal(value, expected[key]), key
    assert any(p.requires_grad for p in method.trained_encoder.parameters())
    if (teacher := getattr(method, "teacher", None)) is not None:
        for key, value in teacher[0].state_dict().items():
            assert torch.equal(value, expected[key]), key


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("touched"),)  # type: ignore[return-value]


def test_nothing_is_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"model": Evil()}, "zip.pth")
    Path("plain.pth").write_bytes(pickle.dumps(Evil(), protocol=2))
    for name in ("zip.pth", "plain.pth"):
        with pytest.raises(ValueError, match=rf"^encoder.weights {name} .*$"):
            read_weights(name)
    assert not Path("touched").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "neither safetensors nor a checkpoint"),
        (b"\x89PNG and more", "neither safetensors nor a checkpoint|not unpickled"),
        (b"\x10\x00\x00\x00\x00\x00\x00\x00{not json at all", "neither|not unpickled"),
        ({"epoch": 3, "args": {"lr": 0.1}}, "holds no tensors"),
        (None, "is no file of weights and no artifact"),
    ],
)
def test_what_holds_no_weights_is_refused_in_one_line(
    tmp_path: Path, content: object, message: str
) -> None:
    file = tmp_path / "weights.pth"
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content is not None:
        torch.save(content, file)
    with pytest.raises(ValueError, match=message) as caught:
        read_weights(str(file))
    assert str(caught.value).startswith(f"encoder.weights {file}")
    assert "\n" not in str(caught.value)


def test_a_file_cut_off_is_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save(build_encoder(SMALL, SIZE).state_dict(), buffer)
    for name, data in (
        ("half.pth", buffer.getvalue()[:-5000]),
        ("half.safetensors", self_written(tmp_path)[:-50]),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ValueError, match=name):
            read_weights(str(tmp_path / name))


def self_written(folder: Path) -> bytes:
    written(str(folder / "artifact"), SMALL)
    return (folder / "artifact" / "encoder.safetensors").read_bytes()


def test_weights_of_another_network_are_refused_with_what_does_not_fit(tmp_path: Path) -> None:
    written(str(tmp_path), SMALL)
    other = EncoderConfig(name="vit_tiny_small", width=8)
    words = r"fills 0 of 14\d tensors of encoder.name=vit_tiny_small \(0% of its values\), fewer"
    with pytest.raises(ValueError, match=words):
        starting_encoder(starting(other, str(tmp_path)), SIZE)
    wider = EncoderConfig(name="resnet18_small", width=16)
    with pytest.raises(ValueError, match=r"has shape \(8, 3, 3, 3\), not \(16, 3, 3, 3\)"):
        starting_encoder(starting(wider, str(tmp_path)), SIZE)
    allowed = starting(wider, str(tmp_path)).model_copy(update={"min_share": 0.0})
    _, fit = starting_encoder(allowed, SIZE)
    assert fit is not None and not fit.taken


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    state = build_encoder(SMALL, SIZE).state_dict()
    state["stem.0.weight"][0] = float("nan")
    file = tmp_path / "broken.pth"
    torch.save(state, file)
    with pytest.raises(ValueError, match=r"stem\.0\.weight holds values that are not finite"):
        starting_encoder(starting(SMALL, str(file)), SIZE)


def test_a_checkpoint_in_memory_of_a_filesystem_is_read(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save({"method": {f"encoder.{k}": v for k, v in _state().items()}, "step": 3}, buffer)
    uri = f"memory://{tmp_path}/state.pt"
    fsspec.filesystem("memory").pipe_file(uri, buffer.getvalue())
    _, fit = starting_encoder(starting(SMALL, uri), SIZE)
    assert fit is not None and (fit.prefix, fit.tensor_share) == ("method.encoder", 1)


def _state() -> dict[str, torch.Tensor]:
    return build_encoder(SMALL, SIZE).state_dict()
