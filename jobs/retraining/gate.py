"""Whether a new encoder may take the champion's place: its health, its answers, and no slice of
them much worse."""

import math
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from torch import Tensor

from jobs.cluster.share import Session
from jobs.probing.frozen_features import embed_labelled
from jobs.probing.frozen_probes import judge
from jobs.probing.probe_sections import AdaptConfig
from jobs.retraining.looks import Sampled, look, tensors
from jobs.retraining.retrain_sections import LabelledSetsConfig, RetrainConfig, RetrainingConfig
from jobs.setup.command_line import validate
from jobs.training import health_watch
from models import health
from models.scores import WORDS, measure_of, paired_difference
from pipelines.corpus.entry import folders_of
from pipelines.retraining.mixture import Ages
from pipelines.retraining.twice_seen import Seen

MOST_SLICES = 20  # by folder
_FEWEST = 20  # samples of a slice that is judged
_FEWEST_JUDGED = 3  # samples that figures of all of them take
_ALIKE = 1e-6
_UNMEASURED = "health_unmeasured"  # how many figures of the last look were no numbers


@dataclass(frozen=True)
class Figure:
    """A figure of the new encoder beside the champion's.

    Attributes:
        name: What was measured.
        value: Of the new encoder.
        champion: Of the champion; None: there is none.
        rule: What was demanded; empty: nothing, it is told only.
        passed: Whether that holds.
        change: Of a share of right answers, the paired difference.
        ci95: Its interval.
    """

    name: str
    value: float
    champion: float | None = None
    rule: str = ""
    passed: bool = True
    change: float | None = None
    ci95: tuple[float, float] | None = None

    @property
    def doubt(self) -> str:
        """Say so where the difference may as well be none; empty: it is one."""
        if self.ci95 is None or not self.ci95[0] <= 0 <= self.ci95[1]:
            return ""
        return ", but the interval holds zero: so few samples do not tell"

    def __str__(self) -> str:
        beside = "" if self.champion is None else f", {self.champion:.3f} of the champion"
        found = ""
        if self.change is not None and self.ci95 is not None:
            found = f" ({self.change:+.1%} [{self.ci95[0]:+.1%}, {self.ci95[1]:+.1%}])"
        return f"{self.name} {self.value:.3f}{beside}{found}"


