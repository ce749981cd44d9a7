"""Run every job in a row on photographs that need no download.

Corpus, index, preview, pretrain, adapt, export, report: minutes on two CPU cores. The corpus is
crops of photographs inside scikit-image's wheel (`jobs.setup.demo_corpus`). Only the probes use its
labels. The closing table gives each figure with its interval: the pretrained encoder, the same
encoder untrained, and plain statistics of the pixels.
"""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field
from rich.console import Console
from rich.table import Table

from jobs.adapt import AdaptConfig, ProbeConfig, embed_labelled, judge
from jobs.adaptation.label_sections import LabelledConfig, TestConfig
from jobs.cluster import launch
from jobs.export import ExportConfig, export
from jobs.index import IndexConfig, index
from jobs.pretrain import pretrain
from jobs.preview import complete as complete_preview
from jobs.preview import preview
from jobs.report import ReportConfig, report
from jobs.setup.claims import check_writable
from jobs.setup.command_line import main, parse, validate
from jobs.setup.demo_corpus import make_corpus
from jobs.setup.failures import InputError
from jobs.setup.sections import ClusterConfig, JobConfig, SourceConfig
from jobs.training.run_config import PretrainConfig, complete_pretrain
from pipelines.corpus.manifest import versions
from pipelines.storage import uris

RECIPE = "demo"
STAGES = ("corpus", "index", "preview", "pretrain", "adapt", "export", "report")
# crops of each photograph
NUM_PRETRAIN = 300
NUM_PROBE_TRAIN = 100
NUM_PROBE_TEST = 250
FEATURES = (
    ("colour_", "colour statistics"),
    ("untrained_", "untrained encoder"),
    ("", "pretrained encoder"),
)


class DemoConfig(JobConfig):
    """A demonstration."""

    example: ClassVar[str] = "out=runs/demo"
    most_used: ClassVar[tuple[str, ...]] = ("num_steps",)

    out: str = Field(
        min_length=1, description="local folder for everything it makes; new, or an earlier demo's"
    )
    num_steps: int = Field(420, ge=1, description="optimiser steps of 64 images")
    seed: int = Field(
        0, ge=0, lt=2**31, description="of pretraining; the corpus is the same for all"
    )
    cluster: ClusterConfig = ClusterConfig()


class Stages:
    """Announces the stages on stderr, and keeps how long each took."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._console = Console(stderr=True, highlight=False)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time the block as one of `STAGES`."""
        self._console.print(f"[bold]{STAGES.index(name) + 1}/{len(STAGES)}  {name}[/bold]")
        begun = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - begun, 1)


def demo(config: DemoConfig) -> dict[str, Any]:
    """Run all stages in one Ray; what an earlier run finished is kept.

    Returns:
        `report`, `seconds` by stage and in total, `steps`, the results of both probes under `knn`
        and `linear`, the export's counts, and `learnt`: whether the pretrained encoder's lower
        bounds lie above the others' upper bounds.

    Raises:
        InputError: `out` is not local or holds something else, or scikit-image is not installed.
    """
    begun = time.monotonic()
    out = launch.absolute_out(config.out)
    if not uris.is_local(out):
        raise InputError(f"out {out} must be a local folder: the demo makes its corpus there")
    check_writable("out", out)
    stages = Stages()
    with launch.session(config.cluster, paths=(out,)):
        trained = _pretrain(config, out, stages)
        if trained.get("exit_code"):
            return trained
        with stages.stage("adapt"):
            probes = _probe(config, out)
        source = SourceConfig(uri=uris.join(out, "manifest"))
        embeddings = uris.join(out, "embeddings")
        with stages.stage("export"):
            exported = export(
                ExportConfig(
                    artifact=(trained["artifact"],),
                    source=source,
                    out=embeddings,
                    cluster=config.cluster,
                )
            )
        with stages.stage("report"):
            reported = report(ReportConfig(run=uris.join(out, "run"), cluster=config.cluster))
    seconds = {**stages.seconds, "total": round(time.monotonic() - begun, 1)}
    learnt = all(_learnt(result) for result in probes.values())
    return {
        "report": reported["result"],
        "seconds": seconds,
        "steps": trained["steps"],
        **probes,
        "export": {name: value for name, value in exported.items() if name != "result"},
        "learnt": learnt,
        "result": (
            f"{_table(probes, seconds['total'], learnt=learnt)}\nreport: {reported['result']}"
        ),
    }


