"""Compares which texts an encoder finds alike with what people say of pairs; nothing is trained."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import ray.data

from jobs.adaptation.scoring import Scored
from jobs.adaptation.telling import say, told
from jobs.cluster import launch
from jobs.probing.frozen_features import COMPARED, KINDS, Judged, encoders_of, judged_of
from jobs.probing.similarity_sections import SimilarityConfig
from jobs.setup.bad_samples import by_reason
from jobs.setup.failures import InputError, as_one_line
from models.artifact import Artifact
from models.probing import resampling
from models.probing.similarity import cosines, resampled_spearman, spearman
from models.scores import WORDS
from pipelines import schema
from pipelines.corpus.left_out import most_frequent
from pipelines.embeddings import embed
from pipelines.embeddings.features import Features
from pipelines.labels.labelled_stream import LabelledOrder
from pipelines.media.contract import Limits
from pipelines.samples.of_views import seen_by
from pipelines.stream import ingest
from pipelines.texts.scored_pairs import ScoredPairs, read_pairs

_LEAST_PAIRS = 3


def judge_pairs(config: SimilarityConfig) -> dict[str, Any]:
    """Embed the texts of every pair with each kind of features, and compare the order of their
    cosines with that of their scores.

    Returns:
        What `--json` prints.

    Raises:
        InputError: the pairs or the artifacts cannot be judged so.
    """
    uri, encoder, other_uri, other = encoders_of(config)
    for key, one in (("artifact", encoder), ("compare", other)):
        if one is not None and one.encoder.media != "text":
            raise InputError(f"{key}: probe.name=similarity is of texts, and this encoder is not")
    place = launch.user_uri("test.uri", config.test.uri)
    launch.check_reachable("test.uri", place)
    with as_one_line(source_key="test.uri"):
        pairs = read_pairs(place, config.test.first, config.test.second, config.test.score)
    if total := pairs.left_out.counts.total():
        say(f"test.uri: {total} left out: {told(pairs.left_out)}")
    paths = (uri, place, *([other_uri] if other else []))
    with launch.session(config.cluster, work="embed", paths=paths) as session:
        columns: dict[str, Features] = {kind: Features(uri, kind) for kind in KINDS}
        found = _embedded(pairs, columns, encoder, session)
        if other is not None:
            compared: dict[str, Features] = {COMPARED: Features(other_uri, "pretrained")}
            found |= _embedded(pairs, compared, other, session)
    valid = found.pop(schema.VALID)
    _check_left(config, pairs, valid)
    scored = {name: _scored(vectors, valid, pairs.scores) for name, vectors in found.items()}
    artifact = judged_of(uri, encoder)
    result = _told(config, artifact, judged_of(other_uri, other) if other is not None else None)
    result |= {
        "num_pairs": int(valid.sum()),
        "num_test": int(valid.sum()),
        "unreadable": {"test": int((~valid).sum())},
        "left_out": {"test": most_frequent(pairs.left_out.counts)},
        "left_out_names": {"test": pairs.left_out.names},
    }
    return result | _in_words(scored, artifact, int(valid.sum()))


def _embedded(
    pairs: ScoredPairs, columns: dict[str, Features], encoder: Artifact, session: launch.Session
) -> dict[str, np.ndarray]:
    """Return the features of all texts by column, (2 * N, D), and which pairs could be read,
    (N,)."""
    how = seen_by(encoder)
    assert how is not None
    series, shape = how
    work = ingest.Ingest(
        order=LabelledOrder(pairs.texts),
        shape=shape,
        block_rows=embed.BLOCK_ROWS,
        limits=Limits(),
        quarantine=None,
        run="adapt",
        series=series,
    )
    stream = ingest.dataset(work, [(0, pairs.texts.num_rows)])
    embedded: ray.data.Dataset = embed.embed(
        stream, embed.Encoders(columns, session.placed), num_actors=session.num_workers
    )
    names = (*columns, schema.VALID, schema.REASON, schema.POSITION)
    parts = {name: list[np.ndarray]() for name in names}
    for batch in embedded.iter_batches(batch_size=None):
        for name, values in parts.items():
            values.append(batch[name])
    whole = {name: np.concatenate(values) for name, values in parts.items()}
    order = np.argsort(whole.pop(schema.POSITION))
    if reasons := by_reason(whole.pop(schema.REASON)):
        said = ", ".join(f"{count} x {reason}" for reason, count in reasons.items())
        say(f"test.uri: texts that cannot be read: {said}")
    whole = {name: values[order] for name, values in whole.items()}
    valid = whole[schema.VALID]
    return whole | {schema.VALID: np.logical_and(*np.split(valid, 2))}


def _check_left(config: SimilarityConfig, pairs: ScoredPairs, valid: np.ndarray) -> None:
    """Refuse pairs that no order can be told of.

    Raises:
        InputError: there are too few, or all are scored alike.
    """
    scores = pairs.scores[valid]
    if len(scores) < _LEAST_PAIRS or len(np.unique(scores)) < 2:
        what = f"{len(scores)} pairs that can be read, {len(np.unique(scores))} scores among them"
        raise InputError(f"test.uri {config.test.uri}: {what}: give pairs of several scores")


def _scored(vectors: np.ndarray, valid: np.ndarray, scores: np.ndarray) -> Scored:
    """Score the vectors of the first texts and then the second ones, (2 * N, D)."""
    first, second = np.split(vectors, 2)
    alike = cosines(first[valid], second[valid])
    score = scores[valid]
    drawn = resampled_spearman(alike, score)
    told_scores = {
        "spearman": spearman(alike, score),
        "ci95": list(resampling.interval_of(drawn)),
    }
    return Scored("spearman", told_scores, lambda: drawn)


def _told(config: SimilarityConfig, artifact: Judged, compared: Judged | None) -> dict[str, Any]:
    result: dict[str, Any] = {
        "probe": config.probe.name,
        "artifact_digest": artifact.digest,
        "baseline": artifact.baseline,
        "parameters": {"trained": 0, "frozen": artifact.parameters},
    }
    if compared:
        result |= {"compared": compared.uri, "compared_digest": compared.digest}
    return result


def _in_words(scored: Mapping[str, Scored], artifact: Judged, num: int) -> dict[str, Any]:
    """Return the scores of every kind of features, and the line that says them."""
    own = scored["pretrained"]
    result: dict[str, Any] = {}
    said = []
    for kind, one in scored.items():
        prefix = "" if kind == "pretrained" else f"{kind}_"
        result |= {f"{prefix}{name}": value for name, value in one.scores.items()}
        words = {"untrained": artifact.baseline, "colour": "words in common"}.get(kind, kind)
        low, high = one.scores["ci95"]
        said.append(f"{words} {one.value:.3f} [{low:.3f}, {high:.3f}]")
    line = f"similarity {WORDS[own.measure]} of {num} pairs: {', '.join(said)}"
    if COMPARED in scored:
        ahead = own.ahead_of(scored[COMPARED])
        result |= ahead
        low, high = ahead["difference_ci95"]
        line += f"; ahead of compared by {ahead['difference']:+.3f} [{low:+.3f}, {high:+.3f}]"
    return result | {"result": line}
