"""Looks at samples of a corpus with an encoder, in a stream of its own."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from jobs.cluster.share import Session
from jobs.retraining.retrain_sections import RetrainConfig
from jobs.setup.inputs import load_artifact
from jobs.setup.value_range import limits_for
from pipelines.corpus.manifest import Manifest
from pipelines.media.clips import Sampling
from pipelines.retraining.drawn_rows import lowest
from pipelines.retraining.mixture import HELD_OUT, Ages
from pipelines.retraining.twice_seen import Looking, Seen, see_twice


@dataclass(frozen=True, eq=False)
class Sampled:
    """Samples of a corpus, those that the champion knows first.

    Attributes:
        rows: Of its manifest.
        num_old: How many of them are old.
    """

    rows: pa.Table
    num_old: int

    @property
    def is_new(self) -> np.ndarray:
        """Return which are new, (n,) bool."""
        return np.arange(self.rows.num_rows) >= self.num_old


def sample(ages: Ages, count: int, below: float = 1.0) -> Sampled:
    """Draw old and new samples, so many of each at most; the same ones every time."""
    old, new = (
        lowest(ages.manifest, count, HELD_OUT, parts=parts, below=below)
        for parts in (ages.old_parts, ages.new_parts)
    )
    return Sampled(pa.concat_tables([old, new]), old.num_rows)


def held_out(config: RetrainConfig, ages: Ages) -> Sampled:
    """Draw the samples that judge the encoders of a cycle, and that it does not train on."""
    return sample(ages, config.retrain.num_samples, below=config.retrain.held_out)


def look(
    config: RetrainConfig, manifest: Manifest, sampled: Sampled, artifact: str, session: Session
) -> Seen:
    """Embed samples with an artifact, as they are and slightly changed."""
    encoder = load_artifact(artifact)
    sampling = Sampling.seen_by(encoder, max(1, manifest.per_video))
    return see_twice(
        sampled.rows,
        Looking(artifact, encoder.image_size, sampling, session.placed),
        limits_for(encoder, config.source.limits()),
        num_actors=session.num_workers,
    )


def tensors(seen: Seen, chosen: np.ndarray) -> tuple[Tensor, Tensor]:
    """Return the embeddings of some samples, plain and changed."""
    return torch.from_numpy(seen.plain[chosen]), torch.from_numpy(seen.changed[chosen])
