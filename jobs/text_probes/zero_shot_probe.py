"""Classes told by their names: which sentence about a class is most alike an image."""

from typing import Any

import numpy as np
import torch
from torch.nn import functional

from jobs.adaptation import judging, labelled_sets, scoring, splitting
from jobs.adaptation.scoring import Scored
from jobs.adaptation.telling import account_of, say, tell_sets
from jobs.cluster import launch
from jobs.probing.frozen_features import stream_of
from jobs.probing.frozen_probes import in_words
from jobs.setup.failures import InputError, as_one_line
from jobs.text_probes.text_probe_sections import ZeroShotConfig
from jobs.text_probes.with_texts import Towers, absolute, embed_texts, towers_of
from models.artifact import Artifact
from models.scores import interval_of_share
from pipelines.labels.label_tables import Columns, read_rows
from pipelines.labels.labelled_data import LabelledData
from pipelines.labels.labelled_rows import LeftOutNames, nfc

_CLASS_NAMES = ("class", "label")
_NAMES_SHOWN = 1000  # classes, for programs


def judge_zero_shot(config: ZeroShotConfig) -> dict[str, Any]:
    """Tell the class of each test sample by the names of all, with each kind of towers.

    Returns:
        What `--json` prints.

    Raises:
        InputError: the labels, the names or the artifacts cannot be judged so.
    """
    uri = absolute("test.uri", config.test.uri)
    table = config.probe.class_names
    table = None if table is None else absolute("probe.class_names", table)
    towers = towers_of(config)
    with launch.session(config.cluster, work="embed", paths=(*towers.places, uri)) as session:
        data = _read(uri, config)
        names = names_of(data.classes, table)
        per_video = config.clip.per_video or 1
        streams = [
            (stream_of(data, columns, encoders, per_video, session), tuple(columns))
            for columns, encoders in towers.passes(colour=False)
        ]
        found, readable, _ = judging.read_streams(streams, data.num_rows)
    if not readable.any():
        raise InputError(f"test.uri {uri}: none of its {data.num_rows} samples can be read")
    data = data.keep(readable)
    data = data.with_account({"num_test_groups": judging.groups_of(data)})
    images = {kind: torch.from_numpy(found[kind][readable]) for kind in towers.encoders}
    return _told(config, towers, data, names, images)


def _read(uri: str, config: ZeroShotConfig) -> LabelledData:
    """List the test set.

    Raises:
        InputError: it is missing or empty, or has one class alone.
    """
    whole = splitting.read_one("test.uri", uri, config.columns, "class")
    rows = splitting.of_splits(whole, [config.test.split])
    classes = rows.classes
    if len(classes) < 2:
        raise InputError(
            f"test.uri {uri} has {len(classes)} classes of split {config.test.split}, and telling"
            " them apart takes two: of a folder, the first folder below it is the class"
        )
    several = labelled_sets.several_labels(rows)
    tell_sets({"test": rows}, {}, classes, "class")
    if several:
        say(f"test: {len(several)} samples have several labels: judged as multi-label")
    account = account_of({"test": rows}, {}, {})
    account |= {
        "task": "classes" if several else "class",
        "duplicates": 0,
        "num_classes": len(classes),
        "classes": classes[:_NAMES_SHOWN],
    }
    return LabelledData(
        labelled_sets.encoded({"test": rows}, classes),
        tuple(classes),
        "classes" if several else "class",
        account=account,
    )


def names_of(classes: tuple[str, ...], table: str | None) -> list[tuple[str, ...]]:
    """Return what each class is called.

    Args:
        classes: As the labels have them.
        table: URI of a table of class and name; a class that it leaves out is called as its label.

    Raises:
        InputError: it cannot be read, or names a class that no label has.
    """
    own: list[tuple[str, ...]] = [
        (" ".join(one.replace("_", " ").replace("-", " ").split()) or one,) for one in classes
    ]
    if table is None:
        return own
    with as_one_line(source_key="probe.class_names"):
        columns, rows = read_rows(table, Columns(), LeftOutNames())
    key = next((name for name in columns if name.casefold() in _CLASS_NAMES), None)
    if key is None or "name" not in columns:
        raise InputError(
            f"probe.class_names {table} must have the columns class and name, it has"
            f" {', '.join(columns[:8]) or 'none'}"
        )
    given: dict[str, list[str]] = {}
    for row in rows:
        if str(row.get("name") or "").strip():
            given.setdefault(nfc(str(row.get(key)).strip()), []).append(str(row["name"]).strip())
    if unknown := sorted(given.keys() - set(classes)):
        raise InputError(
            f"probe.class_names {table} names class {unknown[0]}, which test.uri has not: it has"
            f" {', '.join(classes[:8])}"
        )
    return [tuple(given.get(one, usual)) for one, usual in zip(classes, own, strict=True)]


def _of_classes(
    encoder: Artifact, names: list[tuple[str, ...]], templates: tuple[str, ...]
) -> torch.Tensor:
    """Average what is made of the sentences about each class, (C, P) of length 1."""
    sentences = [one.replace("{}", name) for each in names for name in each for one in templates]
    made = embed_texts(encoder, sentences).split([len(each) * len(templates) for each in names])
    return functional.normalize(torch.stack([each.mean(dim=0) for each in made]), dim=1)


def _scored(
    encoder: Artifact,
    images: torch.Tensor,
    data: LabelledData,
    names: list[tuple[str, ...]],
    templates: tuple[str, ...],
) -> Scored:
    with torch.no_grad():
        logits = encoder.require_text().logits(images, _of_classes(encoder, names, templates))
    answers = logits.softmax(dim=1) if data.task == "class" else logits.sigmoid()
    return scoring.score(data, answers.numpy())


def _told(
    config: ZeroShotConfig,
    towers: Towers,
    data: LabelledData,
    names: list[tuple[str, ...]],
    images: dict[str, torch.Tensor],
) -> dict[str, Any]:
    templates = config.probe.templates
    scored = {
        kind: _scored(encoder, images[kind], data, names, templates)
        for kind, encoder in towers.encoders.items()
    }
    result: dict[str, Any] = {
        "probe": config.probe.name,
        "num_test": data.num_rows,
        **towers.told(),
        **data.account,
        "templates": list(templates),
        "names": dict(zip(data.classes[:_NAMES_SHOWN], map(list, names), strict=False)),
    }
    if len(templates) > 1:
        one = _scored(
            towers.encoders["pretrained"], images["pretrained"], data, names, templates[:1]
        )
        result["first_template"] = {one.measure: one.value, "ci95": one.scores["ci95"]}
    result |= in_words(config.probe.name, data, scored, towers.judged)
    if data.task == "class":
        return result | _chance(data, result["result"])
    return result


def _chance(data: LabelledData, line: str) -> dict[str, Any]:
    """Say what the most frequent class, and a guess, would score."""
    most = np.bincount(data.labels, minlength=data.num_classes)
    frequent = data.labels == int(most.argmax())
    chance = 1 / data.num_classes
    return {
        "chance_top1": chance,
        "most_frequent_top1": float(frequent.mean()),
        "most_frequent_ci95": list(interval_of_share(frequent, data.drawn_whole)),
        "result": f"{line}, chance {chance:.1%}",
    }
