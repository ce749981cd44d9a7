"""The labelled sets of a probe: what is judged, what is left out, and what would make the score a
lie."""

import os
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np

from jobs.setup.failures import InputError, as_one_line
from pipelines import schema
from pipelines.corpus import labels
from pipelines.corpus.labels import LabelledRows
from pipelines.corpus.left_out import most_frequent, told
from pipelines.storage import uris

LEAKED = "also in train.uri"
UNKNOWN = "of a class that train.uri has not"
NAMES_SHOWN = 8  # of classes, in a line for people
NAMES_KEPT = 1000  # of classes, for programs


@dataclass(frozen=True)
class Judged:
    """Which rows of two labelled sets, those of training first, a probe may use.

    Attributes:
        rows: (N,) bool.
        is_test: (N,) bool.
        labels: (N,) int64, index of the class among `LabelledSets.classes`.
        account: What is judged and what is left out, for the result; lists are of bounded length.
    """

    rows: np.ndarray
    is_test: np.ndarray
    labels: np.ndarray
    account: dict[str, Any]


@dataclass(frozen=True)
class LabelledSets:
    """Two labelled sets that share no file, and whose classes fit.

    Attributes:
        train: Samples to learn from.
        test: Samples to judge by, of classes of `train`.
        classes: The classes of `train`, sorted.
        unknown: Classes that only the test set had, sorted.
        places: URIs of both, for messages.
    """

    train: LabelledRows
    test: LabelledRows
    classes: list[str]
    unknown: list[str]
    places: tuple[str, str]

    def judged(self, valid: np.ndarray, content: np.ndarray) -> Judged:
        """Tell which samples a probe may use, and account for all others on stderr.

        What cannot be read is left out, and so is a test image of the same bytes as one of
        training, or of a class of which no training image can be read.

        Args:
            valid: (N,) bool, whether each sample can be read, those of `train` first.
            content: (N,) int64, hash of its bytes.

        Raises:
            InputError: all test images are among those of training.
        """
        index = {name: number for number, name in enumerate(self.classes)}
        numbers = np.array([index[name] for name in self.train.classes + self.test.classes])
        is_test = np.arange(len(valid)) >= len(self.train.classes)
        leaks = is_test & valid & np.isin(content, content[~is_test & valid])
        learnt = np.isin(np.arange(len(self.classes)), numbers[~is_test & valid])
        lost = [name for name, found in zip(self.classes, learnt, strict=True) if not found]
        duplicates = self.test.left_out[LEAKED] + int(leaks.sum())
        rows = valid & ~leaks & learnt[numbers]
        if leaks.any() and not rows[is_test].any():
            raise InputError(_leaked(*self.places))
        if not valid.all():
            _say(f"{(~valid).sum()} of {len(valid)} labelled images cannot be read: left out")
        if lost:
            _say(f"train.uri: classes without a readable image ({len(lost)}): {_shown(lost)}")
        if duplicates:
            _say(
                f"test.uri: {duplicates} images are in train.uri as well (the same bytes): left"
                f" out, {rows[is_test].sum()} remain to test with"
            )
        unreadable = {
            "train": int((~valid & ~is_test).sum()),
            "test": int((~valid & is_test).sum()),
        }
        account = self._account() | {"unreadable": unreadable, "duplicates": duplicates}
        judged = [name for name in self.classes if name not in set(lost)]
        account |= {"num_classes": len(judged), "classes": judged[:NAMES_KEPT]}
        return Judged(rows, is_test, numbers, account | {"lost_classes": lost[:NAMES_KEPT]})

    def _account(self) -> dict[str, Any]:
        sets = {"train": self.train, "test": self.test}
        return {
            "left_out": {name: most_frequent(one.left_out) for name, one in sets.items()},
            "empty_classes": {name: one.empty[:NAMES_KEPT] for name, one in sets.items()},
            "test_only_classes": self.unknown[:NAMES_KEPT],
        }


def check_places(train: str, test: str) -> None:
    """Refuse a test set that is the training set, before anything starts.

    Raises:
        InputError: both lie at the same place.
    """
    places = [os.path.realpath(uri) if uris.is_local(uri) else uri for uri in (train, test)]
    if places[0].rstrip("/") == places[1].rstrip("/"):
        raise InputError(
            f"test.uri {test} is train.uri as well: every image would find itself, and the score "
            "would say nothing; give other images to test with"
        )


def read_sets(train: str, test: str) -> LabelledSets:
    """List both sets, say what is left out, and pair their classes.

    Raises:
        InputError: a set is missing or empty, or their classes do not fit.
    """
    learnt = _read("train.uri", train)
    classes = sorted(set(learnt.classes))
    if len(classes) < 2:
        raise InputError(
            f"train.uri {train} has one class folder, {classes[0]}, and a probe needs at least two:"
            " the first folder below the source is the class"
        )
    judged = _read("test.uri", test)
    same = set(learnt.rows[schema.SAMPLE_ID].to_pylist())
    judged = labels.without(judged, same, LEAKED)
    unknown = sorted(set(judged.classes) - set(classes))
    judged = labels.without(judged, _ids_of(judged, set(unknown)), UNKNOWN)
    sets = LabelledSets(learnt, judged, classes, unknown, (train, test))
    _tell(sets)
    if judged.left_out[LEAKED] and not judged.classes:
        raise InputError(_leaked(train, test))
    if not judged.classes:
        raise InputError(
            f"test.uri {test} has no class of train.uri's: {_shown(unknown)} there, "
            f"{_shown(classes)} in train.uri"
        )
    return sets


def _leaked(train: str, test: str) -> str:
    """Word the refusal of a test set that is part of the training set."""
    return (
        f"every image of test.uri {test} is in train.uri {train} as well, by content: the score"
        " would say nothing; give other images to test with"
    )


def _read(key: str, uri: str) -> LabelledRows:
    with as_one_line(source_key=key):
        found = labels.read_class_folders(uri)
    if not found.classes:
        why = told(found.left_out)
        raise InputError(
            f"{key} {uri} holds no images in class folders{f' ({why})' if why else ''}: "
            "give a folder with a folder of images per class"
        )
    return found


def _ids_of(labelled: LabelledRows, classes: set[str]) -> set[int]:
    ids = labelled.rows[schema.SAMPLE_ID].to_pylist()
    return {one for one, name in zip(ids, labelled.classes, strict=True) if name in classes}


def _tell(sets: LabelledSets) -> None:
    """Say on stderr what is judged and what is not."""
    for key, one in (("train.uri", sets.train), ("test.uri", sets.test)):
        if one.left_out:
            _say(f"{key}: {one.left_out.total()} left out: {told(one.left_out)}")
        if one.empty:
            _say(f"{key}: class folders without an image ({len(one.empty)}): {_shown(one.empty)}")
    if sets.unknown:
        shown = _shown(sets.unknown)
        _say(f"test.uri: classes that train.uri has not ({len(sets.unknown)}): {shown}")
    _say(f"judging {len(sets.classes)} classes: {_shown(sets.classes)}")
    if parts := labels.parts_of_data_sets(sets.classes):
        _say(
            f"warning: {_shown(parts)} name parts of a data set, and are taken for classes: the"
            " first folder below train.uri and test.uri is the class; give the folder that holds"
            " the classes"
        )


def _say(line: str) -> None:
    print(line, file=sys.stderr)


def _shown(names: list[str]) -> str:
    more = f", and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return ", ".join(names[:NAMES_SHOWN]) + more
