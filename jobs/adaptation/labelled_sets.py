"""Labelled sets of a job: train, validation and test, what is judged, what is left out, and what
would make a score a lie."""

import os
from collections import Counter
from dataclasses import replace
from typing import TypeVar

import numpy as np
import pyarrow as pa

from jobs.adaptation import dense_labels, splitting
from jobs.adaptation.label_sections import LabelledJobConfig
from jobs.adaptation.splitting import Sets
from jobs.adaptation.telling import Unknown, account_of, say, shown, tell_sets, told
from jobs.cluster import launch
from jobs.setup.failures import InputError
from pipelines import schema
from pipelines.corpus.file_kinds import Medium
from pipelines.labels import labelled_source
from pipelines.labels.labelled_data import LabelledData, Task
from pipelines.labels.labelled_rows import LabelledRows, LeftOutNames, with_column
from pipelines.storage import uris

LEAKED = "also in train.uri"
LEAKED_VAL = "also among the validation samples"
UNKNOWN = "of a class that train.uri has not"
Config = TypeVar("Config", bound=LabelledJobConfig)


def places(config: LabelledJobConfig) -> dict[str, str]:
    """Return the URIs that a job with labels is given, by key."""
    given = {
        "train.uri": config.train.uri,
        "val.uri": config.val.uri,
        "test.uri": config.test.uri,
        "masks.uri": config.masks.uri,
        "masks.classes": config.masks.classes,
        "boxes.uri": config.boxes.uri,
    }
    return {key: uri for key, uri in given.items() if uri}


def with_absolute_places(config: Config) -> Config:
    """Make the URIs of a job's labels absolute, and see that they are there.

    Raises:
        InputError: one is not, or cannot be reached.
    """
    values = config.model_dump()
    for key, uri in places(config).items():
        section, _, name = key.partition(".")
        values[section][name] = launch.user_uri(key, uri)
        launch.check_reachable(key, values[section][name])
    return type(config).model_validate(values)


def check_places(config: LabelledJobConfig) -> None:
    """Refuse a test set that is the training set, before anything starts.

    Raises:
        InputError: both lie at the same place.
    """
    train = config.train.uri
    for key, other in (("test.uri", config.test.uri), ("val.uri", config.val.uri)):
        same = other and _place(train) == _place(other)
        if other and same and not labelled_source.is_table(other):  # with a column of splits
            raise InputError(
                f"{key} {other} is train.uri as well: every image would find itself, and the score"
                " would say nothing; give other images to test with"
            )


def _place(uri: str) -> str:
    return (os.path.realpath(uri) if uris.is_local(uri) else uri).rstrip("/")


def task_of(config: LabelledJobConfig) -> Task:
    """Tell what is judged, by what was given: a class or classes a sample, masks, or boxes.

    Raises:
        InputError: masks and boxes at once.
    """
    masks = config.masks.uri or config.columns.mask or config.masks.classes
    coco = config.boxes.uri or (
        config.train.uri if labelled_source.is_coco(config.train.uri) else None
    )
    if masks and coco:
        raise InputError(
            f"masks ({masks}) and boxes ({coco}) are judged by different probes: give one of them"
        )
    return "boxes" if coco else "mask" if masks else "class"


def read_sets(config: LabelledJobConfig, medium: Medium = "pictures") -> LabelledData:
    """List all sets, say what is left out, and pair their classes.

    Args:
        config: Of the job, with absolute URIs.
        medium: What samples are.

    Raises:
        InputError: a set is missing or empty, their classes do not fit, or nothing is left to
            judge.
    """
    task = task_of(config)
    sets = splitting.read_splits(config, task, medium)
    beside: dict[str, LeftOutNames] = {}
    values: tuple[int, ...] = ()
    unknown: Unknown = {}
    if task == "mask":
        sets, of_masks, beside = dense_labels.with_masks(sets, config)
        classes, values, unknown = of_masks.names, of_masks.values, of_masks.unknown
    else:
        if task == "boxes":
            sets, beside = dense_labels.with_boxes(sets, config)
        else:
            task = _task_of_labels(sets, config)
        classes = sets["train"].classes
    if task in ("class", "classes") and len(classes) < 2:
        raise InputError(
            f"train.uri {config.train.uri} has one class, {classes[0]}, and a probe needs at least"
            " two: of a folder, the first folder below it is the class"
        )
    sets = _without_leaks(sets)
    if task != "mask":
        sets, unknown = _known_only(sets, classes)
    tell_sets(sets, unknown, classes, task)
    _check_left(sets, config, unknown, classes)
    account = account_of(sets, beside, unknown) | {"task": task}
    sets, drawn = splitting.with_validation(sets, config)
    _tell_groups(sets)
    return LabelledData(
        encoded(sets, classes),
        tuple(classes),
        task,
        values,
        val_drawn=drawn,
        account=account,
    )


def _task_of_labels(sets: Sets, config: LabelledJobConfig) -> Task:
    """Tell whether samples have one label each or several.

    Raises:
        InputError: those of training have one each, and others several.
    """
    several = {split: several_labels(one) for split, one in sets.items()}
    if not any(several.values()):
        return "class"
    for split, names in several.items():
        if names and not several["train"]:
            raise InputError(
                f"{split}.uri {getattr(config, split).uri or config.train.uri}: {len(names)}"
                f" samples have several labels ({shown(names[:1])}), and those of train.uri have"
                " one each: sets of one and of several labels are not mixed; give one label a"
                " sample, or change columns.separator where it is part of a name"
            )
    for split, names in several.items():
        total = sets[split].rows.num_rows
        say(f"{split}: {len(names)} of {total} samples have several labels: judged as multi-label")
    return "classes"


