"""Control clips hold one cue and no other, and guards take it away."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from benchmarks import control_clips, shortcuts
from jobs.setup.command_line import parse
from jobs.training.run_config import PretrainConfig, complete_pretrain
from models.temporal.guards import MotionGuards, guarded, motion

NUM_FRAMES = 33


@pytest.fixture(scope="module")
def frames(photographs: list[np.ndarray]) -> np.ndarray:
    """A camera that moves ever faster to the right."""
    picture = photographs[0]
    lefts = [number**2 // 12 for number in range(NUM_FRAMES)]
    return np.stack([picture[:96, left : left + 128] for left in lefts])


@pytest.fixture(scope="module")
def corpora(frames: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every control of two clips, one of which is a short video's."""
    root = tmp_path_factory.mktemp("controls")
    videos = [root / "one.mp4", root / "short.mp4", root / "broken.mp4"]
    control_clips.encode(videos[0], np.concatenate([frames, frames[::-1], frames[:5]]))
    control_clips.encode(videos[1], frames[:20])
    videos[2].write_bytes(b"no video")
    assert control_clips.make(videos, root, NUM_FRAMES, most=4) == 2
    return root


@pytest.mark.parametrize("num_frames", [NUM_FRAMES, NUM_FRAMES - 1])
def test_a_control_holds_one_cue(frames: np.ndarray, num_frames: int) -> None:
    made = {name: control(frames[:num_frames]) for name, control in control_clips.CONTROLS.items()}
    assert all(clip.shape == (num_frames, 96, 128, 3) for clip in made.values())
    assert (made["still"] == made["still"][0]).all()
    assert (made["palindrome"] == made["palindrome"][::-1]).all()
    assert (made["backwards"][0] == made["real"][-1]).all()
    assert (made["borders"][:, 2:-2, 3:-3] == made["still"][:, 2:-2, 3:-3]).all()
    assert (np.diff(made["borders"][:, 0, 0, 0].astype(int)) > 0).all()
    assert (made["bars"][:, 15:-15] == made["still"][:, 15:-15]).all()
    assert made["bars"][:, :14].max() == made["bars"][-1, -1, 0, 0] < 32


def batch_of(corpora: Path, control: str, *, crop_bars: bool = False) -> Tensor:
    words = ["source.uri=nowhere", "out=nowhere", "num_steps=1"]
    config = parse(complete_pretrain, ["frame_order_small", *words])
    assert isinstance(config, PretrainConfig)
    corpus = shortcuts.Corpus(corpora / control, config, crop_bars=crop_bars)
    assert corpus.names == ["00000-00.mp4", "00000-01.mp4"]
    return corpus.batch([0, 1], epoch=0)["views"]["global_crops"][0]


def test_guards_take_the_cues_of_encoded_controls_away(corpora: Path) -> None:
    def moves(control: str, *, crop_bars: bool = False, **settings: float) -> float:
        clips = batch_of(corpora, control, crop_bars=crop_bars)
        off = {"margin": 0.0, "soften": 1}
        seen = guarded(clips, MotionGuards.model_validate({**off, **settings}))
        return float(motion(seen).mean())

    def clock(control: str, **given: Any) -> float:
        return moves(control, **given) - moves("still", **given)  # beside what encoding changes

    assert moves("still", soften=4) < moves("still") < 0.02 < moves("real") / 4
    assert clock("borders", margin=0.05) < clock("borders") / 3
    assert clock("bars", crop_bars=True) < clock("bars") / 3


def test_every_condition_is_learnt_asked_about_and_told(
    corpora: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    some = tuple(one for one in shortcuts.CONDITIONS if one.control in ("real", "bars"))
    monkeypatch.setattr(shortcuts, "CONDITIONS", some)
    words = [f"train={corpora}/real", f"test={corpora}/real", f"out={tmp_path}", "draws=1"]
    words += ["methods=frame_order", "num_steps=1", "stretches=1"]
    assert shortcuts.main(words) == 0
    told = capsys.readouterr().out
    assert all(f"| {condition.name} |" in told for condition in some)
    assert shortcuts.main(words) == 0  # from the rows
    assert capsys.readouterr().out == told


def test_what_a_share_of_right_answers_means_depends_on_the_guard() -> None:
    told = {"top1": 0.7, "ci95": [0.6, 0.8]}
    level = {"top1": 0.5, "ci95": [0.4, 0.6]}
    assert shortcuts.verdict(told, guarded=None) == "motion tells"
    assert shortcuts.verdict(told, guarded=True) == "the guard fails"
    assert shortcuts.verdict(told, guarded=False) == "a cue"
    assert shortcuts.verdict(level, guarded=True) == "at chance"
    assert shortcuts.verdict(level, guarded=False) == "no cue found"
    assert shortcuts.verdict({"top1": None}, guarded=True) == "stands still"
