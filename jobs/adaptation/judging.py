"""What a probe may use of its labelled sets once the files have been read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray.data

from jobs.adaptation.label_sections import LabelledJobConfig
from jobs.adaptation.labelled_sets import LEAKED, leaked
from jobs.adaptation.telling import NAMES_KEPT, say, shown
from jobs.setup.bad_samples import BadSamples, by_reason
from jobs.setup.failures import InputError
from pipelines import schema
from pipelines.embeddings import embed
from pipelines.labels.labelled_data import LabelledData

KEYS = (schema.ROW, schema.VALID, schema.REASON, schema.CONTENT)


@dataclass(frozen=True, eq=False)
class Found:
    """What a stream told of the samples that a probe may use, n of N.

    Attributes:
        values: By column, (n, ...) float32, averaged over the clips of each sample.
        data: The n samples, with what was judged in their `account`.
        kept: (N,) bool, which of all samples they are.
        content: Hash of each one's bytes, (n,) int64.
    """

    values: dict[str, np.ndarray]
    data: LabelledData
    kept: np.ndarray
    content: np.ndarray


def read(
    stream: ray.data.Dataset, names: Sequence[str], data: LabelledData, config: LabelledJobConfig
) -> Found:
    """Run a stream over all labelled samples, tell what could not be read, and judge what remains.

    Args:
        stream: Every clip of every sample once, with `schema.ROW` and the hash of its content.
        names: Columns of what is told of each clip, (B, D).
        data: The samples, as `labelled_sets.read_sets` gave them.
        config: Of the job.

    Raises:
        InputError: nothing sensible is left to judge.
    """
    return read_all([(stream, names)], data, config)


def read_all(
    streams: Sequence[tuple[ray.data.Dataset, Sequence[str]]],
    data: LabelledData,
    config: LabelledJobConfig,
) -> Found:
    """Run several streams over the same samples, one after the other, as `read` does one.

    Args:
        streams: Each with the columns that are taken of it. What one cannot read is left out.
        data: The samples, as `labelled_sets.read_sets` gave them.
        config: Of the job.

    Raises:
        InputError: nothing sensible is left to judge.
    """
    values, readable, content = read_streams(streams, data.num_rows)
    kept, usable = judged(data, readable, content, config)
    chosen = {name: value[kept] for name, value in values.items()}
    return Found(chosen, usable, kept, content[kept])


def read_streams(
    streams: Sequence[tuple[ray.data.Dataset, Sequence[str]]], num_rows: int
) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Run several streams over the same N samples, and tell on stderr what could not be read.

    Returns:
        What is told, by column, (N, ...) float32; (N,) bool, which samples every stream could
            read; (N,) int64, hash of each one's bytes.
    """
    values: dict[str, np.ndarray] = {}
    readable = np.ones(num_rows, bool)
    content = np.zeros(num_rows, np.int64)
    for stream, names in streams:
        columns = collected(stream, (*names, *KEYS))
        tell_unreadable(columns)
        told, valid, content = embed.averaged(columns, names, num_rows)
        values |= told
        readable &= valid
    return values, readable, content


def read_apart(
    told: ray.data.Dataset,
    others: ray.data.Dataset,
    name: str,
    rows: np.ndarray,
    data: LabelledData,
    config: LabelledJobConfig,
    beside: Sequence[str] = (),
) -> Found:
    """Read some samples with what is told of them, and of the others only whether they can be read.

    Args:
        told: Stream of the samples of `rows`, as `read` takes it.
        others: Stream of all others, without a network.
        name: The column of what is told.
        rows: (N,) bool, at least one of each.
        data: The samples, as `labelled_sets.read_sets` gave them.
        config: Of the job.
        beside: Further columns, which both streams have.

    Returns:
        As `read`; what is told is there of the samples of `rows` alone.

    Raises:
        InputError: nothing sensible is left to judge.
    """
    answers = collected(told, (name, *beside, *KEYS))
    taken = (*beside, *KEYS)
    rest = collected(others.select_columns([*taken, schema.POSITION]), taken)
    tell_unreadable({key: np.concatenate([answers[key], rest[key]]) for key in (schema.REASON,)})
    readable = np.zeros(data.num_rows, bool)
    content = np.zeros(data.num_rows, np.int64)
    names = (name, *beside)
    values, readable[rows], content[rows] = embed.averaged(answers, names, int(rows.sum()))
    more, readable[~rows], content[~rows] = embed.averaged(rest, beside, int((~rows).sum()))
    kept, usable = judged(data, readable, content, config)
    chosen = {name: values[name][kept[rows]]}
    for one in beside:
        whole = np.empty((data.num_rows, *values[one].shape[1:]), np.float32)
        whole[rows], whole[~rows] = values[one], more[one]
        chosen[one] = whole[kept]
    return Found(chosen, usable, kept, content[kept])


def tell_unreadable(columns: Mapping[str, np.ndarray]) -> None:
    """Say on stderr which rows of a stream cannot be read, by reason."""
    bad = BadSamples(1, None)
    bad.add(len(columns[schema.REASON]), by_reason(columns[schema.REASON]))
    bad.tell()


