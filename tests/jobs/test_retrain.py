"""jobs.retrain: cycles over a corpus that grows; each slot does its work once, and what came of it
is told with its reasons."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jobs import retrain as retrain_job
from jobs.exporting.export_sections import ExportConfig
from jobs.index import IndexConfig, index
from jobs.retrain import retrain
from jobs.retraining import corpus, history_page, training
from jobs.retraining.cycle import Cycle, all_of, order_of
from jobs.retraining.retrain_sections import RetrainConfig, complete
from jobs.setup.command_line import parse
from jobs.setup.failures import InputError
from jobs.setup.inputs import make_manifest
from jobs.training.run_config import PretrainConfig
from jobs.training.run_log import Diverged
from models import artifact
from pipelines.corpus.manifest import open_manifest
from pipelines.registry import model_versions, moves
from pipelines.registry.model_versions import Version
from pipelines.registry.registered_model import RegisteredModel
from pipelines.registry.signature import Signature
from pipelines.retraining.mixture import Ages


class Loop:
    """A corpus that grows, and the cycles over it."""

    def __init__(self, folder: Path, photographs: list[Path]) -> None:
        self.corpus = folder / "corpus"
        self.corpus.mkdir()
        self.model = RegisteredModel(str(folder / "registry"), "encoder")
        self._photographs = photographs

    def add(self, count: int) -> None:
        for path in self._photographs[:count]:
            shutil.copy(path, self.corpus / f"{path.parent.name}-{path.name}")
        del self._photographs[:count]

    def config(self, slot: str, *words: str) -> RetrainConfig:
        given = [
            *("simclr_small", "encoder.width=4", "method.hidden_dim=16", "views.size=16"),
            *("method.projection_dim=8", "global_batch_size=16", "num_steps=5"),
            *(f"registry={self.model.registry}", "name=encoder", f"source.uri={self.corpus}"),
            *(f"slot={slot}", "retrain.min_recognised=0", "retrain.held_out=0.25"),
            "health.grace_steps=100",
        ]
        return parse(complete, [*given, *words])

    def run(self, slot: str, *words: str) -> dict[str, Any]:
        return retrain(self.config(slot, *words))

    def champion(self) -> int:
        return moves.standing(self.model, "champion").version


@pytest.fixture
def loop(tmp_path: Path, image_folder: Path) -> Loop:
    return Loop(tmp_path, sorted(image_folder.rglob("*.jpg"), key=lambda path: path.name))


def promoted(loop: Loop) -> tuple[dict[str, Any], str]:
    """Run the first cycle; what it told, and the weights from which the next one starts."""
    first = loop.run("2026-11-09")
    assert (first["decision"], first["version"], loop.champion()) == ("promoted", 1, 1)
    return first, model_versions.read(loop.model, 1).lineage["retraining"]["trunk"]


@pytest.mark.long
@pytest.mark.timeout(600)
def test_cycles_promote_keep_stop_and_do_nothing_twice(
    loop: Loop, ray_session: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop.add(80)
    first, trunk = promoted(loop)
    assert first["steps"]["train"]["samples"] < 80 == first["steps"]["export"]["samples"]
    made = model_versions.read(loop.model, 1)
    assert made.lineage["retraining"]["slot"] == "2026-11-09"
    assert artifact.load(trunk).digest != made.digest
    page = Path(first["page"]).read_text()
    assert "promoted" in page and "held-out samples recognised" in page
    assert retrain(loop.config("2026-11-09"))["steps"] == json.loads(json.dumps(first["steps"]))

    loop.add(40)
    asked = list[PretrainConfig]()

    def diverges(config: PretrainConfig) -> dict[str, Any]:
        asked.append(config)
        raise Diverged("the loss is not finite")

    monkeypatch.setattr(training, "pretrain", diverges)
    worse = loop.run("2026-11-10", "retrain.max_shift=null")
    assert (worse["decision"], loop.champion()) == ("kept", 1)
    assert worse["why"] == ["training failed: the loss is not finite"]
    assert [config.encoder.weights for config in asked] == [trunk]
    assert worse["steps"]["train"]["started_from"] == trunk
    assert worse["steps"]["index"]["new"] == 40 == worse["steps"]["decide"]["looked_at"]["new"]
    history = (Path(worse["page"]).parents[2] / "index.html").read_text()
    history = history.partition("Cycles, the newest first")[2]
    assert history.index("2026-11-10") < history.index("2026-11-09")  # the newest first

    few = loop.run("2026-11-12", "retrain.min_new=121")
    assert few["decision"] == "stopped" and "too little is new: 40 of 120" in few["why"][0]
    assert "train" not in few["steps"]
    assert loop.run("2026-11-9")["decision"] == "superseded"
    with pytest.raises(InputError, match=r"begun with other settings: seed \(0 there, 1 now\)"):
        loop.run("2026-11-12", "retrain.min_new=121", "seed=1")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_cycle_that_learns_too_fast_is_not_promoted_and_one_of_noise_is_not_trained(
    loop: Loop, ray_session: None
) -> None:
    loop.add(80)
    dry = loop.run("2026-11-09", "retrain.dry_run=true")
    assert (dry["decision"], dry["champion"]) == ("would train", None)
    _, trunk = promoted(loop)
    loop.add(40)
    worse = loop.run("2026-11-10", "optim.lr=1e9", "retrain.max_shift=null")
    assert (worse["decision"], loop.champion()) == ("kept", 1)
    assert worse["steps"]["train"]["started_from"] == trunk

    drawn = np.random.default_rng(0)
    for number in range(80):
        noise = drawn.integers(0, 256, (48, 48, 3), dtype=np.uint8)
        Image.fromarray(noise).save(loop.corpus / f"noise-{number}.png")
    poisoned = loop.run("2026-11-11", "retrain.max_distance=0.1", "retrain.max_shift=null")
    assert (poisoned["decision"], loop.champion()) == ("stopped", 1)
    assert "unlike the old ones" in poisoned["why"][0] and "train" not in poisoned["steps"]


@pytest.mark.long
@pytest.mark.timeout(600)
def test_labelled_sets_judge_the_encoder_beside_the_champion(
    loop: Loop, image_folder: Path, tmp_path: Path, ray_session: None
) -> None:
    labelled = [f"labelled.{name}.uri={tmp_path / name}" for name in ("train", "test")]
    for number, path in enumerate(sorted(image_folder.glob("scene[01]/*.jpg"))):
        place = tmp_path / ("train", "test")[number % 2] / path.parent.name / path.name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, place)
    loop.add(60)
    first = loop.run("1", *labelled, "retrain.export=false")
    (judged,) = (one for one in first["steps"]["gate"]["figures"] if "labelled" in one["name"])
    assert judged["champion"] is None and first["decision"] == "promoted"

    loop.add(30)
    asked = [*labelled, "retrain.export=false", "retrain.max_shift=null", "retrain.max_loss=0"]
    second = loop.run("2", *asked, "retrain.max_slice_loss=1", "retrain.max_rank_loss=1")
    probe = second["steps"]["gate"]["probe"]
    (judged,) = (one for one in second["steps"]["gate"]["figures"] if "labelled" in one["name"])
    assert judged["champion"] == probe["compared_top1"] and judged["value"] == probe["top1"]
    assert judged["change"] == pytest.approx(judged["value"] - judged["champion"])
    passed = judged["ci95"][0] >= -1e-9
    assert (second["decision"] == "promoted") == passed and f"{probe['num_test']} labelled" in (
        Path(second["page"]).read_text()
    )


def test_slots_are_ordered_by_the_numbers_in_them() -> None:
    slots = ["2026-9-1", "2026-11-09", "2026-11-09T0200", "2026-11-10", "w9", "w10"]
    mixed = [slots[place] for place in (5, 2, 0, 4, 1, 3)]
    assert sorted(mixed, key=order_of) == slots


BY = Signature("now", "a", "b", "c")


def _ended(loop: Loop, slot: str) -> Cycle:
    out = str(Path(loop.model.uri) / "retraining")
    cycle = retrain_job.open_cycle(out, slot, loop.config(slot).asked())
    index = {"rows": 8, "new": 8, "champion": None, "seconds": 1.0}
    steps = {"index": index}
    return Cycle(cycle.uri, slot, cycle.asked, cycle.begun, steps, "stopped", ("by hand",))


class _Unfenced:
    """A lease that nobody else wants."""

    fence = SimpleNamespace(check=lambda: None)

    def check(self) -> None:
        """Hold."""


def test_a_finished_slot_tells_its_own_decision_also_where_a_newer_one_is_finished(
    loop: Loop,
) -> None:
    for slot in ("2026-11-09", "2026-11-10"):
        _ended(loop, slot).write(_Unfenced.fence)  # type: ignore[arg-type]
    told = loop.run("2026-11-09")
    assert (told["decision"], told["why"]) == ("stopped", ["by hand"])
    assert loop.run("2026-11-08")["decision"] == "superseded"
    dry = loop.run("2026-11-07", "retrain.dry_run=true")
    assert dry["decision"] == "superseded"
    with pytest.raises(InputError, match=r"other settings: source\.version \(None there, 1 now\)"):
        loop.run("2026-11-09", "source.version=1")


def test_the_page_of_all_cycles_has_one_before_its_record_says_that_it_ended(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = _ended(loop, "2026-11-09")
    seen = list[str]()

    def write(cycle: Cycle, fence: object) -> None:
        page = Path(loop.model.uri) / "retraining" / history_page.NAME
        seen.append(page.read_text() if page.exists() else "")

    begun = Cycle(ended.uri, ended.slot, ended.asked, ended.begun, ended.steps)
    job = _job(loop, begun)
    monkeypatch.setattr(Cycle, "write", write)
    monkeypatch.setattr(retrain_job.cycle_page, "write", lambda *args: {"page": "p"})
    job._end("stopped", ("by hand",), SimpleNamespace(manifest=None))  # type: ignore[arg-type]
    assert "by hand" in seen[-1] and not all_of(job.out)


def _job(loop: Loop, cycle: Cycle) -> Any:
    out = str(Path(loop.model.uri) / "retraining")
    gauges = SimpleNamespace(show=lambda **figures: None)
    config = loop.config(cycle.slot)
    given = (config, cycle, loop.model, out, _Unfenced(), None, gauges)
    return retrain_job._Job(*given)  # type: ignore[arg-type]


def _registered(loop: Loop, place: str, **lineage: Any) -> Version:
    by: Any = {"lineage": lineage, "metrics": {}, "by": BY}
    return model_versions.register(loop.model, place, **by)[0]


def test_a_cycle_embeds_the_version_that_it_listed(
    loop: Loop, small_artifact: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop.add(20)
    listing = str(tmp_path / "listing")
    listed = make_manifest(str(loop.corpus), listing)
    loop.add(4)
    make_manifest(str(loop.corpus), listing)  # by another job, since
    asked = list[ExportConfig]()

    def export(config: ExportConfig) -> dict[str, Any]:
        asked.append(config)
        return {}

    monkeypatch.setattr(retrain_job, "export", export)
    job = _job(loop, _ended(loop, "2026-11-09"))
    job._export(Ages.since(listed, None), _registered(loop, small_artifact).number)
    assert (asked[0].source.uri, asked[0].source.version) == (listing, 1)


def test_a_promotion_overrules_nobody(
    loop: Loop, small_artifact: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (_registered(loop, small_artifact, slot=slot) for slot in "ab")
    monkeypatch.setattr(retrain_job, "lineage_of", lambda *args: {})
    monkeypatch.setattr(retrain_job, "metrics_of", lambda *args: {})
    moves.promote(loop.model, "champion", first.number, by=BY)
    job = _job(loop, _ended(loop, "2026-11-09"))
    given = ({"manifest": "/m", "version": 1}, first, {"artifact": small_artifact, "trunk": None})

    def promote(**judged: Any) -> dict[str, Any]:
        found: dict[str, Any] = job._promote(*given, {"why": ["better"], **judged})
        return found

    moved = promote(passed=True)
    assert (moved["decision"], loop.champion()) == ("promoted", 3)
    assert promote(passed=True) == moved  # as after a kill before the record
    moves.rollback(loop.model, "champion", by=BY)
    again = promote(passed=True)
    assert (again["decision"], again["in_use"], loop.champion()) == ("kept", 1, 1)
    assert again["why"] == ["champion was moved from version 3 to 1 meanwhile"]

    other = _job(loop, _ended(loop, "2026-11-10"))
    real = moves.promote

    def overtaken(model: RegisteredModel, alias: str, version: int, **more: Any) -> object:
        if alias == "champion":
            real(model, alias, second.number, by=BY)  # a person, at the last moment
        return real(model, alias, version, **more)

    monkeypatch.setattr(moves, "promote", overtaken)
    kept = other._promote(*given, {"why": ["better"], "passed": True})
    assert (kept["decision"], kept["in_use"], loop.champion()) == ("kept", 2, 2)
    assert kept["why"] == ["champion was moved from version 1 to 2 meanwhile"]


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("alias=candidate", "alias candidate moves to every new encoder before the gate"),
        ("alias=prod/eu", "alias 'prod/eu' cannot be one"),
    ],
)
def test_an_alias_that_no_gate_can_guard_is_refused(loop: Loop, word: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        loop.config("2026-11-09", word)


def test_labels_that_are_not_there_are_told_before_anything_starts(loop: Loop) -> None:
    labels = ["labelled.train.uri=/nowhere/labels", "labelled.probe=knn"]
    with pytest.raises(InputError, match=r"labelled\.train\.uri .*/nowhere/labels"):
        loop.run("2026-11-09", *labels)
    assert not Path(loop.model.uri, "retraining", "slots").exists()


def test_a_corpus_that_is_mostly_gone_is_refused_by_the_key_of_this_job(
    loop: Loop, tmp_path: Path
) -> None:
    loop.add(8)
    out = str(tmp_path / "out")
    corpus.list_anew(loop.config("1"), str(loop.corpus), out, None)
    for path in sorted(loop.corpus.iterdir())[:6]:
        path.unlink()
    refused = r"6 of 8 samples are gone.* retrain\.max_gone_fraction=1$"
    with pytest.raises(InputError, match=refused):
        corpus.list_anew(loop.config("2"), str(loop.corpus), out, None)
    accepted = loop.config("2", "retrain.max_gone_fraction=1")
    assert corpus.list_anew(accepted, str(loop.corpus), out, None)["rows"] == 2


def test_a_champion_that_was_trained_elsewhere_is_known_by_its_own_listing(
    loop: Loop, small_artifact: str, tmp_path: Path
) -> None:
    loop.add(8)
    run = tmp_path / "run"
    listing = {"source": {"uri": str(loop.corpus)}, "out": str(run / "manifest")}
    index(IndexConfig.model_validate(listing))
    loop.add(4)
    source = {"source": str(loop.corpus), "manifest_versions": [1]}
    known = _registered(loop, small_artifact, run=str(run), **source)
    unknown = _registered(loop, small_artifact, run=None, **source)
    config = loop.config("2026-11-09")
    of_folder = corpus.list_anew(config, str(loop.corpus), str(tmp_path / "out"), known)
    assert (of_folder["since"], of_folder["new"], of_folder["unknown"]) == (1, 4, None)
    assert corpus.reopen(of_folder).num_old == 8
    again = corpus.list_anew(config, str(loop.corpus), str(tmp_path / "out"), known)
    assert (again["version"], again["since"], again["new"]) == (2, 1, 4)
    lost = corpus.list_anew(config, str(loop.corpus), str(tmp_path / "other"), unknown)
    assert (lost["since"], lost["new"]) == (None, 12)
    assert lost["unknown"] == f"no manifest is there that version {unknown.number} was trained on"
    elsewhere = corpus.list_anew(config, str(loop.corpus), str(tmp_path / "other"), known)
    assert "which" in elsewhere["unknown"] and elsewhere["since"] is None
    assert open_manifest(elsewhere["manifest"]).version == 1
