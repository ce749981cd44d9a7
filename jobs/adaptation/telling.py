"""What a job says of its labelled sets: lines for people of bounded length, and lists for
programs."""

import sys
from collections import Counter
from collections.abc import Mapping
from typing import Any

from pipelines.corpus.left_out import most_frequent
from pipelines.labels.class_folders import parts_of_data_sets
from pipelines.labels.labelled_data import Split, Task
from pipelines.labels.labelled_rows import LabelledRows, LeftOutNames

NAMES_SHOWN = 8  # of classes, in a line for people
NAMES_KEPT = 1000  # of classes, for programs
LONGEST_NAME = 60
Unknown = dict[Split, Counter[str]]
"""How much of each class that training has not is in a set: labels, boxes, or masks with it."""


def say(line: str) -> None:
    """Say a line to people."""
    print(line, file=sys.stderr)


def shown(names: list[str]) -> str:
    """Return the first few names, and how many more there are."""
    more = f", and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return ", ".join(map(_short, names[:NAMES_SHOWN])) + more


def _short(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else f"...{name[-LONGEST_NAME:]}"


def told(left_out: LeftOutNames) -> str:
    """Say in one line how many there are of each reason, with a name of each of the most
    frequent."""
    counts = most_frequent(left_out.counts)
    said = []
    for number, (reason, count) in enumerate(counts.items()):
        names = left_out.names.get(reason, [])
        example = f" ({_short(names[0])})" if names and number < NAMES_SHOWN else ""
        said.append(f"{count} x {reason}{example}")
    return ", ".join(said)


def tell_sets(
    sets: Mapping[Any, LabelledRows], unknown: Unknown, classes: list[str], task: Task
) -> None:
    """Say on stderr what is judged and what is not."""
    for split, one in sets.items():
        if total := one.left_out.counts.total():
            say(f"{split}.uri: {total} left out: {told(one.left_out)}")
        if one.empty:
            say(
                f"{split}.uri: class folders without an image ({len(one.empty)}): "
                f"{shown(one.empty)}"
            )
    what = {"mask": "the pixels of so many masks", "boxes": "so many boxes"}.get(
        task, "so many labels"
    )
    for split, counts in unknown.items():
        names = [f"{name} ({counts[name]})" for name in sorted(counts)]
        say(
            f"{split}.uri: classes that train.uri has not ({len(counts)}): {shown(names)}:"
            f" {what} are not judged"
        )
    say(f"judging {len(classes)} classes: {shown(classes)}")
    if parts := parts_of_data_sets(classes):
        say(
            f"warning: {shown(parts)} name parts of a data set, and are taken for classes: the"
            " first folder below train.uri and test.uri is the class; give the folder that holds"
            " the classes"
        )


def account_of(
    sets: Mapping[Any, LabelledRows], beside: Mapping[str, LeftOutNames], unknown: Unknown
) -> dict[str, Any]:
    """Return what was left out of the sets, and of the masks or boxes beside them, for a
    program."""
    left_out = {str(name): one.left_out for name, one in sets.items()} | dict(beside)
    return {
        "left_out": {name: most_frequent(one.counts) for name, one in left_out.items()},
        "left_out_names": {
            name: {
                reason: one.names[reason]
                for reason in most_frequent(one.counts)
                if reason in one.names
            }
            for name, one in left_out.items()
        },
        "empty_classes": {str(name): one.empty[:NAMES_KEPT] for name, one in sets.items()},
        "test_only_classes": sorted(set().union(*unknown.values()))[:NAMES_KEPT],
        "not_judged": {
            str(split): dict(sorted(counts.items())[:NAMES_KEPT])
            for split, counts in unknown.items()
        },
    }
