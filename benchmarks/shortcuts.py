"""Ask whether tasks of order and direction are solved by motion, or by what compression, borders
and letterboxes tell.

python -m benchmarks.shortcuts train=DIR test=DIR out=DIR [methods=frame_order,arrow_of_time]
[num_steps=400] [stretches=4] [draws=4] [seed=0]

DIRs hold videos, of which some stretches, at least one, are made into control clips: as they are;
standing still, so that encoding alone tells frames apart; playing forth and back; standing still
within a border, or between dark bars, that grow brighter. Every control is learnt by the method's
small recipe, in this process, once with the guard against its cue and once without it, and then
asked about on the clips of `test`: what a guard is worth is that the second is above chance and the
first is not. Where neither is, too little was learnt to say anything: take more steps. What was
learnt on clips as they are is asked about the same clips encoded backwards too: by motion it is
wrong there as often as it was right, by compression as right. One JSON row a method and seed goes
to out/rows.jsonl, and what is there already is not run again.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from augment.generator import ViewGenerator
from benchmarks import control_clips
from benchmarks.job_runs import Row, add_row, read_rows, settings
from jobs.setup.command_line import parse
from jobs.training.run_config import PretrainConfig, build, complete_pretrain
from models.method import Batch, Method, total_loss
from models.optim import param_groups
from models.probing import resampling
from models.steps.optimizers import Optimizers
from pipelines.corpus.file_kinds import media_of
from pipelines.media.contract import Clip, Limits
from pipelines.media.decoder import PROCESS, kept_decoder

USAGE = " ".join((__doc__ or "").split("\n\n")[1].split())
METHODS = ("frame_order", "arrow_of_time")
_ASK_ALL = "method.min_motion=0"  # what stands still is asked about as well
_CHANCE = 0.5


@dataclass(frozen=True)
class Condition:
    """A control, and how it is learnt.

    Attributes:
        name: For people.
        control: Which clips.
        words: Settings beside the recipe's.
        crop_bars: As `clip.crop_bars`.
        guarded: Whether the guard against the control's cue is on; None: there is no cue.
    """

    name: str
    control: str
    words: tuple[str, ...] = ()
    crop_bars: bool = False
    guarded: bool | None = None


CONDITIONS = (
    Condition("as they are", "real"),
    Condition("forth and back", "palindrome", guarded=True),
    Condition("still", "still", (_ASK_ALL,), guarded=True),
    Condition("still, method.soften=1", "still", (_ASK_ALL, "method.soften=1"), guarded=False),
    Condition("border", "borders", (_ASK_ALL,), guarded=True),
    Condition("border, method.margin=0", "borders", (_ASK_ALL, "method.margin=0"), guarded=False),
    Condition("bars, clip.crop_bars=true", "bars", (_ASK_ALL,), crop_bars=True, guarded=True),
    Condition("bars", "bars", (_ASK_ALL,), guarded=False),
)


class Corpus:
    """Control clips in a folder.

    Args:
        folder: Of .mp4 files.
        config: Whose clips and views are taken.
        crop_bars: Whether what is dark at a side all the time is cut away.
    """

    def __init__(self, folder: Path, config: PretrainConfig, *, crop_bars: bool) -> None:
        self.names = sorted(path.name for path in folder.glob("*.mp4"))
        self._generator = ViewGenerator(config.image_views, config.seed)
        decoder = kept_decoder(Limits(), PROCESS)
        whole = Clip(config.clip.num_frames, config.clip.frame_stride, None, 0.5)
        self._frames = list[np.ndarray]()
        for name in self.names:
            data = (folder / name).read_bytes()
            clip = replace(whole, bars=decoder.changes(data).bars) if crop_bars else whole
            self._frames.append(decoder.clip(data, clip).pixels)

    def __len__(self) -> int:
        return len(self._frames)

    def batch(self, rows: Sequence[int], epoch: int) -> Batch:
        """Make the views of clips, as training sees them."""
        frames = [self._frames[row] for row in rows]
        sample_id = torch.tensor([1000 + 7919 * row for row in rows])
        epochs = torch.full_like(sample_id, epoch)
        cut = self._generator.make_crops(frames, epochs, sample_id)
        crops = {name: torch.from_numpy(array) for name, array in cut.items()}
        return Batch(
            views=self._generator(crops, epochs, sample_id),
            sample_id=sample_id,
            row=torch.tensor(rows),
            epoch=epochs,
            valid=torch.ones(len(rows), dtype=torch.bool),
        )


def learnt(config: PretrainConfig, corpus: Corpus, num_steps: int) -> Method:
    """Train the recipe's method on a corpus, in this process."""
    method = build(config)
    method.expect_rows(len(corpus))
    size = min(config.global_batch_size, len(corpus))
    optimizers = Optimizers(method, param_groups(method), config.optim, size)
    order = np.random.default_rng(config.seed)
    waiting = list[int]()
    epoch = -1
    for step in range(num_steps):
        if len(waiting) < size:
            waiting = order.permutation(len(corpus)).tolist()
            epoch += 1
        rows = [waiting.pop() for _ in range(size)]
        optimizers.set_schedule(step, num_steps)
        method.before_step(step, num_steps)
        optimizers.scaled(total_loss(method(corpus.batch(rows, epoch)))).backward()
        optimizers.step()
        method.after_step(step + 1, num_steps)
    return method.eval()


