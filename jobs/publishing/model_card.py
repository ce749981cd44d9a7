"""The model card: a README.md with the front matter that model hubs read."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

import yaml

from jobs.probing.probe_sections import ProbeConfig
from jobs.probing.propagate_sections import PropagateProbeConfig
from jobs.publishing import card_parts as parts
from jobs.publishing.probe_results import Score
from jobs.publishing.run_curves import FOLDER
from jobs.reporting.figures import Drawing, Lines
from models.artifact import Artifact
from models.publishing.places import name_of, without_places
from models.supervised.head import HeadConfig

TASK = "image-feature-extraction"
_TASKS = {
    "class": "image-classification",
    "classes": "image-classification",
    "mask": "image-segmentation",
    "boxes": "object-detection",
}


@dataclass(frozen=True)
class Published:
    """What a card tells.

    Attributes:
        name: The model's name.
        license: As hubs spell it; "unknown" where nobody has said.
        datasets: Names of the data it was trained on.
        artifact: The encoder and where it comes from.
        checks: By form: `files`, `bytes`, `difference` and `packages`.
        usages: By form: the lines of Python that load it.
        alone: By form that holds the encoder without its head: why.
        left_out: By form that the encoder has not: why.
        scores: What probes have measured.
        lines: The run's log, empty where it was not reached.
        curves: Pictures of it.
    """

    name: str
    license: str
    datasets: tuple[str, ...]
    artifact: Artifact
    checks: Mapping[str, Mapping[str, Any]]
    usages: Mapping[str, str]
    alone: Mapping[str, str]
    left_out: Mapping[str, str]
    scores: list[Score]
    lines: Lines
    curves: list[Drawing]

    @property
    def method(self) -> str | None:
        """Return the method that trained it, None where the artifact does not say."""
        named = self.artifact.config.get("method")
        return str(named["name"]) if isinstance(named, dict) and "name" in named else None

    @property
    def head(self) -> HeadConfig | None:
        """Return what the head tells, None where there is none."""
        return None if self.artifact.head is None else self.artifact.head.config

    @property
    def task(self) -> str:
        """Return what it is for, as hubs call it."""
        return _TASKS.get(self.head.task, TASK) if self.head else TASK

    @property
    def encoder(self) -> str:
        """Return the network's name."""
        return str(self.artifact.encoder.name)

    @property
    def source(self) -> str:
        """Return where the training data came from, a local folder by its name alone."""
        return name_of(str(self.artifact.provenance.get("source") or "")) or "unknown"

    @property
    def last(self) -> dict[str, Any]:
        """Return the log's line of the weights' step."""
        if self.lines:
            return self.lines[-1]
        return dict(self.artifact.provenance.get("metrics") or {})


def write(told: Published) -> str:
    """Return the card as Markdown with YAML front matter."""
    matter = yaml.safe_dump(front_matter(told), sort_keys=False, allow_unicode=True)
    sections = [
        ("", _lead(told)),
        ("Files", parts.files(told.checks, told.left_out)),
        *([("Classes", parts.classes(told.artifact, told.alone))] if told.head else []),
        ("Preparing images", parts.preparing(told.artifact)),
        ("Loading", parts.loading(told.usages, clips=told.artifact.num_frames is not None)),
        ("Training data and provenance", _provenance(told)),
        ("Training curves", _curves(told.curves)),
        ("Health", parts.health(told.last, labelled=told.head is not None)),
        ("Probes", parts.probes(told.scores)),
        ("Intended use", parts.intended(told.artifact)),
        ("Limits", parts.limits(told.artifact, told.scores, told.source)),
        ("Licence", parts.licence(told.license)),
    ]
    body = "\n\n".join(f"## {head}\n\n{text}" if head else text for head, text in sections)
    return f"---\n{matter}---\n\n# {told.name}\n\n{body}\n"


