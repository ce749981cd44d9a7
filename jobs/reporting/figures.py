"""Figures of a run's log: one idea each, the title states the finding, units on the axes."""

import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from jobs.training.bottleneck import STAGES, bottleneck, stage_means

INK = "#20242a"
PALE = "#6a727c"
GRID = "#e4e8ec"
COLOURS = ("#1f6fb2", "#d2691e")
STAGE_COLOURS = ("#1f6fb2", "#6ba3d6", "#b5d1ea", "#e0a46c", "#f1d3b5", "#d2691e")
# of the std of evenly spread features; below it nearly all embeddings point one way
COLLAPSE_SHARE = 0.1
# inches
WIDE = (13.0, 4.0)
HALF = (7.2, 4.6)
STYLE = {
    "figure.dpi": 144,
    "font.size": 10,
    "axes.edgecolor": PALE,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": PALE,
    "ytick.color": PALE,
    "lines.linewidth": 1.8,
}

Lines = list[dict[str, Any]]


@dataclass(frozen=True)
class Drawing:
    """A picture of the report.

    Attributes:
        name: File name; ends in .png or .jpg.
        finding: What it shows, computed from what is shown.
        data: The encoded picture.
    """

    name: str
    finding: str
    data: bytes


def loss(lines: Lines) -> Drawing:
    """Draw the loss over steps."""
    first = lines[0]["loss"]
    last = lines[-1]["loss"]
    finding = f"Loss is {_short(last)} at step {lines[-1]['step']:,}"
    if len(lines) > 1:
        steps = lines[-1]["step"] - lines[0]["step"]
        finding = (
            f"Loss {_moved(first, last)} from {_short(first)} to {_short(last)} in {steps:,} steps"
        )
    with figure_of(finding, panels=1, size=WIDE) as (figure, (axes,)):
        _curve(axes, lines, "loss", COLOURS[0])
        axes.set_ylabel("loss")
    return Drawing("loss.png", finding, png(figure))


def feature_spread(lines: Lines, embed_dim: int) -> Drawing:
    """Draw the standard deviation of normalised features and their effective rank; a collapse shows
    in both.

    Args:
        lines: The log.
        embed_dim: D; features that are spread evenly have the standard deviation 1 / sqrt(D).
    """
    even = embed_dim**-0.5
    std = lines[-1]["feature_std"]
    rank = lines[-1]["rankme"]
    state = "Features have collapsed" if std < COLLAPSE_SHARE * even else "No collapse"
    finding = (
        f"{state}: feature std {std / even:.0%} of an even spread's, effective rank {rank:.0f}"
    )
    with figure_of(finding, panels=2) as (figure, (upper, lower)):
        _curve(upper, lines, "feature_std", COLOURS[0])
        upper.axhline(even, color=PALE, linewidth=1, linestyle=(0, (4, 3)))
        upper.annotate(
            "even spread", (1, even), (0, 3), ("axes fraction", "data"), "offset points", **_note()
        )
        upper.set(ylabel="feature std", ylim=(0, 1.2 * _highest(lines, "feature_std", even)))
        _curve(lower, lines, "rankme", COLOURS[1])
        lower.set(ylabel="effective rank\n(RankMe)", ylim=(0, 1.15 * _highest(lines, "rankme", 1)))
    return Drawing("feature_std.png", finding, png(figure))


def health(lines: Lines) -> Drawing | None:
    """Draw what the looks at the corpus saw: effective rank and spread; None before the first
    look."""
    looks = _looks(lines)
    if not looks:
        return None
    first = looks[0]
    last = looks[-1]
    finding = (
        f"Effective rank of the corpus's embeddings is {last['health_rankme']:.0f} at the last look"
    )
    if len(looks) > 1:
        moved = _moved(first["health_rankme"], last["health_rankme"])
        finding = (
            f"Effective rank of the corpus's embeddings {moved} from {first['health_rankme']:.0f}"
            f" to {last['health_rankme']:.0f} in {len(looks)} looks"
        )
    spreads = [look for look in looks if "health_spread" in look]
    with figure_of(finding, panels=2 if spreads else 1) as (figure, axes):
        _curve(axes[0], looks, "health_rankme", COLOURS[0])
        axes[0].set(
            ylabel="effective rank\n(RankMe)", ylim=(0, 1.15 * _highest(looks, "health_rankme", 1))
        )
        if spreads:
            _curve(axes[1], spreads, "health_spread", COLOURS[1])
            axes[1].set(
                ylabel="projections' spread\n(1: even)",
                ylim=(0, 1.15 * _highest(spreads, "health_spread", 1)),
            )
    return Drawing("health.png", finding, png(figure))


