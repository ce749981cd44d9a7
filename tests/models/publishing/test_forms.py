"""Published forms: what a library loads by its own names embeds as the artifact does."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
import torchvision

from augment.recipe import IMAGENET_MEAN, IMAGENET_STD
from jobs.publishing.equality import check_images
from models import artifact
from models.artifact import Artifact
from models.encoders.factory import EncoderConfig, build_encoder
from models.publishing.form import Unsupported, preparation, sample_shape
from models.publishing.forms import FORMS, missing_packages
from models.supervised.head import HeadConfig, build_head

ROOT = Path(__file__).resolve().parents[3]
Make = Callable[..., Artifact]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Makes an artifact whose every number differs from its initial one, statistics of batch norm
    too."""

    def made(name: str, size: int, head: HeadConfig | None = None, **settings: Any) -> Artifact:
        config = EncoderConfig(name=name, **settings)
        torch.manual_seed(0)
        encoder = build_encoder(config, size)
        with torch.no_grad():
            for tensor in encoder.state_dict().values():
                if tensor.is_floating_point() and tensor.ndim == 1:
                    tensor.add_(0.1 * torch.rand_like(tensor))
        place = str(tmp_path / "artifact")
        artifact.save(
            place,
            encoder,
            config={"encoder": config.model_dump(), "seed": 0},
            preprocess={
                "image_size": size,
                "mean": IMAGENET_MEAN,
                "std": IMAGENET_STD,
                **({"num_frames": 4, "fps": 8} if config.media == "clip" else {}),
            },
            provenance={"source": "/home/somebody/photos"},
            head=None if head is None else build_head(head, encoder),
        )
        return artifact.load(place)

    return made


def check_equal(made: Artifact, form: str, folder: Path) -> None:
    """Write a form and compare what is loaded back, for one image and for several."""
    kind = FORMS[form]
    if missing := missing_packages(kind):
        pytest.skip(f"needs {', '.join(missing)}: pip install 'afield[publish]'")
    written = kind(made)
    written.write(str(folder))
    assert {path.name for path in folder.iterdir()} == set(written.files)
    tell = written.load(str(folder))
    images = torch.rand(5, *sample_shape(made)) * 2 - 1
    with torch.no_grad():
        wanted = {"embedding": made(images)}
        if written.head is not None:
            scores = written.head.scores(made.encoder, images)
            wanted[written.scores] = scores if written.scores == "logits" else made.predict(images)
    for batch in (slice(0, 1), slice(0, 5)):
        found = tell(images[batch])
        assert tuple(found) == written.outputs == tuple(wanted)
        for name, each in wanted.items():
            difference = (found[name] - each[batch]).abs().max()
            assert difference <= 1e-4 * min(1.0, float(each.abs().max())), name


@pytest.mark.parametrize(
    ("name", "size", "settings"),
    [
        ("vit_tiny_small", 16, {"width": 8}),
        ("vit_tiny_small", 32, {"width": 8, "pooling": "max"}),
        ("vit_tiny_patch16_224", 32, {}),
        ("vit_tiny_patch16_224", 32, {"pooling": "class"}),
        ("vit_tiny_patch16_224", 32, {"num_heads": 6}),
        ("resnet18", 32, {"pooling": "mean"}),
        ("torchvision:resnet18", 32, {}),
    ],
)
def test_timm_builds_the_encoder_by_name_from_its_checkpoint(
    make: Make, tmp_path: Path, name: str, size: int, settings: dict[str, Any]
) -> None:
    (tmp_path / "form").mkdir()
    check_equal(make(name, size, **settings), "timm", tmp_path / "form")


