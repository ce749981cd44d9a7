"""Nearest neighbours for masks: labelled patches of the training images vote, and nothing is
trained."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray

from jobs.adaptation import judging, labelled_sets, leak_check, scoring
from jobs.adaptation.choosing import check_validation, choose
from jobs.adaptation.scoring import Scored
from jobs.cluster import launch
from jobs.probing.class_probes import check_k
from jobs.probing.frozen_features import COMPARED, KINDS, encoders_of, judged_of
from jobs.probing.frozen_probes import check_sets, in_words, told_of
from jobs.probing.probe_sections import AdaptConfig, ProbeConfig
from jobs.setup.failures import InputError
from jobs.setup.value_range import limits_for
from models.artifact import Artifact
from pipelines import schema
from pipelines.embeddings import embed, patch_memory
from pipelines.embeddings.features import Features
from pipelines.embeddings.patch_memory import Memory, Patches
from pipelines.labels import labelled_stream
from pipelines.labels.labelled_data import LabelledData
from pipelines.media.clips import Sampling
from pipelines.media.contract import Limits
from pipelines.predictions.answers import whole_images
from pipelines.stream.ingest import Ingest


@dataclass(frozen=True)
class _Passes:
    """The two passes of one artifact: over what is remembered, then over what is told.

    Attributes:
        config: Of the job.
        data: All samples.
        session: Where it runs.
    """

    config: AdaptConfig
    data: LabelledData
    session: launch.Session

    @property
    def remembered(self) -> np.ndarray:
        """Tell which samples' patches are kept: those that are not to choose k by, (N,)."""
        several = len(self.config.probe.k) > 1
        return self.data.of("train") if several else self.data.learns

    def work(self, rows: np.ndarray, encoder: Artifact) -> Ingest:
        """Say how some samples are streamed with their masks."""
        return labelled_stream.work_of(
            self.data.keep(rows),
            whole_images(encoder, masks=True),
            limits_for(encoder, Limits()),
            run="adapt",
            sampling=Sampling(per_video=self.config.clip.per_video or 1),
            content=True,
        )

    def run(self, encoder: Artifact, columns: dict[str, Features]) -> Iterator[dict[str, Any]]:
        """Yield the keys of the rows remembered, then those of the rows told with `columns`."""
        probe = self.config.probe
        rows = self.remembered
        made = Patches(
            columns,
            self.data.num_classes,
            self.session.placed,
            most=max(1, -(-probe.patches // max(1, int(rows.sum())))),
            seed=probe.seed,
        )
        stream = patch_memory.remember(
            labelled_stream.blocks(self.work(rows, encoder)),
            made,
            num_actors=self.session.num_workers,
        )
        names = (*columns, patch_memory.SHARES, patch_memory.COUNT)
        first = judging.collected(stream, (*names, *judging.KEYS))
        held = _held(first, names, probe)
        yield {name: first[name] for name in judging.KEYS}
        refs = {name: ray.put(held[name]) for name in columns}
        shares = ray.put(held[patch_memory.SHARES])
        memory = Memory(made, refs, shares, probe.k, probe.temperature)
        stream = patch_memory.vote(
            labelled_stream.blocks(self.work(~rows, encoder)),
            memory,
            num_actors=self.session.num_workers,
        )
        yield judging.collected(stream, (*columns, *judging.KEYS))


def _held(
    columns: dict[str, np.ndarray], names: tuple[str, ...], probe: ProbeConfig
) -> dict[str, np.ndarray]:
    """Keep the patches that were taken, of all images.

    Raises:
        InputError: there are fewer than neighbours.
    """
    count = columns[patch_memory.COUNT]
    there = np.arange(columns[patch_memory.SHARES].shape[1]) < count[:, None]
    kept = np.flatnonzero(there)
    if len(kept) > probe.patches:  # rounding up gave each image one too many
        kept = np.sort(np.random.default_rng(probe.seed).permutation(kept)[: probe.patches])
    check_k(probe, len(kept), "labelled patches of train.uri that are kept")
    values = {name: columns[name] for name in names if name != patch_memory.COUNT}
    return {name: one.reshape(-1, one.shape[2])[kept] for name, one in values.items()}


def judge_patches(config: AdaptConfig) -> dict[str, Any]:
    """Judge frozen maps by the nearest labelled patches.

    Raises:
        InputError: the sets, the masks or the artifacts cannot be judged so.
    """
    config = labelled_sets.with_absolute_places(config)
    labelled_sets.check_places(config)
    uri, encoder, other_uri, other = encoders_of(config)
    columns: dict[str, Features] = {kind: Features(uri, kind, form="maps") for kind in KINDS}
    _check_maps("artifact", encoder)
    if other is not None:
        _check_maps("compare", other)
    corpus = leak_check.corpus_asked_for(config, encoder, uri)
    paths = (uri, *([other_uri] if other else []), *labelled_sets.places(config).values())
    with launch.session(config.cluster, work="embed", paths=paths) as session:
        data = labelled_sets.read_sets(config)
        if len(config.probe.k) > 1:
            check_validation(data, "probe.k")
        data, leaks = leak_check.find_leaks(data, encoder, corpus, config.leak)
        passes = _Passes(config, data, session)
        of_rows = passes.run(encoder, columns)
        parts = [next(of_rows), next(of_rows)]
        names = tuple(columns)
        if other is not None:
            compared = {COMPARED: Features(other_uri, form="maps")}
            *_, more = passes.run(other, compared)
            parts[1] |= {COMPARED: more[COMPARED]}
            names = (*names, COMPARED)
        found = _read(parts, passes.remembered, names, data, config)
    check_sets(found.data)
    artifact = judged_of(uri, encoder)
    result = told_of(
        config.probe, found.data, artifact, judged_of(other_uri, other) if other else None, 0
    )
    answers = {name: _answered(config.probe, found, name) for name in names}
    for name, (_, about) in answers.items():
        result |= about if name == "pretrained" else {f"{name}_chosen": about["chosen"]}
    scored = {name: one for name, (one, _) in answers.items()}
    leaked = leaks.among(found.rows, found.told) if leaks else None
    return result | in_words(config.probe.name, found.data, scored, artifact, leaked)


@dataclass(frozen=True, eq=False)
class _Told:
    """What was told.

    Attributes:
        data: All samples that are judged, those remembered too.
        told: Those of them that were told something.
        rows: (N,) bool, which these are of all samples.
        values: By kind of features, how their pixels were told, (n, len(k) * C * C).
    """

    data: LabelledData
    told: LabelledData
    rows: np.ndarray
    values: dict[str, np.ndarray]


def _read(
    parts: list[dict[str, np.ndarray]],
    remembered: np.ndarray,
    names: tuple[str, ...],
    data: LabelledData,
    config: AdaptConfig,
) -> _Told:
    """Judge the samples of both passes together.

    Raises:
        InputError: nothing sensible is left to judge.
    """
    keys = {name: np.concatenate([part[name] for part in parts]) for name in judging.KEYS}
    places = [np.flatnonzero(remembered), np.flatnonzero(~remembered)]
    rows = [place[part[schema.ROW]] for place, part in zip(places, parts, strict=True)]
    keys[schema.ROW] = np.concatenate(rows)
    judging.tell_unreadable(keys)
    _, valid, content = embed.averaged(keys, (), data.num_rows)
    kept, usable = judging.judged(data, valid, content, config)
    values, _, _ = embed.averaged(parts[1], names, int((~remembered).sum()))
    there = kept[~remembered]
    rows_told = kept & ~remembered
    of_kinds = {name: one[there] for name, one in values.items()}
    return _Told(usable, data.keep(rows_told), rows_told, of_kinds)


def _answered(probe: ProbeConfig, found: _Told, name: str) -> tuple[Scored, dict[str, Any]]:
    """Choose k on validation, and score the test images."""
    data = found.told
    of_k = found.values[name].reshape(data.num_rows, len(probe.k), -1)
    scores: list[float] = []
    if len(probe.k) > 1:
        val = data.of("val")
        held = data.keep(val)
        scores = [scoring.main_score(held, of_k[val, i]) for i in range(len(probe.k))]
    chosen, about = choose("miou", [{"k": k} for k in probe.k], scores)
    test = data.of("test")
    judged = data.keep(test)
    by_k = {str(k): scoring.main_score(judged, of_k[test, i]) for i, k in enumerate(probe.k)}
    return scoring.score(judged, of_k[test, chosen]), about | {"by_k": by_k}


def _check_maps(key: str, encoder: Artifact) -> None:
    try:
        encoder.encoder.require("maps", by="probe.name=knn with masks")
    except ValueError as error:
        raise InputError(f"{key}: {error}") from None
