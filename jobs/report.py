"""Turn a run directory into one page: curves, views, neighbours, probes, bad samples,
configuration."""

import json
import sys
from dataclasses import dataclass
from typing import Any, ClassVar

import yaml
from pydantic import Field, ValidationError

from jobs import preview
from jobs.cluster import launch
from jobs.corpora.run_captions import captions_of_run
from jobs.reporting import adaptation_page, figures, pictures
from jobs.reporting import page as html
from jobs.reporting.figures import Drawing, Lines
from jobs.reporting.page import Html
from jobs.setup.bad_samples import BadSamples
from jobs.setup.claims import check_writable
from jobs.setup.command_line import main, to_yaml
from jobs.setup.failures import InputError
from jobs.setup.inputs import load_artifact
from jobs.setup.sections import TRAINING, ClusterConfig, JobConfig
from jobs.training.bottleneck import bottleneck
from jobs.training.run_config import PretrainConfig
from jobs.training.run_dir import RunDir, open_run
from models.artifact import Artifact
from models.encoders.factory import build_encoder
from models.method import MEDIA_WORDS
from models.scores import WORDS, measure_of
from pipelines import schema
from pipelines.corpus.manifest import Manifest, open_manifest, versions
from pipelines.storage import uris
from pipelines.stream import quarantine
from pipelines.stream.plan import Plan

# of the curves on the page; 1096 is its width
WIDE_PX = 1096
HALF_PX = 536
NUM_EXAMPLES = 3  # of each reason for which samples are bad


class ReportConfig(JobConfig):
    """A report of a run."""

    example: ClassVar[str] = "run=runs/a"
    ignored: ClassVar[tuple[str, ...]] = TRAINING

    run: str = Field(
        min_length=1,
        description="the run directory: a path or s3:// prefix; it may still be running",
    )
    cluster: ClusterConfig = ClusterConfig()


@dataclass(frozen=True)
class Found:
    """What a run directory holds so far.

    Attributes:
        run: The directory.
        config: The run's configuration.
        lines: Its log.
        manifest: The corpus, None before it is listed.
        encoder: The artifact, None before the last step.
        bad: What the quarantine holds.
        probes: Results of `jobs.adapt`, where someone put them.
        environment: Versions and machine.
    """

    run: RunDir
    config: PretrainConfig
    lines: Lines
    manifest: Manifest | None
    encoder: Artifact | None
    bad: quarantine.Summary
    probes: list[dict[str, Any]]
    environment: dict[str, Any]

    @property
    def what(self) -> str:
        """Return what the samples are."""
        return MEDIA_WORDS[self.config.media]

    @property
    def sees_pictures(self) -> bool:
        """Tell whether a sample is a picture, or several."""
        return self.config.medium == "pictures"


def report(config: ReportConfig) -> dict[str, Any]:
    """Write `report/index.html` and its pictures into a run directory.

    Raises:
        InputError: there is no run, or a file of it is damaged.
    """
    uri = launch.user_uri("run", config.run)
    if problem := uris.reachable(uri):
        raise InputError(f"run {problem}")
    check_writable("run", uri)
    found = read_run(uri)
    bad = BadSamples(1, found.run.path("quarantine"))
    last = found.lines[-1] if found.lines else {}
    bad.add(last.get("samples", 0), found.bad.reasons)
    bad.tell()
    with launch.session(
        config.cluster, work="embed", paths=(uri, found.config.source.uri)
    ) as session:
        drawn = _pictures(found, session)
    for picture in drawn.values():
        uris.write_bytes(found.run.path("report", picture.name), picture.data)
    place = found.run.path("report", "index.html")
    uris.write_bytes(place, html.page(f"Afield: {_name(found)}", _sections(found, drawn)))
    return {"pictures": sorted(drawn), "steps": _steps(found), "result": place}


def read_run(uri: str) -> Found:
    """Read everything but pixels.

    Raises:
        InputError: there is no run, or a file of it is damaged.
    """
    try:
        run, config = open_run(uri)
        probes = [
            json.loads(uris.read_bytes(run.path("probes", name)))
            for name in uris.list_names(run.path("probes"))
            if name.endswith(".json")
        ]
        environment = json.loads(uris.read_bytes(run.path("env.json")))
        lines = run.join_metrics()
    except InputError:
        raise
    except (ValidationError, yaml.YAMLError, json.JSONDecodeError) as error:
        raise InputError(f"run {uri} holds a damaged file: {str(error).splitlines()[0]}") from None
    encoder = load_artifact(run.path("artifact")) if run.has_artifact() else None
    quarantine.compact(run.path("quarantine"), quarantine.FEW)
    bad = quarantine.summarise(run.path("quarantine"), NUM_EXAMPLES)
    return Found(
        run, config, lines, _manifest(run, config, encoder), encoder, bad, probes, environment
    )


