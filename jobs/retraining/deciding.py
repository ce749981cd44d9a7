"""Whether a cycle is worth it, and whether its data can be trusted without a person."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from jobs.cluster.share import Session
from jobs.retraining.looks import Sampled, look, sample
from jobs.retraining.retrain_sections import RetrainConfig, RetrainingConfig
from jobs.setup.bad_samples import by_reason
from models import drift
from models.clustering.k_means import k_means
from pipelines import schema
from pipelines.retraining.mixture import Ages

ITERATIONS = 20  # of k-means
SHOWN_CLUSTERS = 3  # those in which new samples are most frequent
SHOWN_SAMPLES = 9  # of each
_FEWEST = 8  # of either, for a distance to mean something


@dataclass(frozen=True)
class Decision:
    """What was decided of a corpus.

    Attributes:
        goes: Whether it is trained on.
        why: In words.
        told: What was measured.
    """

    goes: bool
    why: str
    told: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """Return it as the record has it."""
        return {"goes": self.goes, "why": self.why, **self.told}


def decide(
    config: RetrainConfig,
    ages: Ages,
    champion: str | None,
    session: Session,
    *,
    unknown: str | None = None,
) -> Decision:
    """Compare what is new with what the champion knows.

    Args:
        config: Of the cycle.
        ages: Which samples are new.
        champion: Its artifact; None: there is none.
        session: Where to look.
        unknown: Why nothing can be said of what the champion was trained on; None: it can.
    """
    wanted = config.retrain
    new = ages.num_new
    if champion is None:
        return Decision(True, f"there is no {config.alias} yet", {})
    share = new / ages.manifest.num_rows
    if new < wanted.min_new or share < wanted.min_new_fraction:
        least = max(wanted.min_new, int(np.ceil(wanted.min_new_fraction * ages.manifest.num_rows)))
        why = f"too little is new: {new:,} of {ages.manifest.num_rows:,} samples, less than {least}"
        return Decision(False, why, {})
    sampled = sample(ages, wanted.num_samples)
    seen = look(config, ages.manifest, sampled, champion, session)
    bad = ~seen.valid & sampled.is_new
    told: dict[str, Any] = {
        "looked_at": {"old": sampled.num_old, "new": sampled.rows.num_rows - sampled.num_old},
        "bad_fraction": round(float(bad.sum() / max(1, sampled.is_new.sum())), 4),
        "reasons": by_reason(seen.reason[bad]),
    }
    if told["bad_fraction"] > config.source.max_bad_fraction:
        why = (
            f"{told['bad_fraction']:.0%} of the new samples cannot be used, more than"
            f" source.max_bad_fraction={config.source.max_bad_fraction:g}"
        )
        return Decision(False, why, told)
    if unknown is not None:
        why = f"all {new:,} samples count as new, and drift was not looked at: {unknown}"
        return Decision(True, why, told)
    old_ones = seen.plain[seen.valid & ~sampled.is_new]
    new_ones = seen.plain[seen.valid & sampled.is_new]
    if min(len(old_ones), len(new_ones)) < _FEWEST:
        few = f"{len(old_ones)} old and {len(new_ones)} new samples can be compared: too few"
        return Decision(True, f"{new:,} samples are new; {few}", told)
    told |= _drift(wanted, old_ones, new_ones, share)
    told["clusters"] = _clusters(wanted, sampled, seen.plain, seen.valid)
    return _judged(wanted, told, new, share)


def _judged(wanted: RetrainingConfig, told: dict[str, Any], new: int, share: float) -> Decision:
    distance, p_value = told["distance"], told["p_value"]
    far = wanted.max_distance is not None and distance > wanted.max_distance
    if far and p_value < 0.05:
        why = (
            f"the new samples are unlike the old ones: distance {distance:.2f} (p {p_value:.3f}),"
            f" more than retrain.max_distance={wanted.max_distance:g}; look at them, and raise it"
            " if they are right"
        )
        return Decision(False, why, told)
    if wanted.max_shift is not None and told["shift"] > wanted.max_shift:
        why = (
            f"the new samples turn the corpus over: {told['shift']:.0%} of it would have to change"
            f" its cluster, more than retrain.max_shift={wanted.max_shift:g} (the cluster that"
            f" grows most goes from {told['grown'][0]:.0%} to {told['grown'][1]:.0%}); look at"
            " them, and raise it if they are right"
        )
        return Decision(False, why, told)
    why = (
        f"{new:,} samples are new ({share:.0%}), at distance {distance:.2f} (p {p_value:.3f}),"
        f" shifting the corpus by {told['shift']:.0%}"
    )
    return Decision(True, why, told)


def _drift(
    wanted: RetrainingConfig, old: np.ndarray, new: np.ndarray, share: float
) -> dict[str, Any]:
    """Measure how far the new ones lie, and how they shift the corpus.

    Args:
        wanted: The settings.
        old: Embeddings of known samples, (N, D).
        new: Of new ones, (M, D).
        share: Of the corpus that is new.
    """
    found = drift.distance(torch.from_numpy(old), torch.from_numpy(new))
    count = min(wanted.num_clusters, len(old) // 2)
    centres, of_old = k_means(_unit(old), count, iterations=ITERATIONS, seed=0)
    before = drift.occupancy(of_old.numpy(), count)
    nearest = (_unit(new) @ functional.normalize(centres, dim=1).T).argmax(1)
    of_new = drift.occupancy(nearest.numpy(), count)
    after = (1 - share) * before + share * of_new
    most = int((after - before).argmax())
    return {
        "distance": round(found.mmd, 4),
        "p_value": round(found.p_value, 4),
        "shift": round(drift.shift(before, after), 4),
        "grown": [round(float(before[most]), 4), round(float(after[most]), 4)],
    }


def _clusters(
    wanted: RetrainingConfig, sampled: Sampled, plain: np.ndarray, valid: np.ndarray
) -> list[dict[str, Any]]:
    """Cluster old and new samples together; return the clusters with the largest share of new ones,
    and some new samples of each."""
    rows = np.flatnonzero(valid)
    count = min(wanted.num_clusters, len(rows) // 2)
    _, found = k_means(_unit(plain[rows]), count, iterations=ITERATIONS, seed=0)
    label = found.numpy()
    is_new = sampled.is_new[rows]
    size = np.bincount(label, minlength=count)
    fresh = np.bincount(label[is_new], minlength=count)
    order = np.argsort(-(fresh / np.maximum(size, 1)), kind="stable")[:SHOWN_CLUSTERS]
    places = sampled.rows.select([schema.URI, schema.MEMBER, schema.CLIP]).to_pylist()
    return [
        {
            "samples": int(size[cluster]),
            "new": int(fresh[cluster]),
            "shown": [
                places[row] for row in rows[(label == cluster) & is_new][:SHOWN_SAMPLES].tolist()
            ],
        }
        for cluster in order.tolist()
        if fresh[cluster]
    ]


def _unit(values: np.ndarray) -> torch.Tensor:
    return functional.normalize(torch.from_numpy(values).float(), dim=1)
