"""Nearest neighbours and logistic regression on frozen features."""

import torch

from jobs.adaptation import scoring
from jobs.adaptation.choosing import check_validation, choose
from jobs.probing.answering import Answered, targets_of
from jobs.probing.frozen_features import Labelled
from jobs.probing.probe_sections import OWN, ProbeConfig, Setting
from jobs.setup.failures import InputError
from models.probing.logistic import logistic_path
from models.probing.neighbours import knn_votes


def knn(probe: ProbeConfig, labelled: Labelled, kind: str) -> Answered:
    """Let the nearest training samples vote; of several k, the best on validation.

    Raises:
        InputError: fewer training samples than neighbours, or no validation to choose by.
    """
    data = labelled.data
    x = labelled.features[kind][OWN]
    targets = targets_of(data)
    several = len(probe.k) > 1
    if several:
        check_validation(data, "probe.k")
    check_k(probe, int((data.of("train") if several else data.learns).sum()))
    scores: list[float] = []
    if several:
        train = data.of("train")
        val = data.of("val")
        votes = _votes(probe, x[train], targets[train], x[val], data.num_classes)
        held = data.keep(val)
        scores = [scoring.main_score(held, one.numpy()) for one in votes]
    chosen, about = choose(_measure(labelled), [{"k": k} for k in probe.k], scores)
    learns = data.learns
    test = data.of("test")
    votes = _votes(probe, x[learns], targets[learns], x[test], data.num_classes)
    judged = data.keep(test)
    by_k = {str(k): scoring.main_score(judged, votes[i].numpy()) for i, k in enumerate(probe.k)}
    about |= {"by_k": by_k}
    return Answered(scoring.score(judged, votes[chosen].numpy()), about)


def check_k(probe: ProbeConfig, num_train: int, what: str = "training images") -> None:
    """Refuse more neighbours than there are samples.

    Raises:
        InputError: there are fewer.
    """
    if max(probe.k) > num_train:
        raise InputError(
            f"probe.k {max(probe.k)} is more than the {num_train} {what}: take a smaller one"
        )


def _votes(
    probe: ProbeConfig,
    train_x: torch.Tensor,
    targets: torch.Tensor,
    test_x: torch.Tensor,
    num_classes: int,
) -> torch.Tensor:
    return knn_votes(
        train_x,
        targets,
        test_x,
        ks=probe.k,
        temperature=probe.temperature,
        num_classes=num_classes,
    )


def linear(probe: ProbeConfig, labelled: Labelled, kind: str) -> Answered:
    """Fit a logistic regression; of several weight decays, poolings and last blocks the best on
    validation, then on all that may be learnt from.

    Raises:
        InputError: there are several, and no validation to choose by.
    """
    data = labelled.data
    targets = targets_of(data)
    candidates = [one for one in labelled.features[kind] if one in _asked(probe, kind)]
    found = [(setting, decay) for setting in candidates for decay in probe.decays]
    scores: list[float] = []
    if len(found) > 1:
        check_validation(data, "probe.weight_decay, probe.pooling or probe.blocks")
        train = data.of("train")
        val = data.of("val")
        held = data.keep(val)
        for setting in candidates:
            x = labelled.features[kind][setting]
            paths = logistic_path(
                x[train],
                targets[train],
                x[val],
                num_classes=data.num_classes,
                weight_decays=probe.decays,
            )
            scores += [scoring.main_score(held, one.numpy()) for one in paths]
    settings = [
        {"weight_decay": decay, "pooling": one.pooling, "blocks": one.blocks}
        for one, decay in found
    ]
    chosen, about = choose(_measure(labelled), settings, scores)
    setting, decay = found[chosen]
    x = labelled.features[kind][setting]
    learns = data.learns
    test = data.of("test")
    answers = logistic_path(
        x[learns], targets[learns], x[test], num_classes=data.num_classes, weight_decays=[decay]
    )[0]
    trained = data.num_classes * (x.shape[1] + 1)
    return Answered(scoring.score(data.keep(test), answers.numpy()), about, trained)


def _asked(probe: ProbeConfig, kind: str) -> tuple[Setting, ...]:
    return (OWN,) if kind == "colour" else probe.settings


def _measure(labelled: Labelled) -> str:
    return "top1" if labelled.data.task == "class" else "map"
