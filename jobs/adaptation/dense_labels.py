"""Masks and boxes that lie beside the images of labelled sets."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from jobs.adaptation.label_sections import LabelledJobConfig
from jobs.adaptation.splitting import Sets
from jobs.adaptation.telling import Unknown, say, told
from jobs.setup.failures import InputError, as_one_line
from pipelines.labels import coco, masks
from pipelines.labels.label_tables import read_class_names
from pipelines.labels.labelled_data import IGNORE, Split
from pipelines.labels.labelled_rows import LeftOutNames

_NONE = -1  # a value that no mask has


@dataclass(frozen=True)
class MaskClasses:
    """Which values of masks are classes.

    Attributes:
        values: Those that occur in training, ascending, at least two.
        names: Theirs.
        unknown: In how many masks there are pixels of others, which are not judged, by set.
    """

    values: tuple[int, ...]
    names: list[str]
    unknown: Unknown


def with_masks(
    sets: Sets, config: LabelledJobConfig
) -> tuple[Sets, MaskClasses, dict[str, LeftOutNames]]:
    """Pair masks with the images of all sets, and tell their classes.

    Returns:
        The sets, of samples whose masks can be used; which values are classes; and the masks that
            belong to no image.

    Raises:
        InputError: no mask belongs to an image of a set, or none can be used, or those of training
            have less than two classes.
    """
    unused = LeftOutNames()
    if config.masks.uri:
        with as_one_line(source_key="masks.uri"):
            folder = masks.MaskFolder(config.masks.uri)
        paired = folder.pair(sets)
        unused = folder.unused()
        _tell("masks.uri", unused)
    else:
        paired = {split: masks.without_masks(one) for split, one in sets.items()}
    place = f"masks.uri {config.masks.uri}"
    if not config.masks.uri:
        place = f"columns.mask {config.columns.mask or 'mask'}"
    _check(paired, place, "no mask for an image")
    found: dict[Split, Counter[int]] = {}
    for split, one in paired.items():
        values, problems = masks.survey_masks(one.rows)
        bad = np.array([problem is not None for problem in problems], bool)
        first = next((problem for problem in problems if problem), "")
        paired[split] = one.without(bad, masks.NO_INDICES)
        if bad.all():
            raise InputError(f"{place}: no mask of {split}.uri can be used ({first})")
        if bad.any():
            say(f"{split}: {bad.sum()} of {len(bad)} masks cannot be used (first: {first})")
        found[split] = Counter(value for of_one in values for value in of_one)
    return paired, _mask_classes(found, config), {"masks": unused}


def _mask_classes(found: Mapping[Split, Counter[int]], config: LabelledJobConfig) -> MaskClasses:
    """Tell which values are classes, and name them.

    Args:
        found: In how many masks each value occurs, by set.
        config: Of the job.

    Raises:
        InputError: `masks.classes` leaves out a value that masks have, or training has less than
            two classes.
    """
    ignore = _ignored(set(found["train"]), config)
    values = sorted(found["train"].keys() - {ignore})
    others = sorted({value for one in found.values() for value in one} - {ignore, *values})
    names = {value: str(value) for value in (*values, *others)}
    if config.masks.classes:
        with as_one_line(source_key="masks.classes"):
            known = read_class_names(config.masks.classes)
        if missing := sorted(names.keys() - known.keys()):
            raise InputError(
                f"masks.classes {config.masks.classes} does not name the value {missing[0]}, which"
                " masks have: name it, or leave its pixels out with masks.ignore"
            )
        names = {value: known[value] for value in names}
    if len(values) < 2:
        left = f"but one class, {names[values[0]]}" if values else "no class"
        raise InputError(
            f"masks.ignore {ignore} leaves the masks of train.uri {left}, and a probe needs at"
            " least two: leave out another value, or give masks of two classes or more"
        )
    unknown: Unknown = {}
    for split, one in found.items():
        if only := one.keys() & set(others):
            unknown[split] = Counter({names[value]: one[value] for value in only})
    return MaskClasses(tuple(values), [names[value] for value in values], unknown)


def _ignored(values: set[int], config: LabelledJobConfig) -> int:
    """Return the value of pixels that are not judged; where it is not given, of training masks of
    255 and one other value none, and a value that no mask has."""
    if config.masks.ignore is not None:
        return config.masks.ignore
    if IGNORE in values and len(values) == 2:
        other = min(values)
        say(
            f"masks have the values {other} and {IGNORE} alone: {IGNORE} is a class (give"
            f" masks.ignore={IGNORE} to leave its pixels out)"
        )
        return _NONE
    return IGNORE


def with_boxes(sets: Sets, config: LabelledJobConfig) -> tuple[Sets, dict[str, LeftOutNames]]:
    """Give the images of all sets their boxes; tells which boxes belong to none.

    Raises:
        InputError: no COCO file names an image of a set, or training has no box.
    """
    given = dict(sets)
    unused = LeftOutNames()
    place = f"train.uri {config.train.uri}"
    if config.boxes.uri:
        place = f"boxes.uri {config.boxes.uri}"
        with as_one_line(source_key="boxes.uri"):
            said = coco.read_coco(config.boxes.uri)
        given = said.give(sets)
        unused = said.unused()
        _tell("boxes.uri", unused)
    _check(given, place, "no image with boxes")
    if not given["train"].classes:
        raise InputError(f"{place} has no box that can be used in an image of train.uri")
    return given, {"boxes": unused}


def _check(sets: Sets, place: str, what: str) -> None:
    for split, one in sets.items():
        if not one.rows.num_rows:
            raise InputError(f"{place} has {what} of {split}.uri ({told(one.left_out)})")


def _tell(key: str, left_out: LeftOutNames) -> None:
    if total := left_out.counts.total():
        say(f"{key}: {total} left out: {told(left_out)}")
