"""Follows masks or key points through videos by frozen features; nothing is trained."""

import json
from collections.abc import Mapping
from itertools import compress
from typing import Any

import numpy as np

from jobs.adaptation import leak_check
from jobs.adaptation.sample_pictures import spread
from jobs.adaptation.scoring import Scored
from jobs.adaptation.telling import say, shown, told
from jobs.cluster import launch
from jobs.probing.frozen_features import COMPARED, KINDS, Judged, encoders_of, judged_of
from jobs.probing.propagate_sections import PropagateConfig
from jobs.reporting import film_strip
from jobs.reporting.figures import Drawing
from jobs.reporting.film_strip import Film
from jobs.setup.failures import InputError, as_one_line
from jobs.setup.value_range import limits_for
from models.artifact import Artifact
from models.probing import resampling
from models.scores import WORDS
from pipelines import schema
from pipelines.corpus.left_out import most_frequent
from pipelines.corpus.manifest import Manifest
from pipelines.embeddings.features import Features, check
from pipelines.media.contract import Limits
from pipelines.sequences import following
from pipelines.sequences.following import COPY, FILM, TOLD, Following
from pipelines.sequences.reading import rows_of
from pipelines.sequences.sequences import Listed, read_sequences

NUM_SHOWN = 6
_NAMES_KEPT = 1000
_Answers = list[dict[str, Any]]


def judge_sequences(config: PropagateConfig) -> tuple[dict[str, Any], list[Drawing]]:
    """Follow every sequence with each kind of features, and score what is told.

    Returns:
        What `--json` prints; and pictures of some sequences.

    Raises:
        InputError: the sequences, the labels or the artifacts cannot be judged so.
    """
    config = _with_absolute_places(config)
    uri, encoder, other_uri, other = encoders_of(config)
    columns: dict[str, Features] = {
        kind: _features(config, uri, encoder, kind, "artifact") for kind in KINDS
    }
    if other is not None:
        columns[COMPARED] = _features(config, other_uri, other, "pretrained", "compare")
    corpus = leak_check.corpus_asked_for(config, encoder, uri)
    paths = (uri, *([other_uri] if other else []), *_places(config).values())
    with launch.session(config.cluster, work="embed", paths=paths) as session:
        listed = _listed(config)
        leaks = _leaks(listed, encoder, corpus, config) if corpus else None
        names = [sequence.name for sequence in listed.sequences]
        probe = config.probe
        how = Following(
            columns=columns,
            carrying=probe.carrying,
            size=probe.size,
            ignore=config.masks.ignore,
            tolerance=probe.tolerance,
            alphas=probe.alphas,
            filmed="pretrained",
            shown=tuple(names[index] for index in spread(range(len(names)), NUM_SHOWN)),
            placed=session.placed,
            limits=limits_for(encoder, Limits()),
        )
        stream = following.follow(listed.sequences, how, num_actors=session.num_workers)
        rows = [row for batch in stream.iter_batches(batch_size=None) for row in _rows_of(batch)]
    rows.sort(key=lambda row: names.index(row[0]["name"]))
    answers = [answer for answer, _ in rows]
    account = _account(answers, listed, config)
    judged = [answer for answer in answers if "scores" in answer]
    scored = {name: _scored(judged, name) for name in (*columns, COPY)}
    compared = judged_of(other_uri, other) if other is not None else None
    result = _told(config, judged_of(uri, encoder), compared) | account
    if leaks is not None:
        result |= {"leak": leaks}
        leaked = np.array([one["name"] in leaks["sequences"] for one in judged], bool)
        for kind, one in scored.items():
            result |= one.unleaked(leaked, "" if kind == "pretrained" else f"{kind}_")
    result |= _in_words(scored, judged_of(uri, encoder), len(judged))
    return result, _pictures(rows, result)