def several_labels(found: LabelledRows) -> list[str]:
    """Return the names of the samples that have several labels."""
    lists = found.rows[schema.LABELS].to_pylist()
    pairs = zip(found.names, lists, strict=True)
    return [name for name, labels in pairs if len(labels or ()) > 1]


def _without_leaks(sets: Sets) -> Sets:
    """Leave out of each set the files that one before it has."""
    seen = np.asarray(sets["train"].rows[schema.SAMPLE_ID])
    cleaned = dict(sets)
    for split in sets.keys() - {"train"}:
        ids = np.asarray(sets[split].rows[schema.SAMPLE_ID])
        cleaned[split] = sets[split].without(np.isin(ids, seen), LEAKED)
    if "val" in sets and "test" in sets:
        of_val = np.asarray(cleaned["val"].rows[schema.SAMPLE_ID])
        of_test = np.asarray(cleaned["test"].rows[schema.SAMPLE_ID])
        cleaned["test"] = cleaned["test"].without(np.isin(of_test, of_val), LEAKED_VAL)
    return cleaned


def _known_only(sets: Sets, classes: list[str]) -> tuple[Sets, Unknown]:
    """Leave out what is of classes that training has not; counts it too."""
    known = set(classes)
    cleaned = dict(sets)
    unknown: Unknown = {}
    for split, one in sets.items():
        if set(one.classes) - known:
            unknown[split] = _of_others(one, known)
            cleaned[split] = _of_known(one, known)
    return cleaned, unknown


def _of_others(found: LabelledRows, known: set[str]) -> Counter[str]:
    """Count the labels and boxes of each class but those that are known."""
    names = [name for labels in found.rows[schema.LABELS].to_pylist() for name in labels or ()]
    for boxes in found.rows[schema.BOXES].to_pylist():
        names += [box[schema.LABEL] for box in boxes or ()]
    return Counter(name for name in names if name not in known)


def _of_known(found: LabelledRows, known: set[str]) -> LabelledRows:
    labels = found.rows[schema.LABELS].to_pylist()
    boxes = found.rows[schema.BOXES].to_pylist()
    kept = [labels and [name for name in labels if name in known] for labels in labels]
    kept_boxes = [boxes and [box for box in boxes if box[schema.LABEL] in known] for boxes in boxes]
    rows = with_column(found.rows, schema.LABELS, kept)
    rows = with_column(rows, schema.BOXES, kept_boxes)
    lost = [bool(before) and not after for before, after in zip(labels, kept, strict=True)]
    return replace(found, rows=rows).without(np.array(lost, bool), UNKNOWN)


def _check_left(
    sets: Sets, config: LabelledJobConfig, unknown: Unknown, classes: list[str]
) -> None:
    """Refuse sets of which nothing is left to judge."""
    for split in ("val", "test"):
        if split not in sets or sets[split].rows.num_rows:
            continue
        place = getattr(config, split).uri or config.train.uri
        left_out = sets[split].left_out.counts
        if left_out[LEAKED] or left_out[LEAKED_VAL]:
            raise InputError(leaked(config, split))
        if split in unknown:
            raise InputError(
                f"{split}.uri {place} has no class of train.uri's: {shown(sorted(unknown[split]))}"
                " there, "
                f"{shown(classes)} in train.uri"
            )
        raise InputError(
            f"{split}.uri {place} has no sample left to judge by ({told(sets[split].left_out)})"
        )


def leaked(config: LabelledJobConfig, split: str = "test") -> str:
    """Word the refusal of a test set that is part of the training set."""
    return (
        f"every image of {split}.uri {getattr(config, split).uri} is in train.uri"
        f" {config.train.uri} as well, by content: the score would say nothing; give other images"
        " to test with"
    )


def _tell_groups(sets: Sets) -> None:
    """Warn of groups that lie on two sides, where the user drew the line."""
    groups = {
        split: set(one.rows[schema.GROUP].to_pylist()) - {None} for split, one in sets.items()
    }
    for split in ("val", "test"):
        both = sorted(groups["train"] & groups.get(split, set()))
        if both:
            say(
                f"warning: {len(both)} groups are in train and in {split} ({shown(both)}): the"
                " score is not one for new groups"
            )


def encoded(sets: Sets, classes: list[str]) -> pa.Table:
    """Join all sets, with indices in place of names; schema `schema.LABELLED`."""
    index = {name: number for number, name in enumerate(classes)}
    tables = []
    for split, one in sets.items():
        rows = one.rows.to_pydict()
        rows[schema.SPLIT] = [split] * one.rows.num_rows
        rows[schema.LABELS] = [
            [index[name] for name in labels or ()] for labels in rows[schema.LABELS]
        ]
        rows[schema.BOXES] = [
            boxes and [{**box, schema.LABEL: index[box[schema.LABEL]]} for box in boxes]
            for boxes in rows[schema.BOXES]
        ]
        tables.append(pa.table(rows, schema=schema.LABELLED))
    return pa.concat_tables(tables)