def front_matter(told: Published) -> dict[str, Any]:
    """Return what a hub reads of the card."""
    in_timm = "timm" in told.checks
    learning = [] if told.head else ["self-supervised"]
    tags = [*learning, *filter(None, [told.method]), told.encoder, "afield"]
    tags += [form.replace("_", "-") for form in told.checks]
    matter: dict[str, Any] = {
        "license": told.license,
        "library_name": "timm" if in_timm else "afield",
        "pipeline_tag": told.task,
        "tags": list(dict.fromkeys(tags)),
    }
    if told.datasets:
        matter["datasets"] = list(told.datasets)
    if told.scores:
        matter["metrics"] = list(dict.fromkeys(score.metric for score in told.scores))
        matter["model-index"] = [{"name": told.name, "results": _results(told.scores, told.task)}]
    return matter


def _results(scores: list[Score], task: str) -> list[dict[str, Any]]:
    results = []
    for score in scores:
        metric: dict[str, Any] = {
            "type": score.metric,
            "value": round(score.value, 4),
            "name": f"{score.probe} {score.words}",
        }
        if score.interval:
            metric["args"] = {"ci95": [round(end, 4) for end in score.interval]}
        classes = score.counts.get("num_classes")
        what = f"labelled images of {classes} classes" if classes else "labelled images"
        if videos := score.counts.get("num_sequences"):
            what = f"{videos} videos with masks or key points"
        results.append(
            {
                "task": _task_of(score, task),
                "dataset": {"name": what, "type": "labelled-images"},
                "metrics": [metric],
            }
        )
    return results


def _task_of(score: Score, task: str) -> dict[str, str]:
    """Name what was scored: frozen features, or what the model itself is for."""
    frozen = (ProbeConfig, PropagateProbeConfig)
    if any(score.probe in get_args(one.model_fields["name"].annotation) for one in frozen):
        return {"type": TASK, "name": f"{score.probe} probe of frozen features"}
    return {"type": task, "name": f"{score.probe} with labels"}


def _lead(told: Published) -> str:
    size = told.artifact.image_size
    weights = sum(each.numel() for each in told.artifact.encoder.parameters())
    by = f"by {told.method} " if told.method else ""
    learnt = f"pretrained {by}without labels"
    beside = "no classifier"
    if told.head:
        learnt = f"adapted {by}with labels"
        beside = f"a head that tells {parts.what_is_told(told.head)}"
    frames = told.artifact.num_frames
    kind, seen = "An image", "images"
    if frames is not None:
        kind, seen = "A video", f"clips of {frames} frames"
    return (
        f"{kind} encoder, {told.encoder}, {learnt}, with"
        f" Afield. RGB {seen} of {size} x {size} px become embeddings of"
        f" {told.artifact.embed_dim} values. It has {weights:,} parameters and {beside}."
    )


def _provenance(told: Published) -> str:
    origin = told.artifact.provenance
    rows: list[tuple[str, Any]] = [
        ("training data", told.source),
        ("manifest version", origin.get("manifest_version")),
        ("starting weights", _start(told.artifact)),
        ("method", told.method),
        ("optimiser steps", origin.get("num_steps")),
        ("samples seen", origin.get("samples_seen")),
        ("samples a step", told.artifact.config.get("global_batch_size")),
        ("seed", told.artifact.config.get("seed")),
        ("fingerprint of the experiment", origin.get("fingerprint")),
        ("digest of the artifact", told.artifact.digest),
    ]
    versions = origin.get("packages") or {}
    packages = ", ".join(f"{name} {version}" for name, version in versions.items())
    rows.append(("packages", packages or None))
    known = [(name, value) for name, value in rows if value is not None]
    text = parts.table(("", ""), known)
    kept = ("method", "encoder", "optim", "views")
    config = {key: told.artifact.config[key] for key in kept if key in told.artifact.config}
    listing = yaml.safe_dump(without_places(config), sort_keys=False, allow_unicode=True)
    return f"{text}\n\n<details><summary>Settings</summary>\n\n```yaml\n{listing}```\n\n</details>"


def _start(artifact: Artifact) -> str | None:
    """Return the name of the weights that training started from, None for random ones."""
    weights = artifact.config["encoder"].get("weights")
    return name_of(weights) if weights else None


def _curves(curves: list[Drawing]) -> str:
    if not curves:
        return "The run's log was not at hand when this card was written."
    return "\n\n".join(f"![{each.finding}]({FOLDER}/{each.name})" for each in curves)
