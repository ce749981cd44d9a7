"""Images look for their captions, and captions for their images."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from jobs.adaptation import judging
from jobs.adaptation.scoring import Scored
from jobs.adaptation.telling import say
from jobs.cluster import launch
from jobs.probing.frozen_features import COMPARED
from jobs.reporting.figures import Drawing
from jobs.setup.failures import InputError
from jobs.text_probes import matrix_picture
from jobs.text_probes.captioned_set import CaptionedSet, read_captioned
from jobs.text_probes.text_probe_sections import CaptionedConfig, RetrieveCaptionsConfig
from jobs.text_probes.with_texts import Towers, absolute, embed_texts, towers_of
from models.probing import caption_recall
from models.probing.caption_recall import Recall
from models.probing.colour_words import ColourWords
from models.scores import WORDS
from pipelines.captions.caption_table import CaptionTable
from pipelines.corpus.left_out import most_frequent
from pipelines.embeddings.features import Features

MEASURE = "mean_recall"
WORDS_BY_COLOUR = "words"
_COLOUR = "colour"
_Values = Mapping[str, np.ndarray]


def judge_captions(config: RetrieveCaptionsConfig) -> tuple[dict[str, Any], list[Drawing]]:
    """Let images and captions of a test set look for each other, with each kind of towers.

    Returns:
        What `--json` prints; and a picture of some of the similarities.

    Raises:
        InputError: the captions, the images or the artifacts cannot be judged so.
    """
    test_place = _absolute(config.test, "test")
    train_place = config.learnt_from()
    train_place = None if train_place is None else _absolute(train_place, "train")
    towers = towers_of(config)
    uris = [one.uri for one in (test_place, train_place) if one is not None]
    with launch.session(config.cluster, work="embed", paths=(*towers.places, *uris)) as session:
        test = read_captioned(test_place, "test")
        train = None if train_place is None else read_captioned(train_place, "train")
        by_colour = train is not None
        streams = [
            (test.stream(columns, encoders, session), tuple(columns))
            for columns, encoders in towers.passes(colour=by_colour)
        ]
        values, readable, content = judging.read_streams(streams, test.num_rows)
        learnt = None
        if train is not None:
            colour = {_COLOUR: Features(towers.uri, "colour")}
            own = [(train.stream(colour, [towers.encoders["pretrained"]], session), (_COLOUR,))]
            learnt = judging.read_streams(own, train.num_rows)
    kept = readable & _first_of_bytes(content)
    account = _account(test, readable, kept, "test", config)
    if learnt is not None:
        seen = np.isin(content, learnt[2][learnt[1]])
        account |= _left_to_judge(kept & ~seen, int((kept & seen).sum()), config)
        kept &= ~seen
    test = test.keep(kept)
    values = {name: value[kept] for name, value in values.items()}
    similarities = _similarities(towers, test, values)
    if train is not None and learnt is not None:
        words, about = _words_by_colour(train.keep(learnt[1]), learnt, test, values, config)
        similarities[WORDS_BY_COLOUR] = words
        account |= about
    result = _told(config, towers, test, similarities)
    picture = matrix_picture.draw(test.rows, test.captions, similarities["pretrained"], test.owner)
    return {**account, **result}, [picture]


def _absolute(config: CaptionedConfig, key: str) -> CaptionedConfig:
    """Make a set's places absolute.

    Raises:
        InputError: one is not there.
    """
    captions = config.captions
    if CaptionTable.is_named_by(captions):
        captions = absolute(f"{key}.captions", captions)
    return config.model_copy(
        update={"uri": absolute(f"{key}.uri", config.uri), "captions": captions}
    )


def _first_of_bytes(content: np.ndarray) -> np.ndarray:
    """Tell which images are no copies of an earlier one, (N,) bool: of two with the same bytes each
    would be the other's wrong answer."""
    first = np.zeros(len(content), bool)
    first[np.unique(content, return_index=True)[1]] = True
    return first


def _account(
    found: CaptionedSet,
    readable: np.ndarray,
    kept: np.ndarray,
    key: str,
    config: RetrieveCaptionsConfig,
) -> dict[str, Any]:
    """Count what is not judged.

    Raises:
        InputError: too little is left.
    """
    if kept.sum() < 2:
        raise InputError(
            f"{key}.uri {config.test.uri}: {kept.sum()} of {found.num_rows} images with captions"
            " can be read, and looking for one takes two"
        )
    copies = int((readable & ~kept).sum())
    if copies:
        say(f"{key}.uri: {copies} images have the bytes of another one: left out")
    return {
        "copies": copies,
        "unreadable": {key: int((~readable).sum())},
        "left_out": {key: most_frequent(found.left_out.counts)},
        "left_out_names": {key: found.left_out.names},
    }