def _manifest(run: RunDir, config: PretrainConfig, encoder: Artifact | None) -> Manifest | None:
    """Open the corpus as it was listed for the run; the newest version where the run has not
    recorded one."""
    version = encoder.provenance.get("manifest_version") if encoder else None
    for uri in (config.source.uri, run.path("manifest")):
        if there := versions(uri):
            return open_manifest(uri, version if version in there else None)
    return None


def _pictures(found: Found, session: launch.Session) -> dict[str, Drawing]:
    """Draw everything that the run has material for, by name without suffix."""
    config = found.config
    drawn = list[Drawing | None]()
    if found.lines:
        dim = build_encoder(config.encoder, config.views.size).embed_dim
        drawn += [
            figures.loss(found.lines),
            figures.feature_spread(found.lines, dim),
            figures.throughput(found.lines),
            figures.stages(found.lines),
            figures.health(found.lines),
            figures.patches(found.lines),
            figures.geometry(found.lines),
            figures.information(found.lines),
        ]
    if found.manifest:
        drawn += _shown(found, found.manifest)
    if found.manifest and found.encoder and found.sees_pictures:
        uri = found.run.path("artifact")
        drawn += pictures.alike(config, found.manifest, uri, found.encoder, session)
    return {picture.name.partition(".")[0]: picture for picture in drawn if picture}


def _shown(found: Found, manifest: Manifest) -> list[Drawing | None]:
    """Draw what needs the corpus; a run is worth a report also when its images have gone since."""
    drawn: list[Drawing | None] = []
    try:
        captions = captions_of_run(found.config, found.run, manifest)
        samples = preview.draw(
            found.config, manifest, num_images=pictures.NUM_VIEWED, epoch=0, captions=captions
        )
        drawn.append(pictures.views(found.config, samples))
        drawn.append(pictures.shown(found.config, found.run, samples))
    except InputError as error:
        print(f"the report lacks pictures of the views: {error}", file=sys.stderr)
    return drawn


def _name(found: Found) -> str:
    return found.run.uri.rstrip("/").rpartition("/")[2]


def _steps(found: Found) -> int:
    return int(found.lines[-1]["step"]) if found.lines else 0


def _sections(found: Found, pictures: dict[str, Drawing]) -> list[Html]:
    unseen = (
        f"The {found.what} can no longer be read."
        if found.manifest
        else "The corpus has not been listed yet."
    )
    return [
        *_head(found),
        _training(found, pictures),
        html.section("What it was shown", _sheet(pictures, "views", unseen)),
        *_learnt(found, pictures),
        html.section("How good the features are", *_probes(found)),
        html.section("Samples that could not be used", *_bad(found)),
        html.section("How it was made", *_origin(found)),
    ]


def _head(found: Found) -> list[Html]:
    config = found.config
    last = found.lines[-1] if found.lines else {}
    total = config.num_steps or (
        config.steps(Plan.fresh(found.manifest, config.seed)) if found.manifest else None
    )
    of = f" of {total:,}" if total else ""
    badge = "finished" if found.encoder else f"unfinished: step {_steps(found):,}{of}"
    title = f"{_name(found)}: {config.method.name} with {config.encoder.name}"
    lead = f"Trained on {config.source.uri} without labels; run directory {found.run.uri}"
    shown = [
        (f"{_steps(found):,}", "optimiser steps"),
        (f"{last.get('samples', 0):,}", "samples seen"),
    ]
    if last:
        shown += [(f"{last['loss']:#.4g}", "final loss" if found.encoder else "loss so far")]
    if found.manifest:
        shown += [(f"{found.manifest.num_rows:,}", f"{found.what} in the corpus")]
    shown += [(f"{found.bad.num_samples:,}", f"unreadable {found.what}")]
    for probe in found.probes:
        measure = measure_of(probe)
        shown.append((f"{probe[measure]:.1%}", f"{probe['probe']} {WORDS[measure]}"))
    return [html.header(title, lead, badge, done=found.encoder is not None), html.tiles(shown)]


