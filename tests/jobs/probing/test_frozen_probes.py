"""Probes of frozen features: what they choose, what they say, and what they refuse."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch

from jobs.adapt import AdaptConfig, adapt
from jobs.probing.few_label_probe import Draws, draws_of
from jobs.probing.frozen_features import Judged, Labelled
from jobs.probing.frozen_probes import judge
from jobs.probing.probe_sections import OWN, ProbeConfig, Setting
from jobs.setup.failures import InputError
from models.probing.resampling import over_draws
from pipelines import schema
from pipelines.labels.labelled_data import LabelledData

CLASSES = ("a", "b", "c")
ARTIFACT = Judged("here", "0" * 64, 1000, "untrained")


def labelled(*, val: int = 30, several: bool = False, compared: bool = True) -> Labelled:
    """Features of 90 + val training samples and 60 test samples, of which some see the class."""
    num = 90 + val + 60
    labels = np.arange(num) % 3
    lists = [[one, 2] if several and one == 0 else [one] for one in labels.tolist()]
    splits = ["train"] * 90 + ["val"] * val + ["test"] * 60
    rows = pa.table(
        {
            schema.SPLIT: splits,
            schema.LABELS: pa.array(lists, pa.list_(pa.int32())),
            schema.GROUP: pa.nulls(num, pa.string()),
        }
    )
    account = {"num_classes": 3, "classes": list(CLASSES)}
    task = "classes" if several else "class"
    data = LabelledData(rows, CLASSES, task, val_drawn=True, account=account)

    def seen(signal: float, seed: int) -> torch.Tensor:
        noise = torch.randn(num, 6, generator=torch.Generator().manual_seed(seed))
        return noise + signal * torch.eye(3, 6)[labels]

    features = {
        "pretrained": {OWN: seen(1.0, 0), Setting("max", 2): seen(3.0, 1)},
        "untrained": {OWN: seen(0.5, 2), Setting("max", 2): seen(0.1, 3)},
        "colour": {OWN: seen(0.1, 4)},
    }
    if compared:
        features["compared"] = {OWN: seen(0.7, 5), Setting("max", 2): seen(0.7, 6)}
    return Labelled(
        features, data, torch.arange(num), None, ARTIFACT, ARTIFACT if compared else None
    )


SWEEP = ProbeConfig(name="linear", pooling=("auto", "max"), blocks=(1, 2))


@pytest.mark.parametrize(
    ("name", "several"),
    [("knn", False), ("linear", False), ("linear", True), ("few_label", False), ("retrieve", True)],
)
def test_intervals_of_every_probe_draw_groups_of_test_samples_whole(
    name: str, several: bool
) -> None:
    probe = ProbeConfig.model_validate({"name": name})
    alone = labelled(several=several)
    of_test = np.flatnonzero(alone.data.of("test"))
    names = np.full(alone.data.num_rows, None)
    names[of_test] = [f"video {number // 20}" for number in range(len(of_test))]
    column = pa.array(names.tolist(), pa.string())
    place = alone.data.rows.column_names.index(schema.GROUP)
    rows = alone.data.rows.set_column(place, schema.GROUP, column)
    plain = judge(probe, alone)
    whole = judge(probe, replace(alone, data=replace(alone.data, rows=rows)))
    intervals = {key for key in plain if key.endswith("ci95")}
    assert {"ci95", "untrained_ci95", "difference_ci95"} <= intervals
    changed = {key for key in plain if plain[key] != whole[key]} - {"curve", "result"}
    assert len(changed) >= 3 and changed <= intervals


def test_the_best_settings_on_validation_are_told_and_judged_once() -> None:
    features = labelled()
    told = judge(SWEEP, features)
    assert len(told["settings"]) == 2 * 4  # what there is of the four settings
    assert (told["chosen"]["pooling"], told["chosen"]["blocks"]) == ("max", 2)
    assert told["untrained_chosen"]["pooling"] == "auto"
    best = max(told["settings"], key=lambda one: one["val_top1"])
    assert told["chosen"].items() <= best.items()
    assert told["top1"] > 0.9 > told["untrained_top1"] > told["colour_top1"] - 0.1
    assert told["parameters"] == {"trained": 3 * 7, "frozen": 1000}
    assert told == judge(SWEEP, features)


def test_several_k_are_all_shown_and_one_is_chosen() -> None:
    told = judge(ProbeConfig(k=(1, 5, 20)), labelled())
    assert set(told["by_k"]) == {"1", "5", "20"}
    assert [one["k"] for one in told["settings"]] == [1, 5, 20]
    best = max(told["settings"], key=lambda one: one["val_top1"])
    assert told["chosen"] == {"k": best["k"]}
    assert told["top1"] == told["by_k"][str(best["k"])]
    assert np.sum(told["confusion"]) == told["num_test"] == 60
    assert told["num_train"] == 120  # and validation, which was drawn from it
    assert set(told["per_class"]) == set(CLASSES)
    assert told["parameters"] == {"trained": 0, "frozen": 1000}
    assert 0 <= told["calibration_error"] <= 1


@pytest.mark.parametrize("probe", [ProbeConfig(k=(5,)), SWEEP, ProbeConfig(name="retrieve")])
@pytest.mark.parametrize("several", [False, True])
def test_every_probe_tells_the_paired_difference(probe: ProbeConfig, several: bool) -> None:
    told = judge(probe, labelled(several=several))
    measure = "map" if several or probe.name == "retrieve" else "top1"
    ahead = told[measure] - told[f"compared_{measure}"]
    assert told["difference"] == pytest.approx(ahead)
    low, high = told["difference_ci95"]
    assert low < ahead < high
    assert told["ci95"][0] <= told[measure] <= told["ci95"][1]
    assert "ahead of compared by" in told["result"]
    assert "difference" not in judge(probe, labelled(several=several, compared=False))


@pytest.mark.parametrize(
    ("name", "several"),
    [("knn", False), ("linear", True), ("few_label", False), ("retrieve", False)],
)
def test_every_probe_gives_the_score_without_what_the_corpus_has(name: str, several: bool) -> None:
    more = {"gallery": "train"} if name == "retrieve" else {}
    probe = ProbeConfig.model_validate({"name": name, **more})
    alone = labelled(several=several)
    leaked = alone.data.of("test") & (np.arange(alone.data.num_rows) % 4 == 0)
    told = judge(probe, replace(alone, leaked=leaked))
    features = {
        kind: {setting: values[torch.from_numpy(~leaked)] for setting, values in one.items()}
        for kind, one in alone.features.items()
    }
    content = alone.content[torch.from_numpy(~leaked)]
    rest = judge(
        probe, replace(alone, features=features, data=alone.data.keep(~leaked), content=content)
    )
    measure = "map" if several or name == "retrieve" else "top1"
    for prefix in ("", "untrained_", "colour_", "compared_"):
        for key in (measure, "ci95"):
            assert told[f"{prefix}unleaked_{key}"] == pytest.approx(rest[f"{prefix}{key}"])
    assert not any("unleaked" in key for key in rest)
    told = judge(probe, replace(alone, leaked=alone.data.of("test")))
    assert told[f"unleaked_{measure}"] is None and told["unleaked_ci95"] is None


def test_few_labels_are_drawn_alike_for_every_encoder() -> None:
    features = labelled()
    probe = ProbeConfig(name="few_label", labels=(2, "50%", "100%"))
    seen = list[Draws]()

    def scratch(features: Labelled, draws: Draws) -> np.ndarray:
        seen.append(draws)
        return np.zeros((len(draws.rows), 60), bool)

    told = judge(probe, features, scratch)
    assert [one["labels"] for one in told["curve"]] == [6, 60, 120]
    assert [one["draws"] for one in told["curve"]] == [5, 5, 1]
    for one in told["curve"]:
        assert one["untrained_difference"] == pytest.approx(one["top1"] - one["untrained_top1"])
        assert one["difference"] == pytest.approx(one["top1"] - one["compared_top1"])
        assert one["scratch_top1"] == 0
        assert one["scratch_difference_ci95"] == pytest.approx(one["ci95"])
        assert one["ci95"][0] <= one["top1"] <= one["ci95"][1]
    assert told["top1"] == told["curve"][-1]["top1"]
    again = draws_of(probe, features.data)
    assert [list(rows) for rows in again[1].rows] == [list(rows) for rows in seen[1].rows]
    assert judge(probe, features)["curve"][0]["scratch_top1"] is None
    assert over_draws(np.ones((5, 4)))[0] == 1


def test_retrieval_looks_among_the_other_test_samples_or_in_training() -> None:
    told = judge(ProbeConfig(name="retrieve", recall_at=(1, 59)), labelled())
    assert told["recall_at"]["59"] == 1 > told["recall_at"]["1"]
    assert told["map"] == pytest.approx(np.mean(list(told["per_class"].values())))
    assert (told["num_gallery"], told["num_queries"]) == (60, 60)
    across = judge(ProbeConfig(name="retrieve", gallery="train"), labelled())
    assert across["num_gallery"] == 120


@pytest.mark.parametrize(
    ("probe", "line"),
    [
        (ProbeConfig(k=(91, 1)), "probe.k 91 is more than the 90 training images"),
        (ProbeConfig(k=(121,)), "probe.k 121 is more than the 120 training images"),
        (ProbeConfig(name="few_label", labels=(99,)), "probe.labels 99: 99 samples of each class"),
        (ProbeConfig(name="few_label", weight_decay=(1, 2)), "few_label takes one value"),
    ],
)
def test_what_cannot_be_judged_is_one_clear_line(probe: ProbeConfig, line: str) -> None:
    with pytest.raises(InputError, match=line):
        judge(probe, labelled())


def test_without_validation_nothing_is_chosen_and_one_value_needs_none() -> None:
    for probe in (ProbeConfig(name="linear"), ProbeConfig(k=(1, 2))):
        with pytest.raises(InputError, match="no validation sample to choose by"):
            judge(probe, labelled(val=0))
    one = ProbeConfig(name="linear", weight_decay=(0.01,))
    assert judge(one, labelled(val=0))["chosen"]["weight_decay"] == 0.01


def test_training_from_scratch_needs_an_out() -> None:
    values = {"artifact": "/a", "train": {"uri": "/b"}, "test": {"uri": "/c"}}
    probe = {"name": "few_label", "scratch": True}
    with pytest.raises(InputError, match="give out, and leave out"):
        adapt(AdaptConfig.model_validate({**values, "probe": probe}))