def _places(config: PropagateConfig) -> dict[str, str]:
    given = {
        "test.uri": config.test.uri,
        "masks.uri": config.masks.uri,
        "points.uri": config.points.uri,
    }
    return {key: uri for key, uri in given.items() if uri}


def _with_absolute_places(config: PropagateConfig) -> PropagateConfig:
    """Make the places of sequences and labels absolute.

    Raises:
        InputError: one is not there, or there are no labels, or two kinds of them.
    """
    if bool(config.masks.uri) == bool(config.points.uri):
        what = "both are given" if config.masks.uri else "neither is given"
        raise InputError(
            "probe.name=propagate follows either masks (masks.uri) or key points (points.uri):"
            f" {what}"
        )
    values = config.model_dump()
    for key, uri in _places(config).items():
        section, _, name = key.partition(".")
        values[section][name] = launch.user_uri(key, uri)
        launch.check_reachable(key, values[section][name])
    absolute = PropagateConfig.model_validate(values)
    if f"{absolute.masks.uri}/".startswith(f"{absolute.test.uri.rstrip('/')}/"):
        raise InputError(
            f"masks.uri {config.masks.uri} lies in test.uri {config.test.uri}, whose images are all"
            " taken for frames: give the folder of the frames alone"
        )
    return absolute


def _features(
    config: PropagateConfig, uri: str, encoder: Artifact, kind: Any, key: str
) -> Features:
    """Describe the maps of an encoder.

    Raises:
        InputError: it gives none, or not of this layer.
    """
    features = Features(uri, kind, layer=config.probe.layer, form="maps")
    try:
        encoder.encoder.require("maps", by="probe.name=propagate")
        if kind != "colour":
            check(features, encoder.encoder)
    except ValueError as error:
        what = "probe.layer" if str(error).startswith("layer") else key
        raise InputError(f"{what}: {error}") from None
    return features


def _listed(config: PropagateConfig) -> Listed:
    """List the sequences, and say what is left out.

    Raises:
        InputError: nothing is known of any.
    """
    key = "masks.uri" if config.masks.uri else "points.uri"
    with as_one_line(source_key="test.uri"):
        listed = read_sequences(config.test.uri, masks=config.masks.uri, points=config.points.uri)
    if total := listed.left_out.counts.total():
        say(f"test.uri: {total} left out: {told(listed.left_out)}")
    if not listed.sequences:
        raise InputError(
            f"{key} {_places(config)[key]} has nothing for a frame of test.uri {config.test.uri}:"
            " a mask has the path of its frame, as frames/dog/00000.jpg and masks/dog/00000.png"
        )
    names = [sequence.name for sequence in listed.sequences]
    say(f"following through {len(names)} videos: {shown(names)}")
    return listed


def _leaks(
    listed: Listed, encoder: Artifact, corpus: Manifest, config: PropagateConfig
) -> dict[str, Any]:
    """Look for every frame in the corpus, and name the sequences of which one is there."""
    places = [frame.image for sequence in listed.sequences for frame in sequence.frames]
    rows = rows_of(places)
    rows = rows.append_column(schema.ROW, rows[schema.SAMPLE_ID])
    found = leak_check.search(rows, encoder, corpus, config.leak)
    ends = np.cumsum([len(sequence.frames) for sequence in listed.sequences])
    of_frames = np.searchsorted(ends, sorted(found.best), side="right")
    leaked = [listed.sequences[index].name for index in np.unique(of_frames)]
    return found.account(rows) | {"sequences": leaked}


def _rows_of(batch: Mapping[str, np.ndarray]) -> list[tuple[dict[str, Any], bytes]]:
    return [
        (json.loads(text), bytes(film)) for text, film in zip(batch[TOLD], batch[FILM], strict=True)
    ]


