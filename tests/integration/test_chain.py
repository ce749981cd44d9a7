"""The whole system on real files, local and on S3: source -> manifest -> pretrain -> adapt, export,
report."""

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from jobs.adapt import AdaptConfig, ProbeConfig, embed_labelled, judge
from jobs.export import ExportConfig, export
from jobs.pretrain import pretrain
from jobs.report import ReportConfig, report
from jobs.setup.command_line import parse
from jobs.setup.failures import InputError
from jobs.training.fit import StepProgress
from jobs.training.run_config import PretrainConfig, complete_pretrain
from jobs.training.run_dir import RunDir
from models import artifact
from pipelines.corpus.manifest import open_manifest
from pipelines.media.image import decode
from pipelines.storage import uris
from pipelines.stream import quarantine
from pipelines.stream.plan import Plan
from tests.object_store import ObjectStore

pytestmark = pytest.mark.usefixtures("ray_session")

SMALL = [
    *(
        "simclr_small",
        "encoder.width=8",
        "method.hidden_dim=32",
        "method.projection_dim=16",
        "views.size=16",
    ),
    *("global_batch_size=32", "log.every_steps=1", "cluster.max_failures=0"),
]


def config(*words: str) -> PretrainConfig:
    made = parse(complete_pretrain, [*SMALL, *words])
    assert isinstance(made, PretrainConfig)
    return made


def parts(folder: str) -> dict[str, Any]:
    tables = {}
    for name in uris.list_names(folder):
        filesystem, path = uris.arrow_filesystem(uris.join(folder, name))
        tables[name] = pq.read_table(path, filesystem=filesystem)
    return tables


def stop_at_the_first_line(monkeypatch: pytest.MonkeyPatch) -> None:
    show = StepProgress.show

    def show_and_stop(progress: StepProgress, line: dict[str, Any]) -> None:
        show(progress, line)
        if line.get("step") == 1:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(StepProgress, "show", show_and_stop)


def logged(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in uris.read_bytes(f"{out}/metrics.jsonl").splitlines()]