def geometry(lines: Lines) -> Drawing | None:
    """Draw how near two views lie and how evenly embeddings cover the sphere; None before the first
    look."""
    looks = _looks(lines)
    if not looks:
        return None
    last = looks[-1]
    finding = (
        f"Alignment {last['health_alignment']:.2f}, uniformity {last['health_uniformity']:.2f} at"
        " the last look"
    )
    with figure_of(finding, panels=2) as (figure, (upper, lower)):
        _curve(upper, looks, "health_alignment", COLOURS[0])
        upper.set(
            ylabel="alignment\n(0: views coincide)",
            ylim=(0, 1.15 * _highest(looks, "health_alignment", 0.1)),
        )
        _curve(lower, looks, "health_uniformity", COLOURS[1])
        lower.set(ylabel="uniformity\n(lower: more even)")
    return Drawing("geometry.png", finding, png(figure))


def information(lines: Lines) -> Drawing | None:
    """Draw the mutual information of two views that InfoNCE certifies; None for other
    objectives."""
    if "info_nce_bound" not in lines[-1]:
        return None
    finding = f"Two views share at least {lines[-1]['info_nce_bound']:.2f} nats, by InfoNCE's bound"
    with figure_of(finding, panels=1, size=WIDE) as (figure, (axes,)):
        _curve(
            axes, [line for line in lines if "info_nce_bound" in line], "info_nce_bound", COLOURS[0]
        )
        axes.set_ylabel("mutual information\nat least (nats)")
    return Drawing("information.png", finding, png(figure))


def patches(lines: Lines) -> Drawing | None:
    """Draw what the looks saw of patch tokens; None for methods that do not train them by
    themselves."""
    looks = [look for look in _looks(lines) if "health_patch_variation" in look]
    if not looks:
        return None
    last = looks[-1]
    finding = (
        f"{last['health_patch_variation']:.1%} of the patch tokens tells images apart at the last"
        f" look, in {last['health_patch_rankme']:.0f} dimensions"
    )
    with figure_of(finding, panels=3) as (figure, panels):
        for axes, name, label, least in (
            (panels[0], "variation", "variation over\nimages (share)", 0.01),
            (panels[1], "rankme", "effective rank\n(RankMe)", 1),
            (panels[2], "locality", "likeness of neighbours\nbeyond any two", 0.01),
        ):
            _curve(axes, looks, f"health_patch_{name}", COLOURS[0])
            axes.set(
                ylabel=label, ylim=(None, 1.15 * _highest(looks, f"health_patch_{name}", least))
            )
    return Drawing("patches.png", finding, png(figure))


def _looks(lines: Lines) -> Lines:
    """Return the lines that carry a look, at the step at which it was taken."""
    return [{**line, "step": line["health_step"]} for line in lines if "health_rankme" in line]


def throughput(lines: Lines) -> Drawing:
    """Draw images per second and the share of time spent waiting for data."""
    rate, wait = (
        median(line[name] for line in lines) for name in ("images_per_s", "wait_fraction")
    )
    finding = f"{rate:,.0f} images/s at the median, {wait:.1%} of the time spent waiting for data"
    with figure_of(finding, panels=2) as (figure, (upper, lower)):
        _curve(upper, lines, "images_per_s", COLOURS[0])
        upper.set(ylabel="images / s", ylim=(0, 1.15 * _highest(lines, "images_per_s", 1)))
        shares = [{**line, "wait": 100 * line["wait_fraction"]} for line in lines]
        _curve(lower, shares, "wait", COLOURS[1])
        lower.set(
            ylabel="waiting for data\n(% of time)", ylim=(0, 1.15 * _highest(shares, "wait", 9))
        )
    return Drawing("throughput.png", finding, png(figure))


