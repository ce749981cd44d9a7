"""Figures of an adaptation: scores by class, what is told for what, whether confidence can be
trusted, and the curve over few labels."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.ticker import PercentFormatter

from jobs.reporting.figures import COLOURS, GRID, INK, PALE, WIDE, Drawing, open_figure, png
from models.scores import WORDS, measure_of

# what is compared, by the prefix of its scores
KINDS = {
    "": "pretrained",
    "untrained_": "untrained",
    "scratch_": "from scratch",
    "colour_": "colour statistics",
    "still_": "one frame of each clip",
    "compared_": "compared",
    "copy_": "first frame copied",
    "words_": "words told by colour",
    "chance_": "chance",
}
_SHADES = (COLOURS[0], PALE, COLOURS[1], "#b5b9be", "#3a8f86", "#6b8f3a", INK, "#8a5fa8", GRID)
_LINES = dict(zip(KINDS, _SHADES, strict=True))
MOST_BARS = 40
MOST_CELLS = 30

Result = Mapping[str, Any]


def per_class(result: Result) -> Drawing | None:
    """Draw the score of every class, or video; of many the lowest and the highest."""
    scores = by_name(result)
    if not scores:
        return None
    order = sorted(scores, key=lambda name: -scores[name])
    half = MOST_BARS // 2
    shown = order if len(order) <= MOST_BARS else [*order[:half], *order[-half:]]
    what, things = ("followed", "videos") if "per_sequence" in result else ("told", "classes")
    finding = f"{order[0]} is {what} best ({scores[order[0]]:.0%})"
    if len(order) > 1:
        finding += f", {order[-1]} worst ({scores[order[-1]]:.0%})"
    left_out = f"; {len(order) - len(shown)} {things} between are not shown"
    finding += left_out if len(shown) < len(order) else ""
    size = (WIDE[0], 1.6 + 0.24 * len(shown))
    with open_figure(finding, size=size) as (figure, axes):
        places = np.arange(len(shown))[::-1]
        axes.barh(places, [scores[name] for name in shown], color=COLOURS[0], height=0.62)
        base = next((prefix for prefix in KINDS if prefix and by_name(result, prefix)), None)
        if base is not None:
            others = by_name(result, base)
            known = [i for i, name in enumerate(shown) if name in others]
            axes.plot(
                [others[shown[i]] for i in known],
                places[known],
                "|",
                color=COLOURS[1],
                markersize=11,
                markeredgewidth=2.5,
                label=KINDS[base],
            )
            # among the bars it would look like a score
            figure.legend(loc="outside lower right", frameon=False)
        axes.set_yticks(places, [_short(name) for name in shown])
        axes.grid(axis="y", visible=False)
        axes.set_xlim(0, 1)
        axes.xaxis.set_major_formatter(PercentFormatter(1))
        axes.set_xlabel("share of its images that is told" if "top1" in result else "score")
    return Drawing("per_class.png", finding, png(figure))


def by_name(result: Result, prefix: str = "") -> dict[str, float]:
    """Return the score of every class, or the main one of every video, of a kind of features."""
    measure = measure_of(result)
    values = {
        name: scores[measure] for name, scores in result.get(f"{prefix}per_sequence", {}).items()
    }
    values |= result.get(f"{prefix}per_class", {})
    return {name: value for name, value in values.items() if _is_number(value)}


def confusion(result: Result) -> Drawing | None:
    """Draw which class is told for which; None where no matrix is kept, or too large a one."""
    counts = np.array(result.get("confusion", []), dtype=float)
    if counts.ndim != 2 or not 2 <= len(counts) <= MOST_CELLS:
        return None
    names = [_short(name) for name in list(result["classes"])[: len(counts)]]
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    wrong = counts - np.diag(np.diag(counts))
    finding = "No class is told for another"
    of_pixels = "miou" in result
    if wrong.any():
        right, told = np.unravel_index(int(wrong.argmax()), wrong.shape)
        finding = (
            f"Most often {names[right]} is told as {names[told]}"
            f" ({share[right, told]:.0%} of its {'pixels' if of_pixels else 'images'})"
        )
    side = 2.6 + 0.36 * len(counts)
    with open_figure(finding, size=(max(side + 1, 7.2), side)) as (figure, axes):
        axes.grid(visible=False)
        axes.imshow(share, cmap="Blues", vmin=0, vmax=1, aspect="equal")
        if len(counts) <= 15:
            for row, column in np.argwhere(counts > 0):
                colour = "white" if share[row, column] > 0.55 else INK
                number = f"{share[row, column]:.0%}" if of_pixels else f"{counts[row, column]:.0f}"
                axes.text(column, row, number, ha="center", va="center", color=colour, fontsize=8.5)
        axes.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(names)), names)
        axes.set_xlabel("told")
        axes.set_ylabel("right")
    return Drawing("confusion.png", finding, png(figure))


def calibration(result: Result) -> Drawing | None:
    """Draw how often answers of each confidence are right."""
    bins = result.get("calibration")
    if not bins:
        return None
    claimed = np.array([one["confidence"] for one in bins])
    right = np.array([one["right"] for one in bins])
    images = np.array([one["images"] for one in bins], dtype=float)
    mean = float(claimed @ images / images.sum())
    top1 = float(right @ images / images.sum())
    error = result["calibration_error"]
    state = "too sure" if mean > top1 else "not sure enough"
    if abs(mean - top1) > 0.02:
        finding = f"Answers are {state}: {mean:.0%} confidence, {top1:.0%} right"
    elif error > 0.05:
        finding = f"Confidence fits on average alone: {mean:.0%}, and {top1:.0%} right"
    else:
        finding = f"Confidence can be trusted: {mean:.0%} on average, {top1:.0%} right"
    finding += f" (calibration error {error:.1%})"
    with open_figure(finding, size=(7.2, 5.2)) as (figure, axes):
        axes.plot((0, 1), (0, 1), color=PALE, linestyle=(0, (4, 3)), linewidth=1)
        sizes = 20 + 380 * images / images.max()
        axes.plot(claimed, right, color=COLOURS[0], linewidth=1.2, zorder=3)
        axes.scatter(claimed, right, s=sizes, color=COLOURS[0], alpha=0.5, linewidth=0, zorder=3)
        axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
        axes.set_xlabel("confidence (area: number of images)")
        axes.set_ylabel("share that is right")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(PercentFormatter(1))
    return Drawing("calibration.png", finding, png(figure))


def few_labels(result: Result) -> Drawing | None:
    """Draw the score over the number of labels, of every kind of features."""
    curve = result.get("curve")
    if not curve:
        return None
    labels = [point["labels"] for point in curve]
    ahead, first = curve[0]["top1"], curve[0]["labels"]
    finding = f"{ahead:.0%} with {first:,} labels"
    if len(curve) > 1:
        finding += f", {curve[-1]['top1']:.0%} with {curve[-1]['labels']:,}"
    with open_figure(finding, size=WIDE) as (figure, axes):
        for prefix, name in KINDS.items():
            found = [point for point in curve if _is_number(point.get(f"{prefix}top1"))]
            if not found:
                continue
            places = [point["labels"] for point in found]
            scores = [point[f"{prefix}top1"] for point in found]
            colour = _LINES[prefix]
            axes.plot(places, scores, color=colour, marker="o", markersize=4, label=name)
            if all(f"{prefix}ci95" in point for point in found):
                low, high = zip(*(point[f"{prefix}ci95"] for point in found), strict=True)
                axes.fill_between(places, low, high, color=colour, alpha=0.15, linewidth=0)
        axes.set_xscale("log")
        axes.set_xticks(labels, [f"{number:,}" for number in labels])
        axes.minorticks_off()
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.set_ylim(bottom=0)
        axes.set_xlabel("labels")
        axes.set_ylabel("top-1")
        figure.legend(loc="outside lower center", ncols=len(KINDS), frameon=False)
    return Drawing("few_labels.png", finding, png(figure))


def words_of(result: Result) -> str:
    """Return what people call the main score of a result."""
    return WORDS[measure_of(result)]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and value == value


def _short(name: Any) -> str:
    text = str(name)
    return text if len(text) <= 24 else f"{text[:23]}…"
