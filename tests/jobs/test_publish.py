"""jobs.publish: what it writes is checked, whole and described; what is not equal stays away."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from PIL import Image

from jobs import publish as job
from jobs.publish import PublishConfig, publish
from jobs.setup import run_artifact
from jobs.setup.command_line import InputError, parse
from jobs.training.run_config import PretrainConfig, complete_pretrain
from jobs.training.run_dir import RunDir
from models import artifact
from models.publishing.form import Tell
from models.publishing.plain_form import SafetensorsForm
from models.publishing.timm_form import TimmForm
from models.registry import build_method
from models.supervised.head import HeadConfig, build_head
from pipelines.storage import uris
from pipelines.stream.ledger import Ledger, Span
from tests.commands import ROOT, TINY
from tests.object_store import ObjectStore

QUICK = ["timm", "safetensors"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """A run of two steps with log, artifact and a probe, whose source has a private path."""
    run = RunDir(str(tmp_path_factory.mktemp("somebody") / "run"))
    words = [*TINY, "encoder.name=vit_tiny_small", "source.uri=/home/somebody/photos"]
    config = parse(complete_pretrain, [*words, f"out={run.uri}", "num_steps=2"])
    assert isinstance(config, PretrainConfig)
    run.write_config(config)
    figures = {"feature_std": 0.15, "rankme": 20.0, "health_rankme": 9.0, "health_alpha_req": 1.1}
    looked = {"health_step": 1, "health_alignment": 0.4, "health_uniformity": -2.0, **figures}
    lines = [{"step": step, "loss": 6.0 / step, **looked} for step in (1, 2)]
    run.write_metrics(0, 0, lines)
    method = build_method(config.method, config.encoder, config.views, config.seed)
    digest = run_artifact.write(
        run.path("artifact"),
        run.uri,
        config,
        method.encoder,
        step=2,
        ledger=Ledger(0, (Span(0, 1, 1),)),
        commit=None,
        metrics=lines[-1],
    )
    probe = {"probe": "knn", "top1": 0.41, "ci95": [0.38, 0.44], "untrained_top1": 0.2}
    counts = {"num_classes": 5, "num_train": 100, "num_test": 50, "artifact_digest": digest}
    uris.write_bytes(run.path("probes", "knn.json"), json.dumps(probe | counts).encode())
    other = probe | counts | {"artifact_digest": "0" * 64, "top1": 0.99}
    uris.write_bytes(run.path("probes", "other.json"), json.dumps(other).encode())
    return run


def config(run: RunDir, out: Path | str, **settings: Any) -> PublishConfig:
    values = {"artifact": run.uri, "out": str(out), "formats": QUICK, **settings}
    return PublishConfig.model_validate(values)


def front_matter(card: str) -> dict[str, Any]:
    """Return what stands between the first two lines of dashes."""
    _, matter, _ = card.split("---\n", 2)
    values: dict[str, Any] = yaml.safe_load(matter)
    return values


@pytest.mark.slow
def test_the_card_s_own_code_loads_every_form_in_a_fresh_process(
    run: RunDir, tmp_path: Path, photographs: list[np.ndarray]
) -> None:
    out = tmp_path / "out"
    result = publish(config(run, out, formats=None))
    assert {"timm", "torch_export", "safetensors"} <= set(result["formats"])
    assert result["left_out"].keys() <= {"torchvision", "onnx"}
    Image.fromarray(photographs[0]).save(out / "photo.png")
    prepare, *usages = re.findall(
        r"```python\n(.+?)```", (out / "README.md").read_text(), re.DOTALL
    )
    assert len(usages) == len(result["formats"])
    script = f"{prepare}\nimages = prepare(Image.open('photo.png'))\nfound = []\n"
    for lines in usages:
        script += f"{lines}\nfound.append(torch.as_tensor(embedding).detach().numpy())\n"
    script += "np.save('found.npy', np.stack(found))"
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=out,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    made = artifact.load(run.path("artifact"))
    pixels = torch.from_numpy(photographs[0].copy()).permute(2, 0, 1)[None]
    with torch.no_grad():
        wanted = made(made.preprocess(pixels)).numpy()
    for found in np.load(out / "found.npy"):
        np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_a_hub_reads_the_card_to_which_a_later_call_adds_forms_and_no_other_artifact(
    run: RunDir, small_artifact: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    publish(config(run, out, formats=["safetensors"]))
    named = {"license": "cc-by-4.0", "name": "Gulls: v1 | small"}
    publish(config(run, out, formats=["timm"], **named))
    with pytest.raises(InputError, match=r"holds another publication: .*artifact_digest"):
        publish(config(run, out, artifact=small_artifact, formats=["safetensors"]))
    text = (out / "README.md").read_text()
    assert "`encoder.safetensors`" in text and "`model.safetensors`" in text
    matter = front_matter(text)
    assert matter["license"] == "cc-by-4.0" and matter["library_name"] == "timm"
    assert matter["pipeline_tag"] == "image-feature-extraction"
    assert matter["datasets"] == ["photos"]
    assert matter["metrics"] == ["accuracy"]
    assert {"self-supervised", "simclr", "vit_tiny_small", "safetensors"} <= set(matter["tags"])
    card = ModelCard(text)
    assert card.data.model_name == "Gulls: v1 | small"
    [score] = card.data.eval_results
    assert (score.metric_type, score.metric_value) == ("accuracy", 0.41)
    assert score.metric_args == {"ci95": [0.38, 0.44]}


@pytest.mark.long
def test_the_card_tells_origin_curves_health_and_probes_and_a_cut_file_is_written_again(
    run: RunDir, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    publish(config(run, out))
    text = (out / "README.md").read_text()
    assert front_matter(text)["license"] == "unknown"
    assert "Unknown: whoever published these weights has not said" in text
    assert "| training data | photos |" in text
    assert "| samples seen | 64 |" in text
    assert artifact.load(run.path("artifact")).digest in text
    assert "| knn top-1 | 41.0% | 38.0% to 44.0% | untrained 20.0% |" in text
    assert "99.0%" not in text
    assert "other.json judges another artifact" in capsys.readouterr().err
    assert "effective rank (RankMe) of images of the corpus; higher is richer | 9 |" in text
    for picture in re.findall(r"!\[.+?\]\((.+?)\)", text):
        assert (out / picture).read_bytes().startswith(b"\x89PNG")
    assert "curves/loss.png" in text and "Loss fell from 6.00 to 3.00" in text
    for path in out.rglob("*"):
        assert not path.is_file() or b"somebody" not in path.read_bytes(), path.name
    whole = (out / "model.safetensors").read_bytes()
    (out / "model.safetensors").write_bytes(whole[:100])
    publish(config(run, out))
    assert (out / "model.safetensors").read_bytes() == whole


@pytest.mark.long
def test_a_form_that_is_not_equal_is_named_and_stays_away(
    run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = TimmForm.load

    def off(self: TimmForm, folder: str) -> Tell:
        tell = load(self, folder)
        return lambda images: {name: each * 1.001 for name, each in tell(images).items()}

    monkeypatch.setattr(TimmForm, "load", off)
    out = tmp_path / "out"
    result = publish(config(run, out))
    assert result["exit_code"] == 1
    assert result["unequal"]["timm"] == pytest.approx(1e-3, rel=0.01)
    assert set(result["formats"]) == {"safetensors"}
    assert not (out / "model.safetensors").exists()
    assert "model.safetensors" not in (out / "README.md").read_text()
    monkeypatch.undo()
    assert set(publish(config(run, out))["formats"]) == set(QUICK)


@pytest.mark.long
def test_a_head_is_published_too_and_the_card_says_what_each_form_gives(
    run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = artifact.load(run.path("artifact"))
    head = HeadConfig(name="linear", classes=("heron", "gull", "tern"))
    parts = {"preprocess": made.prepared.model_dump(mode="json"), "provenance": made.provenance}
    adapted = str(tmp_path / "adapted")
    given = {**made.config, "method": {"name": "finetune"}}
    artifact.save(adapted, made.encoder, config=given, head=build_head(head, made.encoder), **parts)
    out = tmp_path / "out"
    result = publish(config(run, out, artifact=adapted))
    assert result["formats"]["timm"]["outputs"] == ["embedding", "logits"]
    assert result["formats"]["safetensors"]["outputs"] == ["embedding", "probabilities"]
    text = (out / "README.md").read_text()
    matter = front_matter(text)
    assert matter["pipeline_tag"] == "image-classification"
    assert "self-supervised" not in matter["tags"]
    assert "The head tells the class of an image, one of 3." in text
    assert (
        "`heron`, `gull`, `tern`" in text and "Probabilities are the softmax of the logits" in text
    )
    assert "without labels" not in text and "names no classes" not in text
    assert "encoder alone" not in text and "encoder alone" not in capsys.readouterr().err
    monkeypatch.chdir(out)
    _, timms, own = re.findall(r"```python\n(.+?)```", text, re.DOTALL)
    told: dict[str, Any] = {"images": torch.randn(2, 3, made.image_size, made.image_size)}
    with torch.no_grad():
        exec(timms, told)
        first = told["embedding"]
        exec(own, told)
    torch.testing.assert_close(told["logits"].softmax(1), told["probabilities"])
    torch.testing.assert_close(told["embedding"], first, atol=1e-4, rtol=0)

    attentive = HeadConfig(name="attentive", classes=head.classes)
    artifact.save(
        adapted, made.encoder, config=given, head=build_head(attentive, made.encoder), **parts
    )
    publish(config(run, tmp_path / "other", artifact=adapted, formats=["timm"]))
    said = "timm holds the encoder alone: its models have no attentive head, but a linear layer"
    assert said in (tmp_path / "other" / "README.md").read_text()
    assert "the encoder alone, without its head: timm (" in capsys.readouterr().err


@pytest.mark.long
def test_a_publish_that_was_killed_between_two_files_is_finished_by_the_next(
    run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    put = job.put_file

    def dies(path: str, uri: str) -> None:
        if path.endswith(SafetensorsForm.files[-1]):
            raise KeyboardInterrupt
        put(path, uri)

    monkeypatch.setattr(job, "put_file", dies)
    with pytest.raises(KeyboardInterrupt):
        publish(config(run, out))
    assert (out / "model.safetensors").exists() and not (out / "README.md").exists()
    assert set(json.loads((out / "checks.json").read_text())) == {"timm"}
    monkeypatch.undo()
    written = (out / "model.safetensors").stat().st_mtime_ns
    assert set(publish(config(run, out))["formats"]) == set(QUICK)
    assert (out / "model.safetensors").stat().st_mtime_ns == written
    assert artifact.load(str(out)).digest == artifact.load(run.path("artifact")).digest


@pytest.mark.long
def test_a_bucket_holds_what_a_folder_would(
    run: RunDir, tmp_path: Path, object_store: ObjectStore
) -> None:
    bucket = object_store.make_bucket("published")
    result = publish(config(run, f"{bucket}/model"))
    assert result["card"] == f"{bucket}/model/README.md"
    assert uris.list_names(f"{bucket}/model") == [
        *("README.md", "artifact.json", "checks.json", "config.json", "curves"),
        *("encoder.safetensors", "model.safetensors", "publish.json"),
    ]
    assert front_matter(uris.read_bytes(result["card"]).decode())["license"] == "unknown"
    assert artifact.load(f"{bucket}/model").digest == result["artifact_digest"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"artifact": "/nowhere"}, "artifact /nowhere does not exist"),
        ({"formats": ["torchvision"]}, "formats=torchvision cannot be written: torchvision's"),
        ({"out": "/proc/nowhere"}, "out /proc/nowhere cannot be written"),
        ({"probes": ["/nowhere.json"]}, "probes /nowhere.json does not exist"),
        ({"probes": ["RUN/probes/other.json"]}, "other.json judges another artifact"),
        ({"probes": ["RUN/config.yaml"]}, "holds no .json file"),
        ({"run": "/nowhere"}, "run /nowhere is no run directory"),
        ({"out": "RUN"}, "is no publication and not empty"),
    ],
)
def test_what_is_wrong_is_one_line(
    run: RunDir, tmp_path: Path, settings: dict[str, Any], words: str
) -> None:
    filled = json.loads(json.dumps(settings).replace("RUN", run.uri))
    before = sorted(str(path) for path in Path(run.uri).rglob("*"))
    with pytest.raises(InputError, match=re.escape(words)):
        publish(config(run, tmp_path / "out").model_copy(update=filled))
    assert sorted(str(path) for path in Path(run.uri).rglob("*")) == before


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("formats=[timm,tensorflow]", "formats"),
        ("formats=[]", "formats"),
        ("license=Apache 2.0", "license"),
        ("licence=mit", "unknown key licence: the nearest known key is license"),
    ],
)
def test_a_wrong_setting_is_refused_by_its_key(word: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        parse(lambda values: (PublishConfig, values), ["artifact=a", "out=b", word])


def test_packages_that_are_missing_are_named_with_the_extra_that_brings_them(
    run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        job, "missing_packages", lambda kind: ["onnxscript"] if kind.name == "onnx" else []
    )
    with pytest.raises(InputError, match=r"onnx .*onnxscript missing: .*afield\[publish\]"):
        publish(config(run, tmp_path / "out", formats=["onnx"]))
