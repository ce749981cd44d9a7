"""jobs.report: one page that needs nothing else, true to the run directory, whole or unfinished."""

import base64
import io
import json
import re
import shutil
import wave as wave_file
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from jobs.report import ReportConfig, report
from jobs.reporting import figures
from jobs.setup.command_line import main, parse
from jobs.setup.failures import InputError
from jobs.setup.inputs import make_manifest
from jobs.training import checkpoints
from jobs.training.bottleneck import bottleneck
from jobs.training.run_config import PretrainConfig, complete_pretrain
from jobs.training.run_dir import RunDir
from models import artifact
from models.encoders.factory import build_encoder
from models.registry import build_method
from pipelines import ray_internals
from pipelines.corpus.manifest import Manifest
from pipelines.media.contract import BadSample
from pipelines.stream import quarantine

CURVES = {"loss", "feature_std", "throughput", "stages"}
WORDS = {
    "simclr": [
        "encoder.name=resnet18_small",
        "encoder.width=8",
        "method.hidden_dim=16",
        "method.projection_dim=8",
    ],
    "mae": [
        *("encoder.name=vit_tiny_small", "encoder.width=8"),
        *("method.decoder_dim=16", "method.decoder_depth=1", "method.decoder_heads=2"),
    ],
}
PROBE = {
    "probe": "knn",
    "top1": 0.625,
    "ci95": [0.601, 0.649],
    "untrained_top1": 0.25,
    "untrained_ci95": [0.2, 0.3],
    "num_train": 1234,
    "num_test": 400,
    "artifact_digest": "0",
}


class Page(HTMLParser):
    """Tags, attributes and visible text of a page; fails on markup that does not close."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self._open: list[str] = []
        self.feed(html)
        assert not self._open, f"unclosed: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br"):
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] != "style":
            self.words += data

    def pictures(self) -> list[bytes]:
        sources = [str(attributes["src"]) for tag, attributes in self.tags if tag == "img"]
        kinds = {source.partition(",")[0] for source in sources}
        assert kinds <= {"data:image/png;base64", "data:image/jpeg;base64"}
        return [base64.b64decode(source.partition(",")[2]) for source in sources]


@pytest.fixture(scope="module")
def manifest(
    ray_session: None, image_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Manifest:
    return make_manifest(str(image_folder), str(tmp_path_factory.mktemp("report") / "manifest"))


def begin(folder: Path, source: str, method: str) -> tuple[RunDir, PretrainConfig]:
    words = [
        f"source.uri={source}",
        f"out={folder}",
        f"method.name={method}",
        "views.size=32",
        "num_steps=30",
    ]
    config = parse(complete_pretrain, [*words, *WORDS[method]])
    run = RunDir(str(folder))
    run.write_config(config)
    return run, config


def times(**given: float) -> dict[str, float]:
    """What a log line says of the stages: training limits unless told otherwise."""
    usual = {"fetch": 0.1, "decode": 2.0, "crop": 1.0, "transport": 0.1, "wait": 0.1, "train": 9.8}
    return {f"{name}_ms": value for name, value in (usual | given).items()}


def log(run: RunDir, losses: tuple[float, ...] = (6.2, 5.5, 4.9)) -> None:
    """Write a log whose loss is what is given, in two parts as a run does."""
    rest = {
        "feature_std": 0.15,
        "rankme": 12.0,
        "images_per_s": 100.0,
        "wait_fraction": 0.02,
        **times(),
    }
    lines = [
        {"step": 10 * n, "samples": 2560 * n, "loss": loss, **rest}
        for n, loss in enumerate(losses, start=1)
    ]
    run.write_metrics(0, 0, lines[:1])
    run.write_metrics(0, 1, lines[1:])


def finish(run: RunDir, config: PretrainConfig) -> None:
    """Write what a finished run leaves: checkpoint, Train's note of it, artifact."""
    method = build_method(config.method, config.encoder, config.views, config.seed)
    method.after_step(30, 30)
    folder = Path(run.path(checkpoints.FOLDER, checkpoints.name_of(30)))
    folder.mkdir(parents=True)
    torch.save({"step": 30, "method": method.state_dict(), "optimizer": {}}, folder / "state.pt")
    ray_internals.write_snapshot(str(folder.parent), folder.name, {"step": 30})
    dump = config.model_dump(mode="json")
    preprocess = {"image_size": 32, "mean": config.views.mean, "std": config.views.std}
    kept = {name: dump[name] for name in ("method", "encoder", "views", "seed")}
    artifact.save(
        run.path("artifact"),
        method.encoder,
        config=kept,
        preprocess=preprocess,
        provenance={"manifest_version": 1},
    )