def collected(stream: ray.data.Dataset, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Run a stream and return some of its columns, in the order of its positions."""
    batches = list(stream.iter_batches(batch_size=None))
    order = np.argsort(np.concatenate([batch[schema.POSITION] for batch in batches]))
    return {name: np.concatenate([batch[name] for batch in batches])[order] for name in names}


def judged(
    data: LabelledData, valid: np.ndarray, content: np.ndarray, config: LabelledJobConfig
) -> tuple[np.ndarray, LabelledData]:
    """Tell which samples a probe may use, and account for all others on stderr.

    What cannot be read is left out, and so is an image of validation or test of the same bytes as
    one of training, or of a class of which no training image can be read.

    Args:
        data: Of `labelled_sets.read_sets`.
        valid: (N,) bool, whether each sample can be read.
        content: (N,) int64, hash of its bytes.
        config: Of the job.

    Returns:
        (N,) bool, and the samples that it keeps, with what was judged in their `account`.

    Raises:
        InputError: all test images are among those of training, or no sample of a set can be read.
    """
    learns = data.learns
    is_test = data.of("test")
    copies = _copies(data, valid, content)
    learnt = _learnt(data, valid & learns)
    known = np.ones(data.num_rows, bool)
    if data.task == "class":
        known = learnt[data.labels]
    kept = valid & ~copies & known
    if copies[is_test].any() and not kept[is_test].any():
        raise InputError(leaked(config))
    _check_readable(valid, is_test, learns, config)
    lost = [name for name, found in zip(data.classes, learnt, strict=True) if not found]
    duplicates = data.account["left_out"].get("test", {}).get(LEAKED, 0) + int(
        copies[is_test].sum()
    )
    _tell(valid, lost, duplicates, int(kept[is_test].sum()))
    account = _account(data, valid, kept, learns)
    account |= {"duplicates": duplicates, "lost_classes": lost[:NAMES_KEPT]}
    names = [name for name, found in zip(data.classes, learnt, strict=True) if found]
    account |= {"num_classes": len(names), "classes": names[:NAMES_KEPT]}
    account |= {"num_test_groups": groups_of(data.keep(kept & is_test))}
    return kept, data.keep(kept).with_account(account)


def groups_of(test: LabelledData) -> int | None:
    """Count the groups that intervals draw whole, on stderr too; None where samples are drawn."""
    if test.drawn_whole is not None:
        number = len(np.unique(test.groups))
        say(f"intervals draw the test samples by group, {number} for {test.num_rows}")
        return number
    if 1 == len(np.unique(test.groups)) < test.num_rows:
        say(
            "all test samples are of one group: intervals draw samples, and are narrower than"
            " those of more groups would be"
        )
    return None


def _copies(data: LabelledData, valid: np.ndarray, content: np.ndarray) -> np.ndarray:
    """Tell which samples of validation and test have the bytes of one of an earlier set."""
    train = data.of("train") & valid
    val = data.of("val") & valid
    test = data.of("test") & valid
    copies = (val | test) & np.isin(content, content[train])
    copies |= test & np.isin(content, content[val])
    return np.asarray(copies)


def _learnt(data: LabelledData, usable: np.ndarray) -> np.ndarray:
    """Tell of which classes there is a training sample that can be read, (C,) bool."""
    if data.task == "mask":
        return np.ones(data.num_classes, bool)
    found: np.ndarray = data.label_hot[usable].any(0)
    return found


def _check_readable(
    valid: np.ndarray, is_test: np.ndarray, learns: np.ndarray, config: LabelledJobConfig
) -> None:
    sets = (("train.uri", config.train.uri, learns), ("test.uri", config.test.uri, is_test))
    for key, uri, rows in sets:
        if not valid[rows].any():
            raise InputError(
                f"{key} {uri or config.train.uri}: none of its {rows.sum()} labelled samples can"
                " be read: see the reasons above"
            )


def _tell(valid: np.ndarray, lost: list[str], duplicates: int, remain: int) -> None:
    if not valid.all():
        say(f"{(~valid).sum()} of {len(valid)} labelled images cannot be read: left out")
    if lost:
        say(f"train.uri: classes without a readable image ({len(lost)}): {shown(lost)}")
    if duplicates:
        say(
            f"test.uri: {duplicates} images are in train.uri as well (the same bytes): left"
            f" out, {remain} remain to test with"
        )


def _account(
    data: LabelledData, valid: np.ndarray, kept: np.ndarray, learns: np.ndarray
) -> dict[str, Any]:
    """Count what cannot be read, by set, and name the first."""
    sets = {"train": learns, "val": data.of("val") & ~learns, "test": data.of("test")}
    names = np.array(data.rows["name"].to_pylist(), dtype=object)
    present = {name: rows for name, rows in sets.items() if name != "val" or rows.any()}
    return {
        "unreadable": {name: int((rows & ~valid).sum()) for name, rows in present.items()},
        "unreadable_names": {
            name: names[rows & ~valid][:20].tolist() for name, rows in present.items()
        },
        "num_val": int((data.of("val") & kept).sum()),
        "val_drawn": data.val_drawn,
    }