@torch.no_grad()
def asked(method: Method, corpus: Corpus, draws: int) -> Row:
    """Ask about every clip that moves enough, each `draws` times.

    Returns:
        `top1`, its `ci95` over the videos that clips were cut from, and `asked`, the share of clips
        that is asked about; `top1` is None where none is.
    """
    right = list[float]()
    videos = list[str]()
    for row, name in enumerate(corpus.names):
        for draw in range(draws):
            out = method(corpus.batch([row], draw))
            if out["moving"] > 0:
                right += [float(value) for key, value in out.items() if key.endswith("_top1")]
                videos.append(name.partition("-")[0])
    share = len(right) / (draws * len(corpus))
    if not right:
        return {"top1": None, "ci95": None, "asked": share}
    groups = np.unique(videos, return_inverse=True)[1]
    drawn = resampling.resampled_means(np.array(right), groups)
    return {
        "top1": float(np.mean(right)),
        "ci95": list(resampling.interval_of(drawn)),
        "asked": share,
    }


def run(method: str, seed: int, given: dict[str, str]) -> Row:
    """Learn every control by one method, and ask about the same control of other videos."""
    row: Row = {"method": method, "seed": seed, "num_steps": int(given["num_steps"])}
    for condition in CONDITIONS:
        words = (
            f"source.uri={given['train']}",
            f"out={given['out']}",
            f"seed={seed}",
            "num_steps=1",
        )
        config = parse(complete_pretrain, [f"{method}_small", *words, *condition.words])
        assert isinstance(config, PretrainConfig)
        corpora = _corpora(given, config)
        sides = [
            Corpus(folder / condition.control, config, crop_bars=condition.crop_bars)
            for folder in corpora
        ]
        trained = learnt(config, sides[0], int(given["num_steps"]))
        row[condition.name] = asked(trained, sides[1], int(given["draws"]))
        if condition.control == "real":
            sides.append(Corpus(corpora[1] / "backwards", config, crop_bars=False))
            row["encoded backwards"] = asked(trained, sides[2], int(given["draws"]))
            row["clips"] = [len(side) for side in sides[:2]]
        print(f"{method}, {condition.name}: {row[condition.name]}", file=sys.stderr)
    return row


def _corpora(given: dict[str, str], config: PretrainConfig) -> list[Path]:
    """Make the control clips of both sides where that is still to be done.

    Raises:
        SystemExit: a folder has no video that is long enough.
    """
    num_frames = (config.clip.num_frames - 1) * config.clip.frame_stride + 1
    found = list[Path]()
    for side in ("train", "test"):
        place = Path(given["out"], f"clips-of-{num_frames}", side)
        if not place.exists():
            files = sorted(path for path in Path(given[side]).rglob("*") if path.is_file())
            videos = [path for path in files if media_of(path.name) == "video"]
            if not control_clips.make(videos, place, num_frames, int(given["stretches"])):
                print(f"error: {side}={given[side]} has no video of {num_frames} frames: {USAGE}")
                raise SystemExit(2)
        found.append(place)
    return found


def table(rows: list[Row]) -> str:
    """The rows in Markdown: how often each was right, and whether that is what it should be."""
    shown = ["| method | clips | told | asked about | |", "|---|---|---|---|---|"]
    for row in rows:
        for condition in CONDITIONS:
            found = row[condition.name]
            shown.append(
                f"| {row['method']} | {condition.name} | {_told(found)} | {found['asked']:.0%} |"
                f" {verdict(found, guarded=condition.guarded)} |"
            )
        found = row["encoded backwards"]
        shown.append(
            f"| {row['method']} | as they are, encoded backwards | {_told(found)} |"
            f" {found['asked']:.0%} | |"
        )
    return "\n".join(shown)


def _told(found: Row) -> str:
    if found["top1"] is None:
        return "not asked"
    low, high = found["ci95"]
    return f"{found['top1']:.3f} ({low:.3f}-{high:.3f})"


def verdict(found: dict[str, Any], *, guarded: bool | None) -> str:
    """Say in words what a share of right answers means."""
    if found["top1"] is None:
        return "stands still"
    low, high = found["ci95"]
    above = low > _CHANCE
    if guarded is None:
        return "motion tells" if above else "nothing learnt yet"
    if guarded:
        return "the guard fails" if above else "at chance" if high >= _CHANCE else "below chance"
    return "a cue" if above else "no cue found"


def main(words: list[str]) -> int:
    """Run what is not there yet, then print the table."""
    given = settings(
        words,
        USAGE,
        train="",
        test="",
        out="",
        methods=",".join(METHODS),
        num_steps="400",
        stretches="4",
        draws="4",
        seed="0",
    )
    out = Path(given["out"], "rows.jsonl")
    for method in given["methods"].split(","):
        if method not in METHODS:
            print(f"error: methods={method} is none of {', '.join(METHODS)}", file=sys.stderr)
            return 2
        seed = int(given["seed"])
        if not any((row["method"], row["seed"]) == (method, seed) for row in read_rows(out)):
            add_row(out, run(method, seed, given))
    print(table(read_rows(out)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
