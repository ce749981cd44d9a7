"""Labelled samples as every probe takes them: rows, targets, groups, splits and class names.

A probe never reads files by itself. It takes a `LabelledData`, streams the pixels by
`labelled_stream.blocks` (fetching, decoding, quarantine as in pretraining), and finds the target of
each streamed row by `batch["row"]`, or in the batch itself:

    data = labelled_sets.read_sets(config)                  # jobs.adaptation, on the driver
    work = labelled_stream.work_of(data, shapes.Centre(224), limits, run="adapt", content=True)
    stream = embed.embed(labelled_stream.blocks(work), encoders, num_actors=2)
    found = judging.read(stream, ("pretrained",), data, config)   # what could be read, once
    found.values["pretrained"][found.data.learns], found.data.labels[found.data.learns]
"""

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa

from pipelines import schema

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
# What is known of a sample: one class, any number of classes, a class for each pixel, or boxes.
Task = Literal["class", "classes", "mask", "boxes"]
IGNORE = 255  # in a stream of masks: a pixel that is not judged


@dataclass(frozen=True, eq=False)
class LabelledData:
    """Labelled samples, train, validation and test together, one row a file.

    A video is one row; `labelled_stream` cuts it to clips, and whoever embeds them averages those
    of one `batch["row"]`.

    Attributes:
        rows: Schema `schema.LABELLED`, by split and place; `labels` and `boxes` hold indices into
            `classes`.
        classes: Names in NFC, sorted; of masks, by index.
        task: What the labels are.
        values: Of masks: the value of each class in their files; all others are not judged. Empty:
            the classes are the values.
        val_drawn: Whether validation was drawn from train: a probe that chooses nothing by it may
            learn from both.
        chooses: Whether something is chosen by validation, which then teaches nothing.
        account: What is judged and what is left out, for a job's `--json`; lists are of bounded
            length.
    """

    rows: pa.Table
    classes: tuple[str, ...]
    task: Task = "class"
    values: tuple[int, ...] = ()
    val_drawn: bool = False
    chooses: bool = False
    account: dict[str, Any] = field(default_factory=dict)

    @property
    def num_rows(self) -> int:
        """Return N, the number of samples."""
        return int(self.rows.num_rows)

    @property
    def num_classes(self) -> int:
        """Return C, the number of classes."""
        return len(self.classes)

    def of(self, *splits: Split) -> np.ndarray:
        """Tell which samples are of some splits, (N,) bool."""
        return np.isin(self.splits, splits)

    @property
    def learns(self) -> np.ndarray:
        """Tell which samples a probe learns from at last, (N,) bool."""
        both = self.val_drawn and not self.chooses
        return self.of("train", "val") if both else self.of("train")

    @cached_property
    def splits(self) -> np.ndarray:
        """Return the split of each sample, (N,) of text."""
        return np.array(self.rows[schema.SPLIT].to_pylist(), dtype="U5")

    @cached_property
    def labels(self) -> np.ndarray:
        """Return the class of each sample, (N,) int64.

        Raises:
            ValueError: a sample has not exactly one.
        """
        if self.task != "class":
            raise ValueError(f"labels are of one class a sample, and these are of task {self.task}")
        return np.asarray(self.rows[schema.LABELS].combine_chunks().flatten(), dtype=np.int64)

    @cached_property
    def label_hot(self) -> np.ndarray:
        """Return which classes each sample has, (N, C) bool; of boxes, which occur in it."""
        column = schema.BOXES if self.task == "boxes" else schema.LABELS
        lists = self.rows[column].combine_chunks().fill_null([])
        values = lists.flatten()
        if self.task == "boxes":
            values = values.field(schema.LABEL)
        row = np.repeat(np.arange(self.num_rows), np.asarray(lists.value_lengths()))
        hot = np.zeros((self.num_rows, self.num_classes), bool)
        hot[row, np.asarray(values)] = True
        return hot

    @cached_property
    def groups(self) -> np.ndarray:
        """Return the number of each sample's group, (N,) int64; a sample without one is its own."""
        names = self.rows[schema.GROUP].to_pylist()
        known = {name: index for index, name in enumerate(sorted({n for n in names if n}))}
        return np.array([known.get(n, len(known) + i) for i, n in enumerate(names)], dtype=np.int64)

    @property
    def drawn_whole(self) -> np.ndarray | None:
        """Return the groups by which intervals draw these samples, (N,); None where each counts by
        itself, as where no two share a group, or all do."""
        return self.groups if 1 < len(np.unique(self.groups)) < self.num_rows else None

    def boxes(self, row: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the boxes of a sample.

        Returns:
            (n, 4) float32 x, y, width, height in px of the file's image; (n,) int64 classes; (n,)
                bool, whether each is a crowd.
        """
        found = self.rows[schema.BOXES][row].as_py() or []
        sides = [[box[name] for name in ("x", "y", "width", "height")] for box in found]
        return (
            np.array(sides, dtype=np.float32).reshape(-1, 4),
            np.array([box[schema.LABEL] for box in found], dtype=np.int64),
            np.array([box["crowd"] for box in found], dtype=bool),
        )

    @cached_property
    def most_boxes(self) -> int:
        """Return M, the most boxes of single objects in a sample, at least 1."""
        counts = [int((~self.boxes(row)[2]).sum()) for row in range(self.num_rows)]
        return max([1, *counts])

    def keep(self, kept: np.ndarray) -> "LabelledData":
        """Return some of the samples.

        Args:
            kept: (N,) bool.
        """
        return replace(self, rows=self.rows.filter(pa.array(kept)))

    def with_account(self, more: dict[str, Any]) -> "LabelledData":
        """Return the same samples with more to say of them."""
        return replace(self, account=self.account | more)
