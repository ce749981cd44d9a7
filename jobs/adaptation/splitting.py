"""Which labelled samples are train, validation and test: by source, by a column of splits, or drawn
by group."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pyarrow as pa

from jobs.adaptation.label_sections import LabelledJobConfig
from jobs.adaptation.telling import say, told
from jobs.setup.failures import InputError, as_one_line
from pipelines import schema
from pipelines.corpus.file_kinds import Medium
from pipelines.labels import label_tables, labelled_source, looked_up
from pipelines.labels.label_tables import Columns
from pipelines.labels.labelled_data import SPLITS, Split, Task
from pipelines.labels.labelled_rows import LabelledRows
from pipelines.labels.validation_draw import draw_validation

OTHER_SPLIT = "of a split that is not taken from here"
Sets = dict[Split, LabelledRows]
_REMEDIES = {
    looked_up.MISSING: "its uris count from the folder of the table on, unless they are absolute",
    label_tables.CONFLICT: "give one row a sample, with several labels in it as columns.separator",
    label_tables.NO_LABEL: "say with columns.label which column holds the class",
    label_tables.ODD_LABEL: "say with columns.label which column holds the class",
    label_tables.ODD_SPLIT: "name splits train, val and test",
}


def read_splits(config: LabelledJobConfig, task: Task, medium: Medium = "pictures") -> Sets:
    """Read each source; what is not given comes from the column of splits of train.uri.

    Raises:
        InputError: a source holds no sample, or there is no test set.
    """
    given: dict[Split, str | None] = {
        "train": config.train.uri,
        "val": config.val.uri,
        "test": config.test.uri,
    }
    whole = read_one("train.uri", config.train.uri, config.columns, task, medium)
    wanted: list[Split] = ["train", *(split for split in SPLITS if not given[split])]
    sets = _by_column(of_splits(whole, wanted), config)
    for split in ("val", "test"):
        if uri := given[split]:
            one = read_one(f"{split}.uri", uri, config.columns, task, medium)
            own: Split = config.test.split if split == "test" else "val"
            sets[split] = of_splits(one, [own])
    if "test" not in sets and config.test.fraction:
        rest, drawn = _drawn(sets["train"], config.test.fraction, config.test.seed)
        sets |= {"train": rest, "test": drawn}
        _tell_drawn("test", drawn, rest)
    if "test" not in sets:
        raise InputError(
            f"test.uri is not given, and train.uri {config.train.uri} marks no sample as of split"
            f" {config.test.split} (it has {_shares(whole)}): give test.uri, a table with a column"
            " split, test.split=val to judge by those of val, or test.fraction=0.2 to draw some"
        )
    if not sets["train"].rows.num_rows:
        raise InputError(
            f"train.uri {config.train.uri} marks no sample as of split train (it has"
            f" {_shares(whole)})"
        )
    return {split: sets[split] for split in SPLITS if split in sets}


def _by_column(found: LabelledRows, config: LabelledJobConfig) -> Sets:
    """Divide a source by its column of splits; what was left out counts for training."""
    marks = _splits(found.rows)
    if config.test.split == "val":  # a table of train and val alone
        marks = np.where(marks == "val", "test", np.where(marks == "test", "unused", marks))
        found = found.without(marks == "unused", OTHER_SPLIT)
        marks = marks[marks != "unused"]
    sets: Sets = {}
    for split in SPLITS:
        own = np.isin(marks, ["", "train"]) if split == "train" else marks == split
        rows = found.rows.filter(pa.array(own))
        if split == "train":
            sets[split] = replace(found, rows=rows)
        elif rows.num_rows:
            sets[split] = LabelledRows(rows)
    return sets


def of_splits(found: LabelledRows, wanted: list[Split]) -> LabelledRows:
    """Take the samples of some splits, and those of none."""
    return found.without(~np.isin(_splits(found.rows), ["", *wanted]), OTHER_SPLIT)


def _splits(rows: pa.Table) -> np.ndarray:
    return np.array([split or "" for split in rows[schema.SPLIT].to_pylist()], dtype="U6")


def _shares(found: LabelledRows) -> str:
    counts = Counter(_splits(found.rows).tolist())
    return ", ".join(f"{count} of {split or 'no split'}" for split, count in counts.most_common())


def read_one(
    key: str, uri: str, columns: Columns, task: Task, medium: Medium = "pictures"
) -> LabelledRows:
    """Read a source.

    Raises:
        InputError: it is missing, or holds no such sample.
    """
    with as_one_line(source_key=key):
        found = labelled_source.read_source(uri, columns, task, medium)
    if not found.rows.num_rows:
        why = told(found.left_out)
        what = "images in class folders" if task == "class" else "images"
        remedy = "give a folder with a folder of images per class"
        if labelled_source.is_table(uri):
            what = "labelled samples"
            top = next(iter(dict(found.left_out.counts.most_common(1))), "")
            remedy = _REMEDIES.get(top, "give a table with a row a sample, uri and label")
        raise InputError(f"{key} {uri} holds no {what}{f' ({why})' if why else ''}: {remedy}")
    return found


def with_validation(sets: Sets, config: LabelledJobConfig) -> tuple[Sets, bool]:
    """Draw validation from train where it is not given; tells whether that was so."""
    if "val" in sets or not config.val.fraction:
        return sets, False
    rest, drawn = _drawn(sets["train"], config.val.fraction, config.val.seed)
    _tell_drawn("validation", drawn, rest)
    return {"train": rest, "val": drawn, "test": sets["test"]}, True


def _tell_drawn(what: str, drawn: LabelledRows, rest: LabelledRows) -> None:
    groups = {one for one in drawn.rows[schema.GROUP].to_pylist() if one}
    by_group = f", {len(groups)} whole groups" if groups else ""
    total = drawn.rows.num_rows + rest.rows.num_rows
    say(f"{what}: {drawn.rows.num_rows} of {total} samples drawn from train.uri{by_group}")


def _drawn(found: LabelledRows, fraction: float, seed: int) -> tuple[LabelledRows, LabelledRows]:
    """Draw a fraction of a set by group; gives the rest of it, and what was drawn."""
    labels = found.rows[schema.LABELS].to_pylist()
    drawn = draw_validation(
        found.names,
        found.rows[schema.GROUP].to_pylist(),
        [names or [] for names in labels],
        fraction=fraction,
        seed=seed,
    )
    chosen = np.array(drawn, bool)
    rest = replace(found, rows=found.rows.filter(pa.array(~chosen)))
    return rest, LabelledRows(found.rows.filter(pa.array(chosen)))