def _pretrain(config: DemoConfig, out: str, stages: Stages) -> dict[str, Any]:
    """Run everything up to the artifact."""
    corpus = uris.join(out, "corpus")
    manifest = uris.join(out, "manifest")
    with stages.stage("corpus"):
        made = make_corpus(
            Path(corpus),
            num_pretrain=NUM_PRETRAIN,
            num_probe_train=NUM_PROBE_TRAIN,
            num_probe_test=NUM_PROBE_TEST,
        )
        print(f"{'made' if made['made'] else 'found'} {corpus}", file=sys.stderr)
    with stages.stage("index"):
        if not versions(manifest):
            source = SourceConfig(uri=uris.join(corpus, "pretrain"))
            index(IndexConfig(source=source, out=manifest, cluster=config.cluster))
    recipe = pretrain_config(config, manifest, uris.join(out, "run"))
    with stages.stage("preview"):
        values = {**recipe.model_dump(mode="json"), "out": uris.join(out, "views.png")}
        preview(validate(*complete_preview(values)))
    with stages.stage("pretrain"):
        return pretrain(recipe)


def pretrain_config(config: DemoConfig, manifest: str, run: str) -> PretrainConfig:
    """Give the shipped recipe the demo's corpus, length and cluster."""
    words = [
        RECIPE,
        f"source.uri={manifest}",
        f"out={run}",
        f"num_steps={config.num_steps}",
        f"seed={config.seed}",
    ]
    values = parse(complete_pretrain, words).model_dump(mode="json")
    return validate(
        *complete_pretrain({**values, "cluster": config.cluster.model_dump(mode="json")})
    )


def _probe(config: DemoConfig, out: str) -> dict[str, dict[str, Any]]:
    """Judge the artifact by both probes, and leave the results where the report looks for them."""
    run = uris.join(out, "run")
    labelled = uris.join(out, "corpus", "probe")
    features = embed_labelled(
        AdaptConfig(
            artifact=uris.join(run, "artifact"),
            train=LabelledConfig(uri=uris.join(labelled, "train")),
            test=TestConfig(uri=uris.join(labelled, "test")),
            cluster=config.cluster,
        )
    )
    results: dict[str, dict[str, Any]] = {}
    for probe in (ProbeConfig(name="knn"), ProbeConfig(name="linear")):
        result = judge(probe, features)
        del result["result"]
        uris.write_bytes(
            uris.join(run, "probes", f"{probe.name}.json"), json.dumps(result, indent=2).encode()
        )
        results[probe.name] = result
    return results


def _learnt(result: dict[str, Any]) -> bool:
    """Tell whether the pretrained encoder's interval lies above both others'."""
    others = max(result["untrained_ci95"][1], result["colour_ci95"][1])
    return bool(result["ci95"][0] > others)


def _table(probes: dict[str, dict[str, Any]], total_s: float, *, learnt: bool) -> str:
    """Format the closing table, with colours where stdout is a terminal."""
    counts = probes["knn"]
    table = Table(
        title="From which photograph is this grey crop? Top-1, 95 % intervals",
        caption=(
            f"{counts['num_train']} crops to learn from, {counts['num_test']} to answer, from"
            f" disjoint parts of each photograph. The intervals {'are' if learnt else 'are NOT'}"
            f" apart. {total_s:.0f} s in all."
        ),
    )
    table.add_column("features")
    for name in probes:
        table.add_column(name, justify="right")
    for prefix, title in FEATURES:
        cells = [
            _cell(result[f"{prefix}top1"], *result[f"{prefix}ci95"]) for result in probes.values()
        ]
        table.add_row(title, *cells, style="bold" if not prefix else None)
    console = Console(width=78)
    with console.capture() as text:
        console.print(table)
    return text.get().rstrip("\n")


def _cell(top1: float, low: float, high: float) -> str:
    return f"{top1:.1%} ({low:.1%} to {high:.1%})"


if __name__ == "__main__":
    sys.exit(main("demo", __doc__ or "", lambda values: (DemoConfig, values), demo))