@pytest.mark.slow
def test_the_chain_runs_on_object_storage_is_stopped_and_goes_on_and_accounts_for_a_bad_file(
    object_store: ObjectStore,
    image_folder: Path,
    put_folder: Callable[[Path, str], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    object_store.make_bucket("chain")
    for scene in ("scene0", "scene1", "scene2", "scene3"):
        put_folder(image_folder / scene, f"s3://chain/images/{scene}")
    source, out = "s3://chain/images", "s3://chain/runs/a"
    # One of 101: an epoch is 3 steps.
    uris.write_bytes(f"{source}/scene0/broken.jpg", b"no picture")
    words = [f"source.uri={source}", f"out={out}"]

    with monkeypatch.context() as patch:
        stop_at_the_first_line(patch)
        stopped = pretrain(config(*words, "num_steps=100000", "checkpoint.every_s=100000"))
    done = stopped["steps"]
    assert stopped["exit_code"] == 1 and 0 < done == RunDir(out).committed_step() < 100_000
    told = f"stopped at step {done} of 100000; the same command line goes on from there"
    assert told in capsys.readouterr().err
    bad = quarantine.read(f"{out}/quarantine")
    assert {row["uri"] for row in bad} == {f"{source}/scene0/broken.jpg"}
    lines = logged(out)
    assert [line["step"] for line in lines] == list(range(1, done + 1))
    plan = Plan.fresh(open_manifest(f"{out}/manifest"), seed=0)
    planned = [uri for rows in plan.rows(0, 32 * done) for uri in rows["uri"].to_pylist()]
    assert lines[-1]["bad_samples"] == planned.count(f"{source}/scene0/broken.jpg") > 0
    assert all(
        {"loss", "lr", "feature_std", "images_per_s", "wait_fraction"} <= line.keys()
        for line in lines
    )

    later = (image_folder / "scene5" / "02.jpg").read_bytes()
    uris.write_bytes(f"{source}/scene0/later.jpg", later)  # not in the manifest
    words += [f"num_steps={done + 3}", "views.placement=decode", "cluster.num_workers=2"]
    # A checkpoint at every step, the last one too.
    second = pretrain(config(*words, "checkpoint.keep=1", "checkpoint.every_s=0.001"))
    assert second["steps"] == RunDir(out).committed_step() == done + 3
    assert [line["step"] for line in logged(out)] == list(range(1, done + 4))
    assert len(uris.list_names(f"{out}/tensorboard")) == 2
    encoder = artifact.load(second["artifact"])
    pixels = torch.zeros(2, 3, 40, 30, dtype=torch.uint8)
    assert encoder(encoder.preprocess(pixels)).shape == (2, encoder.embed_dim)
    assert encoder.provenance["samples_seen"] == 32 * (done + 3)
    with pytest.raises(
        InputError, match=r"holds another experiment: it differs in seed \(0 there, 1 now\)"
    ):
        pretrain(config(*words, "seed=1"))

    exported = export(
        ExportConfig.model_validate(
            {
                "artifact": second["artifact"],
                "source": {"uri": source},
                "out": "s3://chain/embeddings",
            }
        )
    )
    assert (exported["rows"], exported["parts_written"], exported["quarantined"]) == (101, 1, 1)
    page = report(ReportConfig(run=out))
    assert b"<html" in uris.read_bytes(page["result"])


@pytest.mark.long
def test_an_artifact_on_object_storage_is_judged_and_embeds_images_there_once(
    object_store: ObjectStore,
    image_folder: Path,
    small_artifact: str,
    put_folder: Callable[[Path, str], None],
) -> None:
    object_store.make_bucket("judged")
    source, small = "s3://judged/images", "s3://judged/artifact"
    for scene in ("scene0", "scene1", "scene2", "scene3"):
        put_folder(image_folder / scene, f"{source}/{scene}")
    put_folder(Path(small_artifact), small)
    uris.write_bytes(f"{source}/scene0/broken.jpg", b"no picture")
    encoder = artifact.load(small)
    for image in sorted(image_folder.glob("scene[01]/*"))[::5]:
        pixels = Image.open(image)
        with uris.open_atomic(f"s3://judged/shifted/{image.parent.name}/{image.name}") as file:
            pixels.crop((1, 1, *pixels.size)).save(file, "PNG")
    labelled = {
        "artifact": small,
        "train": {"uri": source},
        "test": {"uri": "s3://judged/shifted"},
    }
    embedded = embed_labelled(AdaptConfig.model_validate(labelled))
    scores = judge(ProbeConfig(name="knn", k=1), embedded)
    assert scores["top1"] > 0.5  # an image is nearest to what is left of it without a row
    assert (scores["num_train"], scores["num_test"]) == (100, 10)
    assert scores["classes"] == [f"scene{number}" for number in range(4)]
    linear = judge(ProbeConfig(name="linear"), embedded)
    assert 0.25 < linear["top1"] <= 1.0 and linear["artifact_digest"] == encoder.digest

    wanted = ExportConfig.model_validate(
        {"artifact": small, "source": {"uri": source}, "out": "s3://judged/embeddings"}
    )
    exported = export(wanted)
    assert (exported["rows"], exported["parts_written"], exported["quarantined"]) == (100, 1, 1)
    (table,) = parts("s3://judged/embeddings/embeddings").values()
    assert table.num_rows == 100 and len(set(table["sample_id"].to_pylist())) == 100
    assert table.schema.field("embedding").type.list_size == encoder.embed_dim
    assert set(table["artifact_digest"].to_pylist()) == {encoder.digest}
    again = export(wanted)
    assert (again["rows"], again["parts_written"], again["parts_kept"]) == (0, 0, 1)
    with pytest.raises(InputError, match="another export: it differs in dtype"):
        export(wanted.model_copy(update={"dtype": "float16"}))


@pytest.mark.slow
def test_an_artifact_that_is_gone_is_made_again_from_the_last_step(
    image_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    words = [f"source.uri={image_folder}", f"out={out}", "num_steps=2"]
    first = pretrain(config(*words))
    shutil.rmtree(out / "artifact")
    second = pretrain(config(*words))  # no step is left
    assert second["artifact_digest"] == first["artifact_digest"]


@pytest.mark.slow
def test_masked_autoencoding_runs_and_reports(image_folder: Path, tmp_path: Path) -> None:
    words = [
        *(
            "mae_small",
            f"source.uri={image_folder}",
            f"out={tmp_path}/run",
            "num_steps=3",
            "global_batch_size=16",
        ),
        *(
            "encoder.width=8",
            "method.decoder_dim=16",
            "method.decoder_depth=1",
            "method.decoder_heads=2",
            "accumulate=2",
        ),
        *("views.size=16", "log.every_steps=1"),
    ]
    made = parse(complete_pretrain, words)
    assert isinstance(made, PretrainConfig)
    result = pretrain(made)
    assert result["steps"] == 3 and 0 < result["loss"] < 10
    report(ReportConfig(run=f"{tmp_path}/run"))
    assert (tmp_path / "run" / "report" / "shown.png").stat().st_size > 0


@pytest.mark.slow
def test_export_embeds_every_sample_once_over_several_parts(
    image_folder: Path, tmp_path: Path, small_artifact: str
) -> None:
    uri = small_artifact
    wanted = ExportConfig.model_validate(
        {
            "artifact": uri,
            "source": {"uri": str(image_folder)},
            "out": str(tmp_path / "e"),
            "part_rows": 64,
        }
    )
    assert export(wanted)["parts_written"] == 4
    before = parts(f"{tmp_path}/e/embeddings")
    ids = [i for table in before.values() for i in table["sample_id"].to_pylist()]
    assert len(ids) == len(set(ids)) == 200
    victim = sorted(before)[1]
    (tmp_path / "e" / "embeddings" / victim).unlink()
    again = export(wanted)
    assert (again["parts_written"], again["parts_kept"], again["rows"]) == (1, 3, 64)
    after = parts(f"{tmp_path}/e/embeddings")
    assert after[victim]["sample_id"] == before[victim]["sample_id"]

    encoder = artifact.load(uri)
    row = after[victim].slice(5, 1).to_pylist()[0]
    image = torch.from_numpy(
        decode(Path(row["uri"]).read_bytes(), max_pixels=10**7).copy()
    ).permute(2, 0, 1)[None]
    with torch.inference_mode():
        alone = encoder(encoder.preprocess(image))[0]
    assert torch.allclose(
        torch.tensor(row["embedding"]), alone, atol=0.05 * float(alone.abs().max())
    )
