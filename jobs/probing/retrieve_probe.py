"""Retrieval: each test sample looks for samples of its class."""

import numpy as np
import torch

from jobs.adaptation import scoring
from jobs.adaptation.scoring import Scored
from jobs.probing.answering import Answered, targets_of
from jobs.probing.frozen_features import Labelled
from jobs.probing.probe_sections import OWN, ProbeConfig
from jobs.setup.failures import InputError
from models.probing import resampling
from models.probing.retrieval import Items, retrieve
from pipelines.labels.labelled_data import LabelledData


def retrieve_test(probe: ProbeConfig, labelled: Labelled, kind: str) -> Answered:
    """Rank the gallery for each test sample.

    Raises:
        InputError: no test sample has another of its class to find.
    """
    data = labelled.data
    test = data.of("test")
    gallery = test if probe.gallery == "test" else data.learns
    x = labelled.features[kind][OWN]
    queries, found_in = (_items(labelled, x, rows) for rows in (test, gallery))
    found = retrieve(queries, found_in, ks=probe.recall_at)
    precision = found.average_precision.numpy()
    asked = ~np.isnan(precision)  # what has nothing to find is no question
    if not asked.any():
        raise InputError(
            f"probe.gallery={probe.gallery}: no test image has another image of its class to find:"
            " give classes of two test images or more, or probe.gallery=train"
        )
    scored = _scored(probe, data.keep(test), precision, found.hits.numpy())
    assert scored is not None
    about = {
        "gallery": probe.gallery,
        "num_gallery": int(gallery.sum()),
        "num_queries": int(asked.sum()),
    }
    return Answered(scored, about)


def _scored(
    probe: ProbeConfig, judged: LabelledData, of_each: np.ndarray, found: np.ndarray
) -> Scored | None:
    """Score what test samples found; None where none of them had anything to find.

    Args:
        probe: Of the job.
        judged: The test samples.
        of_each: Average precision of each, (N,), NaN of one with nothing to find.
        found: Whether each found its class, by length of the answer, (K, N).
    """
    asked = ~np.isnan(of_each)
    if not asked.any():
        return None
    precision = of_each[asked]
    hits = found[:, asked]
    groups = judged.drawn_whole
    drawn = resampling.resampled_means(precision, None if groups is None else groups[asked])
    scores = {
        "map": float(precision.mean()),
        "ci95": list(resampling.interval_of(drawn)),
        "per_class": scoring.by_class(judged, _by_class(judged, asked, precision)),
        "recall_at": {
            str(k): float(hit.mean()) for k, hit in zip(probe.recall_at, hits, strict=True)
        },
    }
    return Scored(
        "map",
        scores,
        lambda: drawn,
        of_some=lambda some: _scored(probe, judged.keep(some), of_each[some], found[:, some]),
    )


def _items(labelled: Labelled, x: torch.Tensor, chosen: np.ndarray) -> Items:
    return Items(x[chosen], targets_of(labelled.data)[chosen], labelled.content[chosen])


def _by_class(judged: LabelledData, asked: np.ndarray, precision: np.ndarray) -> np.ndarray:
    """Average over the queries of each class, (C,); NaN where there is none."""
    hot = judged.label_hot[asked].astype(np.float64)
    with np.errstate(invalid="ignore"):
        mean: np.ndarray = (precision @ hot) / hot.sum(0)
    return mean