def test_a_hub_finds_model_and_preparation_in_timm_s_own_layout(make: Make, tmp_path: Path) -> None:
    made = make("vit_tiny_small", 16, width=8)
    form = FORMS["timm"](made)
    form.write(str(tmp_path / "form"))
    model = timm.create_model(f"local-dir:{tmp_path / 'form'}", pretrained=True).eval()
    images = torch.randn(3, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(model(images), made(images), atol=1e-4, rtol=0)
    data = timm.data.resolve_model_data_config(model)
    assert data["input_size"] == (3, 16, 16)
    assert data["mean"] == pytest.approx(IMAGENET_MEAN)
    assert (data["crop_pct"], data["interpolation"]) == (1.0, "bilinear")
    described = json.loads((tmp_path / "form" / "config.json").read_text())
    assert "license" not in described["pretrained_cfg"]  # of timm's own weights of that name


@pytest.mark.parametrize(
    ("name", "size", "settings"),
    [
        ("resnet18_small", 16, {}),
        ("resnet18_small", 16, {"norm": "layer", "pooling": "mean"}),
        ("vit_tiny_patch16_224", 32, {"pooling": "class"}),
        ("resnet18", 32, {}),
        ("torchvision:resnet18", 32, {}),
        pytest.param("torchvision:mobilenet_v3_small", 32, {}, marks=pytest.mark.slow),
    ],
)
def test_torchvision_loads_the_weights_strictly_under_its_own_names(
    make: Make, tmp_path: Path, name: str, size: int, settings: dict[str, Any]
) -> None:
    (tmp_path / "form").mkdir()
    check_equal(make(name, size, **settings), "torchvision", tmp_path / "form")


def test_torchvision_s_weights_have_the_names_of_torchvision(make: Make, tmp_path: Path) -> None:
    FORMS["torchvision"](make("resnet18_small", 16)).write(str(tmp_path))
    names = set(safetensors.torch.load_file(str(tmp_path / "torchvision.safetensors")))
    assert names == set(torchvision.models.resnet18().state_dict()) - {"fc.weight", "fc.bias"}


RESNET = ("resnet18_small", {"width": 8})
GEM = ("resnet18_small", {"width": 8, "patch_size": 8, "pooling": "gem"})
LAB = ("resnet18_small", {"width": 8, "split": "lab"})
TRANSFORMER = ("vit_tiny_small", {"width": 8})
AMDIM = ("amdim", {"width": 8})


@pytest.mark.usefixtures("shallow")
@pytest.mark.parametrize(
    ("form", "name", "settings"),
    [
        pytest.param("torch_export", *TRANSFORMER, marks=pytest.mark.long),
        ("safetensors", *RESNET),
        *(
            pytest.param(form, *encoder, marks=pytest.mark.slow)
            for form, encoder in (
                *(("onnx", each) for each in (TRANSFORMER, RESNET, GEM, LAB, AMDIM)),
                *(("torch_export", each) for each in (RESNET, GEM, LAB, AMDIM)),
                *(("safetensors", each) for each in (GEM, LAB, TRANSFORMER, AMDIM)),
            )
        ),
    ],
)
def test_every_encoder_has_the_forms_that_need_no_library_of_networks(
    make: Make, tmp_path: Path, form: str, name: str, settings: dict[str, Any]
) -> None:
    made = make(name, 16, **settings)
    folder = tmp_path / "form"
    folder.mkdir()
    check_equal(made, form, folder)
    # The traces of both exporters would name the folders of whoever publishes.
    hidden = (str(ROOT).encode(), b"/home/somebody", str(Path(torch.__file__).parent).encode())
    for path in folder.iterdir():
        assert not [place for place in hidden if place in path.read_bytes()], path.name
    if form == "onnx":
        says_how_to_prepare_images_and_takes_any_number(folder, made)
    if form == "torch_export":
        runs_without_this_code(folder, made)


def narrow(name: str) -> dict[str, Any]:
    """The width of this project's own networks."""
    return {"width": 8} if name.endswith("_small") else {}


CLIPS = [("resnet18_small", "inflated"), ("vit_tiny_small", "tubelets"), ("resnet18", "frames")]


@pytest.mark.usefixtures("shallow")
@pytest.mark.parametrize(
    ("form", "name", "time"),
    [
        ("safetensors", *CLIPS[0]),
        pytest.param("torch_export", *CLIPS[2], marks=pytest.mark.long),
        *(
            pytest.param(form, *each, marks=pytest.mark.slow)
            for form, each in (
                *(("onnx", each) for each in CLIPS),
                *(("torch_export", each) for each in CLIPS[:2]),
            )
        ),
    ],
)
def test_encoders_of_clips_have_them_too(
    make: Make, tmp_path: Path, form: str, name: str, time: str
) -> None:
    made = make(name, 16, time=time, **narrow(name))
    folder = tmp_path / "form"
    folder.mkdir()
    check_equal(made, form, folder)
    assert preparation(made)["input"] == "(batch, 4, 3, 16, 16) float32, RGB"
    assert preparation(made)["frames"] == "4 of a video, 1 / 8 s from one to the next"
    assert check_images(made).shape == (8, 4, 3, 16, 16)


@pytest.mark.parametrize("form", ["timm", "torchvision"])
@pytest.mark.parametrize(("name", "time"), [*CLIPS, ("torchvision:r3d_18", None)])
def test_libraries_of_networks_of_images_have_none_of_clips(
    make: Make, form: str, name: str, time: str | None
) -> None:
    made = make(name, 16, time=time, **narrow(name))
    with pytest.raises(Unsupported):
        FORMS[form](made)


def says_how_to_prepare_images_and_takes_any_number(folder: Path, made: Artifact) -> None:
    """Look into an ONNX file as others would."""
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(str(folder / "model.onnx"))
    assert session.get_inputs()[0].shape == ["batch", 3, 16, 16]
    assert session.get_outputs()[0].shape == ["batch", made.embed_dim]
    said = session.get_modelmeta().custom_metadata_map
    assert json.loads(said["preprocess"])["mean"] == pytest.approx(IMAGENET_MEAN)
    assert said["artifact_digest"] == made.digest


def runs_without_this_code(folder: Path, made: Artifact) -> None:
    """Load an exported program in a process that has torch alone."""
    script = (
        "import sys, torch\n"
        "said = {'preprocess.json': ''}\n"
        "program = torch.export.load('model.pt2', extra_files=said)\n"
        f"assert program.module()(torch.zeros(7, 3, 16, 16)).shape == (7, {made.embed_dim})\n"
        "assert 'antialias' in str(said['preprocess.json'])\n"
        "assert not {'models', 'jobs'} & set(sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", script], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_a_plain_form_is_the_same_artifact_without_the_trainer_s_paths(
    make: Make, tmp_path: Path
) -> None:
    made = make("resnet18_small", 16, width=8)
    FORMS["safetensors"](made).write(str(tmp_path / "form"))
    loaded = artifact.load(str(tmp_path / "form"))
    assert loaded.digest == made.digest
    assert loaded.provenance == {"source": "photos"}
    started = make("resnet18_small", 16, width=8, weights="/home/somebody/start.pth")
    FORMS["safetensors"](started).write(str(tmp_path / "started"))
    loaded = artifact.load(str(tmp_path / "started"))
    assert loaded.config["encoder"]["weights"] == "start.pth"
    assert loaded.provenance == {"source": "photos", "published_from": started.digest}


LINEAR = HeadConfig(name="linear", classes=("heron", "gull", "tern"))
SEVERAL = HeadConfig(name="linear", task="classes", classes=("heron", "gull", "tern"))
ATTENTIVE = HeadConfig(name="attentive", classes=("heron", "gull"), num_heads=2)
DENSE = HeadConfig(name="dense", task="mask", classes=("sea", "sky"))


@pytest.mark.parametrize(
    ("form", "name", "head", "settings"),
    [
        ("timm", "vit_tiny_small", LINEAR, {"width": 8}),
        ("timm", "resnet18", SEVERAL, {}),
        ("torchvision", "resnet18_small", LINEAR, {}),
        pytest.param("onnx", "resnet18_small", SEVERAL, {"width": 8}, marks=pytest.mark.long),
        ("safetensors", "resnet18_small", ATTENTIVE, {"width": 8}),
        ("safetensors", "resnet18_small", DENSE, {"width": 8}),
        *(
            pytest.param(*each, marks=pytest.mark.slow)
            for each in (
                ("torchvision", "vit_tiny_patch16_224", LINEAR, {"pooling": "class"}),
                ("torchvision", "torchvision:resnet18", LINEAR, {}),
                ("onnx", "vit_tiny_small", ATTENTIVE, {"width": 8}),
                ("torch_export", "resnet18_small", LINEAR, {"width": 8}),
                ("torch_export", "vit_tiny_small", ATTENTIVE, {"width": 8, "pooling": "max"}),
            )
        ),
    ],
)
def test_a_head_is_published_with_its_encoder(
    make: Make, tmp_path: Path, form: str, name: str, head: HeadConfig, settings: dict[str, Any]
) -> None:
    made = make(name, 32, head=head, **settings)
    assert FORMS[form](made).alone is None
    (tmp_path / "form").mkdir()
    check_equal(made, form, tmp_path / "form")
    said = b"".join(path.read_bytes() for path in (tmp_path / "form").iterdir())
    assert all(name.encode() in said for name in head.classes)


@pytest.mark.parametrize(
    ("form", "name", "head", "reason"),
    [
        ("timm", "vit_tiny_small", ATTENTIVE, "no attentive head, but a linear layer"),
        ("torchvision", "resnet18", ATTENTIVE, "no attentive head, but a linear layer"),
        ("onnx", "vit_tiny_small", DENSE, "no room for a head of masks"),
        ("torchvision", "torchvision:mobilenet_v3_small", LINEAR, "is not one linear layer"),
    ],
)
def test_a_form_without_room_for_the_head_holds_the_encoder_alone(
    make: Make, form: str, name: str, head: HeadConfig, reason: str
) -> None:
    kind = FORMS[form](make(name, 32, head=head))
    assert kind.outputs == ("embedding",) and kind.alone is not None
    assert reason in kind.alone


def test_timm_s_hub_names_the_classes(make: Make, tmp_path: Path) -> None:
    made = make("vit_tiny_small", 16, head=LINEAR, width=8)
    FORMS["timm"](made).write(str(tmp_path / "form"))
    model = timm.create_model(f"local-dir:{tmp_path / 'form'}", pretrained=True).eval()
    assert model.num_classes == 3
    images = torch.randn(3, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(model(images).softmax(1), made.predict(images))
    described = json.loads((tmp_path / "form" / "config.json").read_text())
    assert described["label_names"] == list(LINEAR.classes) and described["num_classes"] == 3


@pytest.mark.parametrize(
    ("form", "name", "settings", "reason"),
    [
        ("timm", "resnet18_small", {"width": 8}, "no ResNet whose stem is one 3x3"),
        ("torchvision", "resnet18_small", {"width": 8}, "has width 64 .*encoder.width=8"),
        ("torchvision", "resnet18_small", {"norm": "none"}, "encoder.norm=none"),
        ("torchvision", "resnet18_small", {"pooling": "gem"}, "no pooling gem"),
        ("timm", "vit_tiny_small", {"pooling": "gem"}, "no pooling gem"),
        ("torchvision", "vit_tiny_small", {}, "by the class token.*the mean of its patches"),
        ("timm", "amdim", {"width": 8}, "no network like amdim"),
        ("torchvision", "resnet18_small", {"patch_size": 8}, "over patches"),
        ("timm", "resnet18", {"split": "lab"}, "no network like resnet18 in two halves"),
        ("timm", "torchvision:mobilenet_v3_small", {}, "torchvision's weights of mobilenet"),
        ("torchvision", "resnet18", {"pooling": "max"}, "encoder.pooling=max"),
    ],
)
def test_a_form_that_no_library_has_is_refused_with_the_reason(
    make: Make, form: str, name: str, settings: dict[str, Any], reason: str
) -> None:
    made = make(name, 32, **settings)
    with pytest.raises(Unsupported, match=reason):
        FORMS[form](made)