def _training(found: Found, pictures: dict[str, Drawing]) -> Html:
    if "loss" not in pictures:
        return html.section("Training", html.paragraph("No step has been logged yet.", pale=True))
    parts = [html.pictures(pictures["loss"], width=WIDE_PX)]
    parts.append(html.pictures(pictures["feature_std"], pictures["throughput"], width=HALF_PX))
    if "health" in pictures:
        parts.append(html.pictures(pictures["health"], pictures["geometry"], width=HALF_PX))
    if "information" in pictures:
        parts.append(html.pictures(pictures["information"], width=WIDE_PX))
    if back := found.run.rollback():
        parts.append(html.paragraph(f"Went back once: {back['reason']}."))
    if "stages" in pictures:
        parts += [
            html.pictures(pictures["stages"], width=WIDE_PX),
            html.paragraph(bottleneck(found.lines) or ""),
        ]
    return html.section("Training", *parts)


def _sheet(pictures: dict[str, Drawing], name: str, missing: str) -> Html:
    return html.pictures(pictures[name]) if name in pictures else html.paragraph(missing, pale=True)


def _learnt(found: Found, pictures: dict[str, Drawing]) -> list[Html]:
    shown = (
        [html.section("What it makes of its views", html.pictures(pictures["shown"]))]
        if "shown" in pictures
        else []
    )
    missing = (
        "There is no artifact yet: it is written after the last step."
        if not found.encoder
        else f"There are too few {found.what} that can be read."
        if found.sees_pictures
        else f"The {found.what} are no pictures: jobs.search finds alike ones in an export."
    )
    alike = [html.pictures(pictures["atlas"])] if "atlas" in pictures else []
    alike.append(_sheet(pictures, "neighbours", missing))
    return [*shown, html.section("What it finds alike", *alike)]


def _probes(found: Found) -> list[Html]:
    if not found.probes:
        return [
            html.paragraph(
                "No probe has been recorded: jobs.adapt judges the artifact on labelled images.",
                pale=True,
            )
        ]
    return adaptation_page.scores(found.probes)


def _bad(found: Found) -> list[Html]:
    parts = []
    if found.bad.reasons:
        rows = []
        for reason, count in found.bad.reasons.items():
            shown = [f"{uri}: {message}" for uri, message in found.bad.examples.get(reason, [])]
            rows.append((reason.replace("_", " "), count, html.lines(shown)))
        parts += [html.table(("reason", "samples", "for example"), rows)]
    else:
        parts += [html.paragraph("Every sample met so far could be read.")]
    if found.manifest and found.manifest.left_out:
        parts += [
            html.paragraph("Files of the source that are no samples, left out when it was listed:")
        ]
        parts += [html.table(("reason", "files", "for example"), _left_out(found.manifest))]
    return parts


def _left_out(manifest: Manifest) -> list[tuple[Any, ...]]:
    """Return reason, count and examples of the files that are no samples, from their first
    table."""
    table = next(manifest.read_left_out(), schema.QUARANTINE.empty_table()).select(
        [schema.URI, schema.MEMBER, "reason", "message"]
    )
    examples: dict[str, list[str]] = {}
    for row in table.to_pylist():
        shown = examples.setdefault(row["reason"], [])
        if len(shown) < NUM_EXAMPLES:
            texts = (row[schema.URI], row[schema.MEMBER], row["message"])
            shown.append(": ".join(text for text in texts if text))
    return [
        (reason, count, html.lines(examples.get(reason, [])))
        for reason, count in sorted(manifest.left_out.items())
    ]


def _origin(found: Found) -> list[Html]:
    environment = found.environment
    names = ("python", "platform", "cores")
    rows = [(name, str(environment[name])) for name in names if name in environment]
    rows += [("command", " ".join(environment.get("command", [])))]
    rows += [
        (
            "packages",
            ", ".join(
                f"{name} {version}" for name, version in environment.get("packages", {}).items()
            ),
        )
    ]
    if found.manifest:
        rows += [
            (
                "corpus",
                (
                    f"{found.manifest.source}, manifest version {found.manifest.version}:"
                    f" {found.manifest.uri}"
                ),
            )
        ]
    if found.encoder:
        rows += [("artifact", f"{found.run.path('artifact')}, digest {found.encoder.digest}")]
    return [html.table(("", ""), rows), html.listing("Configuration", to_yaml(found.config))]


if __name__ == "__main__":
    sys.exit(main("report", __doc__ or "", lambda values: (ReportConfig, values), report))