def _left_to_judge(
    kept: np.ndarray, duplicates: int, config: RetrieveCaptionsConfig
) -> dict[str, Any]:
    """Count the test images that are among those of training.

    Raises:
        InputError: nearly all are.
    """
    if kept.sum() < 2:
        raise InputError(
            f"test.uri {config.test.uri}: its images are those of train.uri {config.train.uri}:"
            " give others, or test.split and train.split"
        )
    if duplicates:
        say(f"test.uri: {duplicates} images are in train.uri as well: left out")
    return {"duplicates": duplicates}


def _similarities(towers: Towers, test: CaptionedSet, values: _Values) -> dict[str, torch.Tensor]:
    """Compare the images with all captions, (N, M), by each kind of towers."""
    texts = test.texts
    return {
        kind: torch.from_numpy(values[kind]) @ embed_texts(encoder, texts).T
        for kind, encoder in towers.encoders.items()
    }


def _words_by_colour(
    train: CaptionedSet,
    learnt: tuple[dict[str, np.ndarray], np.ndarray, np.ndarray],
    test: CaptionedSet,
    values: _Values,
    config: RetrieveCaptionsConfig,
) -> tuple[torch.Tensor, dict[str, Any]]:
    """Compare the words told by colours alone with those of captions, (N, M).

    Raises:
        InputError: there is too little to learn from.
    """
    try:
        model = ColourWords(learnt[0][_COLOUR][learnt[1]], train.captions)
    except ValueError as error:
        raise InputError(f"train.uri {config.train.uri}: {error}") from None
    similarity = model.of_images(values[_COLOUR]) @ model.of_texts(test.texts).T
    about = {"num_train": train.num_rows, "words": len(model.words), "penalty": model.penalty}
    return torch.from_numpy(similarity), about


def _told(
    config: RetrieveCaptionsConfig,
    towers: Towers,
    test: CaptionedSet,
    similarities: Mapping[str, torch.Tensor],
) -> dict[str, Any]:
    ks = config.probe.recall_at
    owner = torch.from_numpy(test.owner)
    scored = {
        kind: _scored(caption_recall.recall(caption_recall.ranks(each, owner), ks))
        for kind, each in similarities.items()
    }
    by_chance = [caption_recall.chance(test.owner, test.num_rows, k) for k in ks]
    scored["chance"] = _chance(ks, by_chance)
    result: dict[str, Any] = {
        "probe": config.probe.name,
        "num_test": test.num_rows,
        "num_captions": len(test.owner),
        **towers.told(),
    }
    said = []
    for kind, one in scored.items():
        prefix = "" if kind == "pretrained" else f"{kind}_"
        result |= {f"{prefix}{name}": value for name, value in one.scores.items()}
        named = {"untrained": towers.judged.baseline, WORDS_BY_COLOUR: "words told by colour"}
        line = one.line if "ci95" in one.scores else f"{one.value:.1%}"
        said.append(f"{named.get(kind, kind)} {line}")
    line = (
        f"{config.probe.name} {WORDS[MEASURE]} of {test.num_rows} images and"
        f" {len(test.owner)} captions: {', '.join(said)}"
    )
    if COMPARED in scored:
        ahead = scored["pretrained"].ahead_of(scored[COMPARED])
        result |= ahead
        low, high = ahead["difference_ci95"]
        line += f"; ahead of compared by {ahead['difference']:+.1%} [{low:+.1%}, {high:+.1%}]"
    return result | {"result": line}


def _scored(found: Recall) -> Scored:
    scores = {
        MEASURE: found.mean,
        "ci95": caption_recall.interval(found.resampled),
        "image_to_text": _by_k(found.to_text, found.resampled_to_text),
        "text_to_image": _by_k(found.to_image, found.resampled_to_image),
    }
    return Scored(MEASURE, scores, lambda: found.resampled)


def _by_k(shares: Mapping[int, float], drawn: Mapping[int, np.ndarray]) -> dict[str, Any]:
    return {
        "recall_at": {str(k): share for k, share in shares.items()},
        "ci95": {str(k): caption_recall.interval(values) for k, values in drawn.items()},
    }


def _chance(ks: tuple[int, ...], shares: list[tuple[float, float]]) -> Scored:
    to_text, to_image = zip(*shares, strict=True)
    scores = {
        MEASURE: float(np.mean([*to_text, *to_image])),
        "image_to_text": {"recall_at": dict(zip(map(str, ks), to_text, strict=True))},
        "text_to_image": {"recall_at": dict(zip(map(str, ks), to_image, strict=True))},
    }
    return Scored(MEASURE, scores, lambda: np.zeros(0))
