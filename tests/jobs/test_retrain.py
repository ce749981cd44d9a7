"""jobs.retrain: cycles over a corpus that grows; each slot does its work once, and what came of it
is told with its reasons."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from jobs.retrain import retrain
from jobs.retraining.cycle import order_of
from jobs.retraining.gate import decay_figure
from jobs.retraining.retrain_sections import RetrainConfig, complete
from jobs.setup.command_line import parse
from jobs.setup.failures import InputError
from models import artifact
from pipelines.registry import model_versions, moves
from pipelines.registry.registered_model import RegisteredModel


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
            *(f"slot={slot}", "retrain.min_recognised=0", "health.grace_steps=100"),
        ]
        return parse(complete, [*given, *words])

    def run(self, slot: str, *words: str) -> dict[str, Any]:
        return retrain(self.config(slot, *words))

    def champion(self) -> int:
        return moves.standing(self.model, "champion").version


@pytest.fixture
def loop(tmp_path: Path, image_folder: Path) -> Loop:
    return Loop(tmp_path, sorted(image_folder.rglob("*.jpg"), key=lambda path: path.name))


@pytest.mark.timeout(600)
def test_cycles_promote_keep_stop_and_do_nothing_twice(loop: Loop, ray_session: None) -> None:
    loop.add(80)
    dry = loop.run("2026-11-09", "retrain.dry_run=true")
    assert (dry["decision"], dry["champion"]) == ("would train", None)
    first = loop.run("2026-11-09")
    assert (first["decision"], first["version"], loop.champion()) == ("promoted", 1, 1)
    assert first["steps"]["train"]["samples"] < 80 == first["steps"]["export"]["samples"]
    made = model_versions.read(loop.model, 1)
    assert made.lineage["retraining"]["slot"] == "2026-11-09"
    assert artifact.load(made.lineage["retraining"]["trunk"]).digest != made.digest
    page = Path(first["page"]).read_text()
    assert "promoted" in page and "held-out samples recognised" in page
    assert retrain(loop.config("2026-11-09"))["steps"] == json.loads(json.dumps(first["steps"]))

    loop.add(40)
    worse = loop.run("2026-11-10", "optim.lr=1e9", "retrain.max_shift=null")
    assert (worse["decision"], loop.champion()) == ("kept", 1)
    assert worse["steps"]["index"]["new"] == 40
    assert worse["steps"]["train"]["started_from"] == made.lineage["retraining"]["trunk"]
    history = (Path(worse["page"]).parents[2] / "index.html").read_text()
    history = history.partition("Cycles, the newest first")[2]
    assert history.index("2026-11-10") < history.index("2026-11-09")  # the newest first

    drawn = np.random.default_rng(0)
    for number in range(80):
        noise = drawn.integers(0, 256, (48, 48, 3), dtype=np.uint8)
        Image.fromarray(noise).save(loop.corpus / f"noise-{number}.png")
    poisoned = loop.run("2026-11-11", "retrain.max_distance=0.1", "retrain.max_shift=null")
    assert (poisoned["decision"], loop.champion()) == ("stopped", 1)
    assert "unlike the old ones" in poisoned["why"][0] and "train" not in poisoned["steps"]

    few = loop.run("2026-11-12", "retrain.min_new=121")
    assert few["decision"] == "stopped" and "too little is new: 120 of 200" in few["why"][0]
    assert loop.run("2026-11-9")["decision"] == "superseded"
    with pytest.raises(InputError, match=r"begun with other settings: seed \(0 there, 1 now\)"):
        loop.run("2026-11-12", "retrain.min_new=121", "seed=1")


def test_an_exponent_that_few_samples_do_not_give_is_left_out() -> None:
    torch.manual_seed(0)
    many, few = torch.randn(32, 16), torch.randn(4, 16)
    (figure,) = decay_figure(many, 2 * many)
    assert figure.champion == pytest.approx(figure.value)
    assert decay_figure(few) == decay_figure(many, few) == []


def test_slots_are_ordered_by_the_numbers_in_them() -> None:
    slots = ["2026-9-1", "2026-11-09", "2026-11-09T0200", "2026-11-10", "w9", "w10"]
    mixed = [slots[place] for place in (5, 2, 0, 4, 1, 3)]
    assert sorted(mixed, key=order_of) == slots