def _account(answers: _Answers, listed: Listed, config: PropagateConfig) -> dict[str, Any]:
    """Count what is judged and what is not, on stderr too.

    Raises:
        InputError: nothing is judged.
    """
    left_out = listed.left_out
    unreadable: dict[str, int] = {}
    for answer in answers:
        for reason, count in answer["unreadable"].items():
            unreadable[reason] = unreadable.get(reason, 0) + count
        if "problem" in answer:
            left_out.add(answer["problem"], answer["name"])
            say(f"{answer['name']} is left out: {answer['problem']}")
    if unreadable:
        said = ", ".join(f"{count} x {reason}" for reason, count in unreadable.items())
        say(f"what cannot be read is passed over: {said}")
    judged = [answer for answer in answers if "scores" in answer]
    if not judged:
        raise InputError(
            f"test.uri {config.test.uri}: nothing to judge in {len(answers)} videos"
            f" ({told(left_out)}): of a video the first frame is given, and of masks the last one"
            " is not judged, as DAVIS has it"
        )
    return {
        "num_sequences": len(judged),
        "num_judged": sum(answer["judged"] for answer in judged),
        "num_frames": sum(answer["frames"] for answer in judged),
        "unreadable": unreadable,
        "left_out": {"test": most_frequent(left_out.counts)},
        "left_out_names": {"test": left_out.names},
    }


def _scored(judged: _Answers, name: str) -> Scored:
    """Average the sequences of one kind of features, each counting alike."""
    of_sequences = {one["name"]: _measures(one["scores"][name]) for one in judged}
    measures = list(next(iter(of_sequences.values())))
    values = {
        measure: np.array([one[measure] for one in of_sequences.values()]) for measure in measures
    }
    main = measures[0]
    scores: dict[str, Any] = {}
    for measure in measures:
        interval = resampling.interval_of(resampling.resampled_means(values[measure]))
        scores[measure] = float(values[measure].mean())
        scores["ci95" if measure == main else f"{measure}_ci95"] = list(interval)
    scores["per_sequence"] = dict(list(of_sequences.items())[:_NAMES_KEPT])
    return Scored(
        main,
        scores,
        lambda: resampling.resampled_means(values[main]),
        of_some=lambda some: _scored(list(compress(judged, some)), name),
    )


def _measures(scores: Mapping[str, float]) -> dict[str, float]:
    """Return the main measure of a sequence, then the others."""
    if "j" in scores:
        return {"j_and_f": (scores["j"] + scores["f"]) / 2, **scores}
    return {"pck": next(iter(scores.values())), **scores}


def _told(config: PropagateConfig, artifact: Judged, compared: Judged | None) -> dict[str, Any]:
    """Return what is said of the probe and its artifacts."""
    result: dict[str, Any] = {
        "probe": config.probe.name,
        "artifact_digest": artifact.digest,
        "baseline": artifact.baseline,
        "parameters": {"trained": 0, "frozen": artifact.parameters},
        "probe_settings": config.probe.model_dump(mode="json", exclude={"name"}),
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
        words = {"untrained": artifact.baseline, COPY: "first frame copied"}.get(kind, kind)
        said.append(f"{words} {one.line}")
    line = f"propagate {WORDS[own.measure]} of {num} videos: {', '.join(said)}"
    if COMPARED in scored:
        ahead = own.ahead_of(scored[COMPARED])
        result |= ahead
        low, high = ahead["difference_ci95"]
        line += f"; ahead of compared by {ahead['difference']:+.1%} [{low:+.1%}, {high:+.1%}]"
    return result | {"result": line}


def _pictures(rows: list[tuple[dict[str, Any], bytes]], result: Mapping[str, Any]) -> list[Drawing]:
    """Draw the sequences of which there are films."""
    films = []
    for answer, film in rows:
        if film:
            measures = _measures(answer["scores"]["pretrained"])
            main = next(iter(measures))
            score = f"told, {WORDS[main]} {measures[main]:.0%}"
            films.append(Film(answer["name"], score, *following.film_of(film)))
    which = f"{len(films)} of {result['num_sequences']} videos, evenly by name"
    return [film_strip.sheet(films, which)] if films else []