@dataclass(frozen=True)
class Verdict:
    """What the gate says.

    Attributes:
        figures: All that was measured, those of slices last.
        why: The reasons, in words.
        passed: Whether the new encoder takes the place.
        probe: What `jobs.adapt` told of labelled sets; None: there are none.
    """

    figures: tuple[Figure, ...]
    why: tuple[str, ...]
    passed: bool
    probe: dict[str, Any] | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return it as the record has it."""
        return {
            "passed": self.passed,
            "why": list(self.why),
            "figures": [asdict(figure) for figure in self.figures],
            "probe": self.probe,
        }


def judge_candidate(
    config: RetrainConfig,
    ages: Ages,
    held_out: Sampled,
    *,
    candidate: str,
    champion: str | None,
    last_line: dict[str, Any],
    session: Session,
) -> Verdict:
    """Measure the new encoder, beside the champion where there is one.

    Args:
        config: Of the cycle.
        ages: Its corpus.
        held_out: Samples that no cycle has trained on.
        candidate: The new artifact.
        champion: The one in use.
        last_line: Of the log of its training.
        session: Where to look.
    """
    wanted = config.retrain
    figures = [_healthy(config, last_line)]
    gained = ages.num_new > 0
    slices = list[Figure]()
    if held_out.rows.num_rows:
        seen = look(config, ages.manifest, held_out, candidate, session)
        other = look(config, ages.manifest, held_out, champion, session) if champion else None
        by_corpus, slices = _on_corpus(
            wanted, held_out, seen, other, gained=gained, decides=config.labelled is None
        )
        figures += by_corpus
    probe = None
    if config.labelled is not None:
        probe = _probed(config.labelled, config, candidate, champion)
        figures.append(_of_probe(wanted, probe, gained=gained, beside=champion is not None))
    figures += slices
    failed = [figure for figure in figures if not figure.passed]
    if failed:
        why = tuple(f"{figure}: {figure.rule} does not hold{figure.doubt}" for figure in failed)
    else:
        why = tuple(
            f"{figure}: {figure.rule}" for figure in figures if figure.rule and _main(figure)
        )
    return Verdict(tuple(figures), why, not failed, probe)


def _main(figure: Figure) -> bool:
    return not figure.name.startswith("slice ")


def _healthy(config: RetrainConfig, last_line: dict[str, Any]) -> Figure:
    """Judge the last look at the encoder while it trained: by the spread of its projections where
    the method compares some, else by how much of its embeddings tells images apart."""
    collapse = health_watch.judge(last_line, config.health)
    if collapse is None and (beside := health_watch.judge_beside(last_line, config.health)):
        collapse = ": ".join(beside)
    what = "spread" if "health_spread" in last_line else "variation"
    figure = last_line.get(f"health_{what}", math.nan)
    rule = collapse or "it has not collapsed"
    if collapse is None and not (math.isfinite(figure) and not last_line.get(_UNMEASURED)):
        collapse = rule = "its health was measured at the end of its training"
    return Figure(f"{what} while training", figure, rule=rule, passed=collapse is None)


def _on_corpus(
    wanted: RetrainingConfig,
    held_out: Sampled,
    seen: Seen,
    other: Seen | None,
    *,
    gained: bool,
    decides: bool,
) -> tuple[list[Figure], list[Figure]]:
    """Judge by samples of the corpus, without labels.

    Returns:
        Figures of all of them, and of slices.
    """
    valid = seen.valid if other is None else seen.valid & other.valid
    if valid.sum() < _FEWEST_JUDGED:
        return [Figure("held-out samples, too few to judge by", float(valid.sum()))], []
    plain, changed = tensors(seen, valid)
    right = health.recognised(plain, changed).numpy()
    rank = float(health.rankme(plain))
    floor = f"at least retrain.min_recognised={wanted.min_recognised:g}"
    share = float(right.mean()) if len(right) else 0.0
    known = share >= wanted.min_recognised
    if other is None:
        return [
            Figure("held-out samples recognised", share, rule=floor, passed=known),
            Figure("effective rank (RankMe)", rank),
            *decay_figure(plain),
        ], []
    champions, changed = tensors(other, valid)
    before = health.recognised(champions, changed).numpy()
    old_rank = float(health.rankme(champions))
    least = (1 - wanted.max_rank_loss) * old_rank
    main = _compared(
        "held-out samples recognised", right, before, wanted, gained=gained, decides=decides
    )
    if not known:
        main = Figure(main.name, share, main.champion, floor, False, main.change, main.ci95)
    figures = [
        main,
        Figure(
            "effective rank (RankMe)",
            rank,
            old_rank,
            f"at least {least:.1f}, by retrain.max_rank_loss={wanted.max_rank_loss:g}",
            rank >= least,
        ),
        *decay_figure(plain, champions),
    ]
    return figures, _slices(wanted, held_out, valid, right, before)


def decay_figure(plain: Tensor, champions: Tensor | None = None) -> list[Figure]:
    """Tell how fast the variance of embeddings (N, D) falls; nothing where N is too small for
    it."""
    own = float(health.alpha_req(plain))
    other = None if champions is None else float(health.alpha_req(champions))
    known = math.isfinite(own) and (other is None or math.isfinite(other))
    return [Figure("alpha-ReQ", own, other)] if known else []


def _compared(
    name: str,
    right: np.ndarray,
    before: np.ndarray,
    wanted: RetrainingConfig,
    *,
    gained: bool,
    decides: bool,
) -> Figure:
    change, ci95 = paired_difference(before, right)
    passed, rule = _rule(ci95, wanted, gained=gained)
    if not decides:
        passed, rule = True, ""
    return Figure(name, float(right.mean()), float(before.mean()), rule, passed, change, ci95)


def _rule(ci95: tuple[float, float], wanted: RetrainingConfig, *, gained: bool) -> tuple[bool, str]:
    """Say whether an encoder is better, or not much worse after learning from more."""
    if ci95[0] > 0:
        return True, "better beyond chance"
    if not gained:
        return False, "better beyond chance, as it has learnt from nothing new"
    rule = f"at most retrain.max_loss={wanted.max_loss:g} worse, for what it has learnt from more"
    return ci95[0] >= -wanted.max_loss - _ALIKE, rule


def _slices(
    wanted: RetrainingConfig,
    held_out: Sampled,
    valid: np.ndarray,
    right: np.ndarray,
    before: np.ndarray,
) -> list[Figure]:
    """Judge old and new samples, and those of each folder, by themselves."""
    is_new = held_out.is_new[valid]
    chosen = {"old samples": ~is_new, "new samples": is_new}
    folders = np.array(folders_of(held_out.rows).to_pylist(), object)[valid]
    counted = Counter(folder for folder in folders.tolist() if folder is not None)
    if len(counted) > 1:
        chosen |= {name: folders == name for name, _ in counted.most_common(MOST_SLICES)}
    figures = []
    for name, rows in chosen.items():
        if rows.sum() < _FEWEST:
            continue
        change, ci95 = paired_difference(before[rows], right[rows])
        lost = change < -wanted.max_slice_loss and ci95[1] < 0
        figures.append(
            Figure(
                f"slice {name} ({int(rows.sum())})",
                float(right[rows].mean()),
                float(before[rows].mean()),
                f"at most retrain.max_slice_loss={wanted.max_slice_loss:g} worse, beyond chance",
                not lost,
                change,
                ci95,
            )
        )
    return figures


def _probed(
    labelled: LabelledSetsConfig, config: RetrainConfig, candidate: str, champion: str | None
) -> dict[str, Any]:
    """Probe both encoders on the labelled sets, as `jobs.adapt` does."""
    values = {
        "artifact": candidate,
        "compare": champion,
        "train": labelled.train.model_dump(mode="json"),
        "test": labelled.test.model_dump(mode="json"),
        "probe": {"name": labelled.probe},
        "cluster": config.cluster.model_dump(mode="json"),
    }
    asked = validate(AdaptConfig, values)
    return judge(asked.probe, embed_labelled(asked))


def _of_probe(
    wanted: RetrainingConfig, probe: dict[str, Any], *, gained: bool, beside: bool
) -> Figure:
    measure = measure_of(probe)
    name = f"{probe['probe']} {WORDS[measure]} of {probe['num_test']} labelled samples"
    if not beside:
        return Figure(name, probe[measure])
    low, high = probe["difference_ci95"]
    passed, rule = _rule((low, high), wanted, gained=gained)
    return Figure(
        name,
        probe[measure],
        probe[f"compared_{measure}"],
        rule,
        passed,
        probe["difference"],
        (low, high),
    )