def spoil(run: RunDir, reasons: dict[str, int]) -> None:
    """Quarantine samples, so many of each reason; their file names hold markup."""
    rows = []
    for reason, count in reasons.items():
        for index in range(count):
            row = {
                "sample_id": hash((reason, index)),
                "uri": f"/images/<b>{reason}{index}.jpg",
                "offset": 0,
                "length": 9,
            }
            problem = BadSample(reason, "it is <broken> & bad")  # type: ignore[arg-type]
            rows.append(quarantine.bad_row(row, problem, stage="decode", epoch=0, run="x"))
    quarantine.write(run.path("quarantine"), "000000000000000", rows)


def made(run: RunDir) -> Page:
    """The page of a run, after checking that it is self-contained and that no picture of it is
    blank."""
    text = Path(run.path("report", "index.html")).read_text()
    assert not re.search(r"https?://|//[a-z]+\.[a-z]|<script|<link|@import|url\(", text)
    page = Page(text)
    files = {path.read_bytes() for path in Path(run.path("report")).glob("*.[pj][np]g")}
    assert set(page.pictures()) == files
    for data in files:
        picture = Image.open(io.BytesIO(data)).convert("RGB")
        assert min(picture.size) > 100 and np.asarray(picture).std() > 5
    return page


@pytest.mark.long
def test_finished_run_has_every_picture_and_finding(manifest: Manifest, tmp_path: Path) -> None:
    run, config = begin(tmp_path / "run", manifest.uri, "simclr")
    log(run)
    finish(run, config)
    spoil(run, {"truncated": 5, "unknown_type": 2})
    probes = tmp_path / "run" / "probes"
    probes.mkdir()
    (probes / "knn.json").write_text(json.dumps(PROBE))
    result = report(ReportConfig(run=run.uri))
    assert set(result["pictures"]) == CURVES | {"views", "atlas", "neighbours"}
    assert result["result"] == run.path("report", "index.html") and result["steps"] == 30
    page = made(run)
    alts = [attributes["alt"] for tag, attributes in page.tags if tag == "img"]
    assert "Loss fell from 6.20 to 4.90 in 20 steps" in alts
    assert any(str(alt).startswith("Nearest among 200 images") for alt in alts)
    assert any(str(alt).startswith("190 images placed by their embeddings") for alt in alts)
    assert "finished" in page.words and "unfinished" not in page.words
    assert all(word in page.words for word in ("62.5%", "60.1% to 64.9%", "25.0%", "1,234"))
    # escaped, so read back as written
    assert "truncated5/images/<b>truncated0.jpg: it is <broken> & bad" in page.words
    assert page.words.count("/images/<b>truncated") == 3 and "unknown type2" in page.words
    assert (
        "projection_dim: 8" in page.words
        and artifact.load(run.path("artifact")).digest in page.words
    )


@pytest.mark.slow
def test_a_run_shows_what_the_method_of_its_checkpoint_makes_of_its_views(
    manifest: Manifest, tmp_path: Path
) -> None:
    run, config = begin(tmp_path / "run", manifest.uri, "mae")
    log(run, (1.1, 1.0))
    finish(run, config)
    assert set(report(ReportConfig(run=run.uri))["pictures"]) == CURVES | {
        "views",
        "atlas",
        "neighbours",
        "shown",
    }
    page = made(run)
    found = [str(attributes["alt"]) for tag, attributes in page.tags if tag == "img"]
    assert "At step 30, what mae makes of a view" in found
    sheet = Image.open(run.path("report", "shown.png"))
    assert sheet.width > 9 * 112  # three times a view, what is visible of it, and what is painted