def stages(lines: Lines) -> Drawing | None:
    """Draw where an image's time goes in data tasks and in training workers; None where the log
    does not say."""
    means = stage_means(lines)
    finding = bottleneck(lines)
    if finding is None:
        return None
    finding = finding.partition(": ")[0].capitalize()
    with figure_of(finding, panels=1, size=WIDE, steps=False) as (figure, (axes,)):
        for row, names in ((1, STAGES[:3]), (0, STAGES[3:])):
            left = 0.0
            for name in names:
                axes.barh(
                    row,
                    means[name],
                    left=left,
                    color=STAGE_COLOURS[STAGES.index(name)],
                    label=name,
                    height=0.55,
                )
                left += means[name]
        axes.set_yticks((0, 1), ("a training\nworker", "a data task"))
        axes.grid(axis="y", visible=False)
        axes.legend(
            ncols=len(STAGES), loc="upper center", bbox_to_anchor=(0.5, 1.16), frameon=False
        )
    return Drawing("stages.png", finding, png(figure))


def _moved(first: float, last: float) -> str:
    if abs(last - first) < 0.005 * abs(first):
        return "hardly moved,"
    return "fell" if last < first else "rose"


def _short(value: float) -> str:
    """Format three significant digits, 4.90 rather than 4.9."""
    return f"{value:#.3g}".removesuffix(".")


def _highest(lines: Lines, name: str, least: float) -> float:
    """Return the top of an axis; a value that is no number has no place on it."""
    return max([least, *(float(line[name]) for line in lines if math.isfinite(line[name]))])


@contextmanager
def _styled(finding: str, size: tuple[float, float]) -> Iterator[Figure]:
    with matplotlib.rc_context(STYLE):  # type: ignore[arg-type]
        figure = Figure(figsize=size, layout="constrained")
        figure.suptitle(finding, x=0.015, ha="left", fontsize=11.5, fontweight="bold", color=INK)
        figure.get_layout_engine().set(w_pad=0.12, h_pad=0.1)  # type: ignore[union-attr,call-arg]
        yield figure


@contextmanager
def open_figure(finding: str, *, size: tuple[float, float]) -> Iterator[tuple[Figure, Axes]]:
    """Open a figure in the report's style with one panel, whose axes the block names."""
    with _styled(finding, size) as figure:
        yield figure, figure.subplots()


@contextmanager
def figure_of(
    finding: str,
    *,
    panels: int,
    size: tuple[float, float] = HALF,
    steps: bool = True,
    across: str | None = None,
) -> Iterator[tuple[Figure, list[Axes]]]:
    """Open a figure in the report's style with panels one below the other, and finish it at the end
    of the block.

    Args:
        finding: Its title.
        panels: How many.
        size: Inches.
        steps: Whether whole numbers are counted across, else milliseconds.
        across: What is counted; None: optimiser steps.
    """
    with _styled(finding, size) as figure:
        axes = list(figure.subplots(panels, 1, sharex=True, squeeze=False)[:, 0])
        yield figure, axes
        axes[-1].set_xlabel(across or ("optimiser step" if steps else "milliseconds an image"))
        axes[-1].xaxis.set_major_locator(MaxNLocator(nbins=8, integer=steps, steps=[1, 2, 5, 10]))
        figure.align_ylabels(axes)


def _curve(axes: Axes, lines: Lines, name: str, colour: str) -> None:
    few = len(lines) <= 30
    steps = [line["step"] for line in lines]
    values = [line[name] for line in lines]
    axes.plot(
        steps,
        values,
        color=colour,
        marker="o" if few else None,
        markersize=4,
        clip_on=False,
        zorder=3,
    )
    axes.margins(x=0.02)


def _note() -> dict[str, Any]:
    return {"ha": "right", "va": "bottom", "fontsize": 9, "color": PALE}


def png(figure: Figure) -> bytes:
    """Encode a figure as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
