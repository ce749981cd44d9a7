"""Masks and boxes that lie beside the images of labelled sets."""

import numpy as np

from jobs.adaptation.label_sections import LabelledJobConfig
from jobs.adaptation.splitting import Sets
from jobs.adaptation.telling import say, shown, told
from jobs.setup.failures import InputError, as_one_line
from pipelines.labels import coco, masks
from pipelines.labels.label_tables import read_class_names
from pipelines.labels.labelled_data import Split
from pipelines.labels.labelled_rows import LeftOutNames


def with_masks(
    sets: Sets, config: LabelledJobConfig
) -> tuple[Sets, list[str], dict[str, LeftOutNames]]:
    """Pair masks with the images of all sets, and tell their classes.

    Returns:
        The sets, of samples whose masks can be used; the name of each class index; and the masks
            that belong to no image.

    Raises:
        InputError: no mask belongs to an image of a set, or none can be used.
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
    found: dict[Split, set[int]] = {}
    for split, one in paired.items():
        values, problems = masks.survey_masks(one.rows)
        bad = np.array([problem is not None for problem in problems], bool)
        first = next((problem for problem in problems if problem), "")
        paired[split] = one.without(bad, masks.NO_INDICES)
        if bad.all():
            raise InputError(f"{place}: no mask of {split}.uri can be used ({first})")
        if bad.any():
            say(f"{split}: {bad.sum()} of {len(bad)} masks cannot be used (first: {first})")
        found[split] = {value for of_one in values for value in of_one} - {config.masks.ignore}
    return paired, _class_names(found, config), {"masks": unused}


def _class_names(found: dict[Split, set[int]], config: LabelledJobConfig) -> list[str]:
    """Name every class index up to the largest.

    Raises:
        InputError: a mask has an index that `masks.classes` does not name, or no class is left.
    """
    values = {value for of_split in found.values() for value in of_split}
    if not found["train"]:
        raise InputError(
            f"masks.ignore {config.masks.ignore} is the only value in the masks of train.uri: there"
            " is no class to learn"
        )
    names = [str(value) for value in range(max(values) + 1)]
    if config.masks.classes:
        with as_one_line(source_key="masks.classes"):
            known = read_class_names(config.masks.classes)
        known.pop(config.masks.ignore, None)
        if missing := sorted(values - set(known)):
            raise InputError(
                f"masks.classes {config.masks.classes} does not name the value {missing[0]}, which"
                " masks have: name it, or leave its pixels out with masks.ignore"
            )
        names = [known.get(value, str(value)) for value in range(max(known) + 1)]
    only = [names[value] for value in sorted(found["test"] - found["train"])]
    if only:
        say(f"test.uri: classes that no mask of train.uri has ({len(only)}): {shown(only)}")
    return names


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
