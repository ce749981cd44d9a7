"""A probe over checkpoints, above the effective rank of the same ones."""

from typing import Any

from jobs.reporting.figures import COLOURS, PALE, WIDE, Drawing, figure_of, png
from models.scores import WORDS

_SIZE = (WIDE[0], 6.0)


def probe_beside_rank(
    rows: list[dict[str, Any]], measure: str, baseline: float, finding: str
) -> Drawing:
    """Draw the score with its interval, and RankMe, over steps.

    Args:
        rows: `step`, the measure, `ci95` and `rankme` of each checkpoint.
        measure: The score's key.
        baseline: Score of what training started from.
        finding: What they show.
    """
    ranked = [row for row in rows if row["rankme"] is not None]
    steps = [row["step"] for row in rows]
    with figure_of(finding, panels=2, size=_SIZE) as (figure, (score, rank)):
        low, high = ([row["ci95"][end] for row in rows] for end in (0, 1))
        score.fill_between(steps, low, high, color=COLOURS[0], alpha=0.18, linewidth=0)
        score.plot(
            steps, [row[measure] for row in rows], color=COLOURS[0], marker="o", markersize=4
        )
        score.axhline(baseline, color=PALE, linestyle="--", linewidth=1)
        score.set_ylabel(f"{WORDS[measure]}, fraction")
        rank.plot(
            [row["step"] for row in ranked],
            [row["rankme"] for row in ranked],
            color=COLOURS[1],
            marker="o",
            markersize=4,
        )
        rank.set_ylabel("RankMe, dimensions")
    return Drawing("checkpoints.png", finding, png(figure))