def test_sounds_are_drawn_as_views_and_not_as_a_map_of_images(
    ray_session: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tone = np.sin(np.arange(16000) / 20)
    for number in range(4):
        wave = (tone * 8000 * (number + 1) / 4).astype(np.int16)
        with wave_file.open(str(tmp_path / f"{number}.wav"), "wb") as file:
            file.setparams((1, 2, 16000, 0, "NONE", ""))
            file.writeframes(wave.tobytes())
    words = ["cpc_audio_small", f"source.uri={tmp_path}", f"out={tmp_path / 'run'}", "num_steps=30"]
    config = parse(complete_pretrain, words)
    run = RunDir(str(tmp_path / "run"))
    run.write_config(config)
    make_manifest(str(tmp_path), run.path("manifest"), medium="audio")
    log(run)
    encoder = build_encoder(config.encoder, config.views.size)
    kept = {name: config.model_dump(mode="json")[name] for name in ("encoder", "seed")}
    prepared = config.preprocess()
    artifact.save(run.path("artifact"), encoder, config=kept, preprocess=prepared, provenance={})
    monkeypatch.setattr("jobs.report.pictures.alike", None)
    report(ReportConfig(run=run.uri))
    page = Path(run.path("report", "index.html")).read_text()
    assert "1 view of 4000 samples of each of 4 sounds, first epoch" in page
    assert "sounds in the corpus" in page and "The sounds are no pictures" in page


def test_unfinished_run_says_what_is_missing(manifest: Manifest, tmp_path: Path) -> None:
    run, _ = begin(tmp_path / "run", manifest.uri, "simclr")
    log(run, (6.2,))
    assert set(report(ReportConfig(run=run.uri))["pictures"]) == CURVES | {"views"}
    page = made(run)
    assert "unfinished: step 10 of 30" in page.words
    assert "There is no artifact yet" in page.words and "No probe has been recorded" in page.words


def test_run_whose_images_have_gone_keeps_its_curves(
    ray_session: None, image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = tmp_path / "images"
    shutil.copytree(image_folder / "scene0", images)
    run, _ = begin(
        tmp_path / "run", make_manifest(str(images), str(tmp_path / "manifest")).uri, "simclr"
    )
    log(run)
    shutil.rmtree(images)
    assert set(report(ReportConfig(run=run.uri))["pictures"]) == CURVES
    assert "can no longer be read" in made(run).words
    assert "none of the 12 images can be read" in capsys.readouterr().err


def test_run_that_has_only_begun_makes_a_page_without_pictures(
    ray_session: None, tmp_path: Path
) -> None:
    run, _ = begin(tmp_path / "run", "/images/not/listed/yet", "simclr")
    assert report(ReportConfig(run=run.uri))["pictures"] == []
    page = made(run)
    assert "No step has been logged yet" in page.words and "has not been listed yet" in page.words


def test_report_is_made_again_from_what_is_there_now(ray_session: None, tmp_path: Path) -> None:
    run, _ = begin(tmp_path / "run", "/images/not/listed/yet", "simclr")
    log(run, (6.2,))
    report(ReportConfig(run=run.uri))
    run.write_metrics(1, 0, [{**run.join_metrics()[0], "step": 20, "loss": 7.5}])
    report(ReportConfig(run=run.uri))
    assert any(
        attributes.get("alt") == "Loss rose from 6.20 to 7.50 in 10 steps"
        for _, attributes in made(run).tags
    )


@pytest.mark.parametrize(
    "make", [lambda path: None, lambda path: path.mkdir()], ids=["missing", "empty folder"]
)
def test_what_is_no_run_is_one_line_and_exit_code_2(make: Any, tmp_path: Path, capsys: Any) -> None:
    folder = tmp_path / "nothing"
    make(folder)
    assert main("report", "", lambda values: (ReportConfig, values), report, [f"run={folder}"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: run ") and str(folder) in error and error.count("\n") == 1
    assert not (folder / "report").exists()


def test_damaged_and_refused_runs_are_input_errors(tmp_path: Path) -> None:
    run, _ = begin(tmp_path / "run", "/images", "simclr")
    Path(run.path("env.json")).write_text("{half")
    with pytest.raises(InputError, match="damaged file"):
        report(ReportConfig(run=run.uri))
    with pytest.raises(InputError, match="carries credentials") as caught:
        report(ReportConfig(run="s3://me:secret@bucket/run"))
    assert "secret" not in str(caught.value)


def lines(**columns: list[float]) -> figures.Lines:
    """Log lines with the given columns, harmless values in the others."""
    length = len(next(iter(columns.values())))
    rest = {
        "loss": 1.0,
        "feature_std": 0.1,
        "rankme": 9.0,
        "images_per_s": 50.0,
        "wait_fraction": 0.0,
    }
    return [
        {"step": i + 1, **rest, **{name: values[i] for name, values in columns.items()}}
        for i in range(length)
    ]


def test_titles_state_what_the_numbers_say() -> None:
    assert figures.loss(lines(loss=[2.0, 1.0])).finding == "Loss fell from 2.00 to 1.00 in 1 steps"
    assert "hardly moved" in figures.loss(lines(loss=[2.0, 2.001])).finding
    assert figures.feature_spread(lines(feature_std=[0.1, 0.0005]), 64).finding.startswith(
        "Features have collapsed"
    )
    looked = lines(
        loss=[2.0, 1.0],
        health_step=[1, 2],
        health_rankme=[9.0, 8.0],
        health_patch_variation=[0.2, 0.31],
        health_patch_rankme=[9.0, 12.0],
        health_patch_locality=[0.1, 0.2],
    )
    drawn = figures.patches(looked)
    assert drawn is not None and drawn.finding.startswith("31.0% of the patch tokens tells images")
    assert figures.patches(lines(loss=[2.0, 1.0])) is None
    assert figures.feature_spread(lines(feature_std=[0.1, 0.1]), 64).finding.startswith(
        "No collapse"
    )
    busy = figures.throughput(lines(images_per_s=[10, 30, 20], wait_fraction=[0.5, 0.4, 0.1]))
    assert busy.finding == "20 images/s at the median, 40.0% of the time spent waiting for data"


def test_the_stage_that_limits_is_named_with_a_remedy() -> None:
    def finding(**given: float) -> str:
        log = [
            {"step": 1, "samples": 100, **times(wait=1e9)},
            {"step": 2, "samples": 200, **times(**given)},
        ]
        picture = figures.stages(log)
        assert picture is not None and Image.open(io.BytesIO(picture.data)).width > 500
        line = str(bottleneck(log))
        assert line.lower().startswith(picture.finding.lower())
        return line

    assert finding() == (
        "training limits, data is ready 98% of the time: add or speed up training workers "
        "(cluster.num_workers, GPUs), "
        "or take a larger global_batch_size"
    )
    assert finding(wait=5.0).startswith(
        "decoding limits, 65% of the data tasks' time, while workers wait 34% of"
    )
    assert "tar shards" in finding(wait=5.0, fetch=4.0) and "storage" not in finding(
        wait=5.0, fetch=4.0
    )
    assert finding(transport=5.0).startswith(
        "transport limits, 34% of the workers' time: make blocks larger"
    )
    assert finding(wait=5.0, crop=4.0).startswith("cropping limits")
    busy = [{"step": 1, "samples": 100, **times(), "storage_retries": 7}]
    assert str(bottleneck(busy)).endswith("tried again 7 times: is the bucket throttled?")
    assert (
        bottleneck([{"step": 1, "samples": 100}]) is None and figures.stages([{"step": 1}]) is None
    )


def test_a_rank_that_is_no_number_does_not_stop_the_report() -> None:
    picture = figures.feature_spread(lines(rankme=[5.0, float("nan")]), 64)
    assert Image.open(io.BytesIO(picture.data)).width > 500
