"""jobs.adapt probe.name=propagate on files: scores beside baselines, pages, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import jobs.adapt
from jobs.adapt import complete, propagate
from jobs.probing.propagate_sections import PropagateConfig
from jobs.reporting.adaptation_page import PAGE, RESULT
from jobs.setup.command_line import InputError, parse
from models import artifact
from models.encoders.factory import EncoderConfig, build_encoder
from pipelines.corpus.listing import list_source
from pipelines.corpus.manifest_writer import write_manifest

pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory, photographs: list[np.ndarray]) -> Path:
    """Two videos in which a square of one photograph moves over another, and one without masks."""
    root = tmp_path_factory.mktemp("videos")
    for number, name in enumerate(("left", "right")):
        ground, thing = (one[:96, :128] for one in photographs[number : number + 2])
        for kind in ("frames", "masks"):
            (root / kind / name).mkdir(parents=True)
        for time in range(5):
            pixels = ground.copy()
            mask = np.zeros((96, 128), np.uint8)
            at = np.s_[32:64, (16 + 16 * time) : (48 + 16 * time)]
            pixels[at] = thing[:32, :32]
            mask[at] = 255
            Image.fromarray(pixels).save(root / "frames" / name / f"{time:05d}.png")
            Image.fromarray(mask).save(root / "masks" / name / f"{time:05d}.png")
    (root / "frames" / "unknown").mkdir()
    Image.fromarray(photographs[0]).save(root / "frames" / "unknown" / "0.png")
    return root


def config(uri: str, videos: Path, **more: Any) -> PropagateConfig:
    values = {
        "artifact": uri,
        "test": {"uri": str(videos / "frames")},
        "masks": {"uri": str(videos / "masks")},
        "probe": {"name": "propagate", "context": 3},
        **more,
    }
    return PropagateConfig.model_validate(values)


@pytest.mark.long
def test_encoder_is_judged_beside_its_baselines_and_leaves_a_page(
    small_artifact: str, videos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    told = propagate(config(small_artifact, videos, out=str(out)))
    assert told["num_sequences"] == 2 and told["num_judged"] == 6
    assert set(told["per_sequence"]) == {"left", "right"}
    for prefix in ("", "untrained_", "colour_", "copy_"):
        both = (told[f"{prefix}j"] + told[f"{prefix}f"]) / 2
        assert told[f"{prefix}j_and_f"] == pytest.approx(both)
        of_each = [one["j_and_f"] for one in told[f"{prefix}per_sequence"].values()]
        assert told[f"{prefix}j_and_f"] == pytest.approx(np.mean(of_each))
        low, high = told[f"{prefix}ci95"]
        assert low <= told[f"{prefix}j_and_f"] <= high
    # 32 px moved by 16 a frame: of frames 1 to 3, the first shares a third
    assert told["copy_j"] == pytest.approx((1 / 3 + 0 + 0) / 3)
    assert told["left_out"]["test"] == {"sequence of which no frame has a mask or key points": 1}
    assert json.loads((out / RESULT).read_bytes())["j"] == told["j"]
    page = (out / PAGE).read_text()
    assert "Video by video" in page and "first frame copied" in page
    assert "2 of 2 videos" in page
    assert told["result"].startswith("propagate J&F of 2 videos: pretrained")


def saved(out: str, encoder_config: EncoderConfig, size: int, **preprocess: Any) -> str:
    torch.manual_seed(3)
    artifact.save(
        out,
        build_encoder(encoder_config, size),
        config={"encoder": encoder_config.model_dump(mode="json"), "seed": 3},
        preprocess={"image_size": size, "mean": [0.5] * 3, "std": [0.5] * 3, **preprocess},
        provenance={},
    )
    return out


@pytest.mark.slow
def test_another_artifact_is_judged_on_the_same_videos(
    small_artifact: str, videos: Path, tmp_path: Path
) -> None:
    other = saved(str(tmp_path / "other"), EncoderConfig(name="resnet18_small", width=4), 24)
    told = propagate(config(small_artifact, videos, compare=other))
    alone = propagate(config(other, videos))
    assert told["compared_per_sequence"] == alone["per_sequence"]
    assert told["difference"] == pytest.approx(told["j_and_f"] - told["compared_j_and_f"])


@pytest.mark.slow
def test_key_points_are_judged_by_pck(small_artifact: str, videos: Path, tmp_path: Path) -> None:
    rows = ["sequence,frame,point,x,y"]
    for time in range(4):
        x = 16 + 16 * time
        rows += [f"left,{time:05d},corner,{x},32", f"left,{time:05d},end,{x + 30},60"]
    table = tmp_path / "points.csv"
    table.write_text("\n".join(rows))
    given = {"masks": {}, "points": {"uri": str(table)}}
    told = propagate(config(small_artifact, videos, **given, out=str(tmp_path / "out")))
    assert told["pck"] == told["pck_0.1"] <= told["pck_0.2"]
    assert told["copy_pck"] == 0
    assert told["num_judged"] == 3


@pytest.mark.slow
def test_sequences_in_the_pretraining_corpus_are_named_and_scored_without(
    small_artifact: str, videos: Path, tmp_path: Path
) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "seen.png").write_bytes((videos / "frames" / "right" / "00002.png").read_bytes())
    rows = list_source(str(corpus))
    manifest = write_manifest(str(tmp_path / "manifest"), str(corpus), rows)
    checked = {"check_leak": True, "leak": {"corpus": manifest.uri}}
    told = propagate(config(small_artifact, videos, **checked))
    assert told["leak"]["sequences"] == ["right"]
    assert (told["leak"]["exact"], told["leak"]["test_images"]) == (1, 10)
    for prefix in ("", "untrained_", "copy_"):
        left = told[f"{prefix}per_sequence"]["left"]["j_and_f"]
        assert told[f"{prefix}unleaked_j_and_f"] == pytest.approx(left)
    for name in ("left", "right"):
        frames = videos / "frames" / name
        (corpus / f"{name}.png").write_bytes((frames / "00000.png").read_bytes())
    manifest = write_manifest(str(tmp_path / "all"), str(corpus), list_source(str(corpus)))
    checked["leak"] = {"corpus": manifest.uri}
    told = propagate(config(small_artifact, videos, **checked))
    assert told["leak"]["sequences"] == ["left", "right"]
    assert told["unleaked_j_and_f"] is None and told["unleaked_ci95"] is None


def test_a_series_of_checkpoints_is_followed_with_one_after_the_other(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged: list[PropagateConfig] = []

    def series(artifact: str, out: str | None, _: object, judge: Callable[[str], Any]) -> Any:
        assert (artifact, out) == ("runs/a", str(tmp_path))
        return {"checkpoints": [judge(f"{out}/{step}") for step in (5, 10)]}

    def one(config: PropagateConfig) -> tuple[dict[str, Any], list[Any]]:
        judged.append(config)
        return {"artifact": config.artifact}, []

    monkeypatch.setattr(jobs.adapt, "probe_checkpoints", series)
    monkeypatch.setattr(jobs.adapt, "judge_sequences", one)
    monkeypatch.chdir(tmp_path)
    given = config("runs/a", videos, every_checkpoint=True, check_leak=True, out=str(tmp_path))
    told = propagate(given)
    assert [row["artifact"] for row in told["checkpoints"]] == [f"{tmp_path}/5", f"{tmp_path}/10"]
    assert all(one.out is None and not one.every_checkpoint for one in judged)
    assert judged[0].leak.corpus is None  # what provenance names

    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "seen.png").write_bytes((videos / "frames" / "right" / "00002.png").read_bytes())
    run = tmp_path / "runs" / "a"
    write_manifest(str(run / "manifest"), str(corpus), list_source(str(corpus)))
    propagate(given)
    assert judged[-1].leak.corpus == str(run / "manifest")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"masks": {}}, "neither is given"),
        ({"points": {"uri": "points.csv"}}, "both are given"),
        ({"probe": {"name": "propagate", "layer": 9}}, "probe.layer: layer 9 is none"),
        ({"test": {"uri": "{root}"}}, "masks.uri .* lies in test.uri"),
        ({"test": {"uri": "{root}/frames/unknown"}}, "masks.uri .* has nothing for a frame"),
    ],
)
def test_what_cannot_be_followed_is_refused_in_one_line(
    more: dict[str, Any], said: str, small_artifact: str, videos: Path
) -> None:
    placed = json.loads(json.dumps(more).replace("{root}", str(videos)))
    with pytest.raises(InputError, match=said) as error:
        propagate(config(small_artifact, videos, **placed))
    assert "\n" not in str(error.value)


def test_an_encoder_without_maps_is_refused(videos: Path, tmp_path: Path) -> None:
    uri = saved(str(tmp_path / "other"), EncoderConfig(name="torchvision:squeezenet1_1"), 64)
    with pytest.raises(InputError, match=r"artifact: encoder.name=.* gives no feature maps"):
        propagate(config(uri, videos))


def test_words_of_the_command_line_choose_the_probe() -> None:
    words = ["artifact=a", "test.uri=frames", "masks.uri=masks", "probe.name=propagate"]
    made = parse(complete, [*words, "probe.radius=3"])
    assert isinstance(made, PropagateConfig) and made.probe.radius == 3
    with pytest.raises(InputError, match=r"unknown key train: the nearest"):
        parse(complete, [*words, "train.uri=x"])
    with pytest.raises(InputError, match=r"compare.*every_checkpoint"):
        parse(complete, [*words, "every_checkpoint=true", "compare=b"])
    with pytest.raises(InputError, match=r"masks.ignore.*points.uri"):
        parse(complete, [*words[:2], "points.uri=p.csv", words[3], "masks.ignore=9"])
