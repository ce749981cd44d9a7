"""Texts from end to end: on S3, by two workers, stopped and resumed; then embedded and judged."""

import csv
import io
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from jobs.adapt import run
from jobs.export import ExportConfig, export
from jobs.pretrain import pretrain
from jobs.probing.similarity_sections import SimilarityConfig
from jobs.training.run_config import load_pretrain
from models import artifact
from pipelines import schema
from pipelines.storage import uris
from pipelines.stream import quarantine
from tests.object_store import ObjectStore

pytestmark = [pytest.mark.usefixtures("ray_session"), pytest.mark.xdist_group("texts")]
THINGS = ["man", "woman", "child", "dog", "cat", "bird", "train", "plane", "house", "river"]
DOINGS = ["plays a flute", "runs along a road", "sleeps in the sun", "eats an apple", "is very old"]


def sentences() -> list[str]:
    return [f"the {thing} {doing}" for thing in THINGS for doing in DOINGS]


def config(out: str, **more: object) -> dict[str, object]:
    small = {"vocab_size": 512, "width": 16, "depth": 1, "num_heads": 2}
    return {
        "method": {"name": "mlm"},
        "encoder": {"name": "text_transformer", "text": small},
        "views": {"size": 16},
        "source": {"uri": "s3://texts/corpus", "max_bad_fraction": 0.5},
        "out": out,
        "num_steps": 16,
        "global_batch_size": 8,
        "optim": {"name": "adamw", "lr": 1e-3, "lr_scaling": "none"},
        "cluster": {"num_workers": 2},
        "log": {"every_steps": 1},
        "health": {"every_steps": 8, "num_samples": 16},
        "seed": 1,
        **more,
    }


def put(uri: str, data: bytes) -> None:
    with uris.open_atomic(uri) as file:
        file.write(data)


@pytest.mark.slow
def test_texts_on_s3_are_learnt_from_by_two_workers_resumed_exported_and_judged(
    object_store: ObjectStore, tmp_path: Path
) -> None:
    pytest.importorskip("tokenizers")
    object_store.make_bucket("texts")
    put("s3://texts/corpus/a.txt", "\n".join([*sentences(), "", "caf"]).encode() + b"\xe9\n")
    straight = pretrain(load_pretrain(config("s3://texts/runs/straight")))
    stopped = config("s3://texts/runs/stopped", debug={"stop_at_step": 7})
    assert pretrain(load_pretrain(stopped))["exit_code"] == 1
    resumed = pretrain(load_pretrain(config("s3://texts/runs/stopped")))
    assert resumed["artifact_digest"] == straight["artifact_digest"]
    assert straight["loss"] == resumed["loss"] and "health_rankme" in straight
    bad = quarantine.read("s3://texts/runs/straight/quarantine")
    assert {row[schema.REASON] for row in bad} == {"encoding"}

    uri = straight["artifact"]
    made = artifact.load(uri)
    kept = uris.read_bytes("s3://texts/runs/straight/tokenizer.json").decode()
    assert made.of_texts is not None and made.of_texts.tokenizer == kept
    done = export(
        ExportConfig.model_validate(
            {
                "artifact": uri,
                "source": {"uri": "s3://texts/corpus", "max_bad_fraction": 0.5},
                "out": str(tmp_path / "embeddings"),
                "dtype": "float32",
            }
        )
    )
    assert done["rows"] == 50 and done["quarantined"] == 1
    table = pq.read_table(tmp_path / "embeddings" / "embeddings")
    lines = [int(name.split()[1]) - 1 for name in table[schema.MEMBER].to_pylist()]
    found = np.stack(table[schema.EMBEDDING].to_pylist())[np.argsort(lines)]
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    np.testing.assert_allclose(found, made.embed_texts(sentences()).numpy(), atol=1e-4)

    said = io.StringIO()
    rows = csv.writer(said)
    rows.writerow(["sentence1", "sentence2", "score"])
    every = sentences()
    rows.writerows([every[n], every[(7 * n) % 50], (n % 5) / 4] for n in range(50))
    put("s3://texts/pairs.csv", said.getvalue().encode())
    judged = run(
        SimilarityConfig.model_validate(
            {
                "artifact": uri,
                "test": {"uri": "s3://texts/pairs.csv"},
                "probe": {"name": "similarity"},
                "out": str(tmp_path / "judged"),
            }
        )
    )
    low, high = judged["ci95"]
    assert low <= judged["spearman"] <= high and judged["num_pairs"] == 50
    assert {"untrained_spearman", "colour_spearman"} <= judged.keys()
    assert (tmp_path / "judged" / "index.html").exists()
    yaml.safe_load(uris.read_bytes("s3://texts/runs/straight/config.yaml"))
