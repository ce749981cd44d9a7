"""Probes of frozen features: each kind of features judged, and said in one object."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jobs.adaptation.scoring import Scored
from jobs.probing import class_probes, few_label_probe, retrieve_probe
from jobs.probing.answering import Answered
from jobs.probing.few_label_probe import Scratch
from jobs.probing.frozen_features import COMPARED, Judged, Labelled
from jobs.probing.probe_sections import ProbeConfig
from jobs.setup.failures import InputError
from models.scores import WORDS
from pipelines.labels.labelled_data import LabelledData

_PROBES: dict[str, Callable[[ProbeConfig, Labelled, str], Answered]] = {
    "knn": class_probes.knn,
    "linear": class_probes.linear,
    "retrieve": retrieve_probe.retrieve_test,
}


def judge(probe: ProbeConfig, labelled: Labelled, scratch: Scratch | None = None) -> dict[str, Any]:
    """Fit a probe on the training images and score it on the test images, for each kind of
    features.

    Args:
        probe: Which, and its settings.
        labelled: The features; they hold the settings of the probe.
        scratch: few_label: trains from random weights beside it.

    Returns:
        What `--json` prints, without the place of a page.

    Raises:
        InputError: no readable image in a set, or the samples cannot be judged so.
    """
    check_sets(labelled.data)
    if probe.name == "few_label":
        result = few_label_probe.judge_few(probe, labelled, scratch)
        trained = result.pop("trained")
        return described(probe, labelled, trained) | result
    answer = _PROBES[probe.name]
    answered = {"pretrained": answer(probe, labelled, "pretrained")}
    for kind in labelled.others:
        answered[kind] = answer(probe, labelled, kind)
    own = answered["pretrained"]
    result = described(probe, labelled, own.trained) | own.about
    for kind, one in answered.items():
        if kind != "pretrained" and "chosen" in one.about:
            result[f"{kind}_chosen"] = one.about["chosen"]
    return result | in_words(
        probe.name,
        labelled.data,
        {kind: one.scored for kind, one in answered.items()},
        labelled.artifact,
        labelled.leaked_test,
    )


def check_sets(data: LabelledData) -> None:
    """Refuse sets of which one is empty.

    Raises:
        InputError: with how many samples there are.
    """
    num_train = int(data.learns.sum())
    num_test = int(data.of("test").sum())
    if not num_train or not num_test:
        raise InputError(
            f"{num_train} training and {num_test} test images can be read: a probe needs both"
        )


def described(probe: ProbeConfig, labelled: Labelled, trained: int) -> dict[str, Any]:
    """Return what every probe says of its samples and its artifacts."""
    return told_of(probe, labelled.data, labelled.artifact, labelled.compared, trained)


def told_of(
    probe: ProbeConfig,
    data: LabelledData,
    artifact: Judged,
    compared: Judged | None,
    trained: int,
) -> dict[str, Any]:
    """Return what every probe says of its samples and its artifacts, before any score."""
    told: dict[str, Any] = {
        "probe": probe.name,
        "num_train": int(data.learns.sum()),
        "num_test": int(data.of("test").sum()),
        "artifact_digest": artifact.digest,
        "baseline": artifact.baseline,
        "parameters": {"trained": trained, "frozen": artifact.parameters},
    }
    if compared:
        told |= {"compared": compared.uri, "compared_digest": compared.digest}
    return told | data.account


def in_words(
    name: str,
    data: LabelledData,
    scored: Mapping[str, Scored],
    artifact: Judged,
    leaked: np.ndarray | None = None,
) -> dict[str, Any]:
    """Return the scores of every kind of features, without the test samples that leaked too, and
    the line that says them."""
    own = scored["pretrained"]
    result = own.scores | own.unleaked(leaked)
    shown = [f"pretrained {own.line}"]
    for kind, one in scored.items():
        if kind == "pretrained":
            continue
        result |= one.prefixed(f"{kind}_") | one.unleaked(leaked, f"{kind}_")
        shown.append(f"{artifact.baseline if kind == 'untrained' else kind} {one.line}")
    line = f"{name} {WORDS[own.measure]} of {data.account['num_classes']} classes:"
    line = f"{line} {', '.join(shown)}"
    if COMPARED in scored:
        ahead = own.ahead_of(scored[COMPARED])
        result |= ahead
        low, high = ahead["difference_ci95"]
        line += f"; ahead of compared by {ahead['difference']:+.1%} [{low:+.1%}, {high:+.1%}]"
    return result | {"result": line}
