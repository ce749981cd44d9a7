"""The page of a curation: what went and why, beside what stays for it, and clusters before and
after."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs.reporting import contact_sheet, page
from jobs.reporting.contact_sheet import Cell, grid
from jobs.reporting.figures import COLOURS, Drawing, figure_of, png
from jobs.reporting.page import Html
from jobs.searching import answer_sheet
from jobs.searching.sample_rows import Sample
from pipelines import schema
from pipelines.corpus.manifest import Manifest
from pipelines.curation.caption_fit import CaptionFit
from pipelines.curation.decisions import BALANCE, MISFIT, OUTLIER, Decisions
from pipelines.curation.duplicates import EXACT, NEAR

NUM_PAIRS = 20  # drawn of each kind of duplicate
NUM_SINGLE = 18  # drawn of each other reason
PER_LINE = 9
BLOCKS = 4  # of pairs, side by side
WIDE = (13.0, 4.0)  # inches
REASONS = {
    EXACT: "The same bytes as a sample that stays.",
    NEAR: (
        "The same picture as one that stays: encoded anew, resized, mirrored, or cut at its sides."
    ),
    OUTLIER: "Far from the centre of every cluster.",
    MISFIT: "What its captions say is unlike the picture, by the artifact's text tower.",
    BALANCE: "Beyond what is taken of its cluster; chosen by chance.",
}


@dataclass(frozen=True)
class _Row:
    sample: Sample
    kept: int | None
    cosine: float | None


def draw(
    made: Manifest,
    before: Manifest,
    decisions: Decisions,
    asked: dict[str, Any],
    told: dict[str, Any],
    fit: CaptionFit | None = None,
) -> bytes:
    """Make the page.

    Args:
        made: The new version.
        before: The one before.
        decisions: Of every sample, all read.
        asked: The settings.
        told: What was measured.
        fit: How captions were compared; None: they were not.
    """
    reasons: dict[str, int] = told["taken_out"]
    rows = _examples(made)
    kept = _find(made, {row.kept for some in rows.values() for row in some if row.kept is not None})
    gone = sum(reasons.values())
    title = f"Curation of {made.source}: version {made.version}"
    lead = f"{made.num_rows:,} of {told['listed']:,} samples stay, {gone:,} are taken out"
    body = [
        page.header(title, lead, f"manifest {made.uri}", done=True),
        page.tiles(
            [(f"{count:,}", reason) for reason, count in sorted(reasons.items())]
            + [
                (
                    f"{told['evenness_before']:.2f}",
                    "evenness of the top clusters before (1: equal)",
                ),
                (f"{told['evenness_after']:.2f}", "and after"),
                (f"{told['without_embedding']:,}", "without an embedding, left as they were"),
            ]
        ),
    ]
    for reason, explained in REASONS.items():
        if some := rows.get(reason):
            body.append(_section(reason, explained, some, kept, before, fit))
    if fit is not None and decisions.fits.sum():
        body.append(_fits(decisions))
    body.append(_clusters(decisions))
    settings = [[name, str(value)] for name, value in asked.items()]
    body.append(page.section("Settings", page.table(["key", "value"], settings)))
    return page.page(title, body)


def _examples(made: Manifest) -> dict[str, list[_Row]]:
    """Read some samples that went, of each reason the first ones in the manifest's order, which is
    by hash."""
    found: dict[str, list[_Row]] = {reason: [] for reason in REASONS}
    wanted = {one: NUM_PAIRS if one in (EXACT, NEAR) else NUM_SINGLE for one in REASONS}
    for table in made.read_taken_out():
        for reason, rows in found.items():
            some = table.filter(pc.equal(table[schema.REASON], reason))
            for row in some.slice(0, wanted[reason] - len(rows)).to_pylist():
                sample = Sample(row[schema.URI], row[schema.MEMBER], row[schema.CLIP])
                rows.append(_Row(sample, row["kept"], row["cosine"]))
        if all(len(rows) >= wanted[reason] for reason, rows in found.items()):
            break
    return found


def _find(made: Manifest, sample_ids: set[int]) -> dict[int, Sample]:
    """Find samples by their ids: those that stay, or that went for another reason."""
    wanted = np.array(sorted(sample_ids), np.int64)
    found = dict[int, Sample]()
    for tables in (made.places(), made.read_taken_out()):
        for table in tables:
            if len(found) == len(wanted):
                return found
            for index in np.flatnonzero(np.isin(table[schema.SAMPLE_ID].to_numpy(), wanted)):
                row = table.slice(int(index), 1).to_pylist()[0]
                sample = Sample(row[schema.URI], row[schema.MEMBER], row[schema.CLIP])
                found[row[schema.SAMPLE_ID]] = sample
    return found


def _section(
    reason: str,
    explained: str,
    rows: list[_Row],
    kept: dict[int, Sample],
    manifest: Manifest,
    fit: CaptionFit | None,
) -> Html:
    if reason in (EXACT, NEAR):
        sheet = _pairs([row for row in rows if row.kept in kept], kept, manifest)
    else:
        sheet = _singles(rows, manifest)
    drawing = Drawing(f"{reason}.jpg", f"{reason}: {explained}", contact_sheet.to_jpeg(sheet))
    title = f"Taken out: {reason}"
    parts = [page.paragraph(explained), page.pictures(drawing)]
    if reason == MISFIT and fit is not None:
        parts.append(_said(rows, fit))
    return page.section(title, *parts)


def _said(rows: list[_Row], fit: CaptionFit) -> Html:
    """List what the captions of some samples say."""
    places = {
        schema.URI: [row.sample.uri for row in rows],
        schema.MEMBER: pa.array([row.sample.member for row in rows], pa.string()),
    }
    told = fit.told(pa.table(places))
    lines = [
        (row.sample.name, _cosine(row), "; ".join(one) if isinstance(one, tuple) else "")
        for row, one in zip(rows, told, strict=True)
    ]
    return page.table(("sample", "", "captions"), lines)


def _fits(decisions: Decisions) -> Html:
    """Draw how well captions fit."""
    edges = np.linspace(-1, 1, len(decisions.fits) + 1)
    groups = 64  # bins of the log are finer than a picture
    counts = decisions.fits.reshape(groups, -1).sum(1)
    places = edges[:: len(decisions.fits) // groups]
    middle = float(np.interp(0.5, np.cumsum(decisions.fits) / decisions.fits.sum(), edges[1:]))
    finding = f"Half of the samples' captions have a cosine above {middle:.2f} with the picture"
    if decisions.unfit is not None:
        finding += f"; below {decisions.unfit:.2f} they go"
    across = "cosine of picture and captions"
    with figure_of(finding, panels=1, size=WIDE, across=across) as (figure, (axes,)):
        axes.stairs(counts, places, fill=True, color=COLOURS[0])
        if decisions.unfit is not None:
            axes.axvline(decisions.unfit, color=COLOURS[1], linewidth=1.5)
        held = np.flatnonzero(counts)
        axes.set(ylabel="samples", xlim=(places[held[0]], places[held[-1] + 1]))
    drawing = Drawing("captions.png", finding, png(figure))
    return page.section("How well captions fit", page.pictures(drawing))


def _pairs(rows: list[_Row], kept: dict[int, Sample], manifest: Manifest) -> Any:
    gone = _cells([row.sample for row in rows], [_cosine(row) for row in rows], manifest)
    others = [kept[row.kept] for row in rows if row.kept is not None]
    stays = _cells(others, [""] * len(rows), manifest)
    lines = [list(pair) for pair in zip(gone, stays, strict=True)]
    blocks = min(len(lines), BLOCKS)
    return grid(lines, headings=["went", "stays"], blocks=blocks)


def _singles(rows: list[_Row], manifest: Manifest) -> Any:
    cells = _cells([row.sample for row in rows], [_cosine(row) for row in rows], manifest)
    return grid([cells[start : start + PER_LINE] for start in range(0, len(cells), PER_LINE)])


def _cosine(row: _Row) -> str:
    return "" if row.cosine is None else f"cosine {row.cosine:.3f}"


def _cells(samples: Sequence[Sample], captions: Sequence[str], manifest: Manifest) -> list[Cell]:
    seen = answer_sheet.read_pictures(samples, manifest, max(1, manifest.per_video))
    return answer_sheet.cells(samples, captions, seen)


def _clusters(decisions: Decisions) -> Html:
    """Draw how many samples each cluster had and has, the largest first."""
    order = np.argsort(-decisions.before, kind="stable")
    before = decisions.before[order]
    after = decisions.after[order]
    finding = (
        f"The largest of {len(order):,} clusters had {before.max():,} samples, and has"
        f" {after.max():,}; the median {int(np.median(before)):,} and {int(np.median(after)):,}"
    )
    across = "cluster, the largest before first"
    with figure_of(finding, panels=1, size=WIDE, across=across) as (figure, (axes,)):
        place = np.arange(1, len(order) + 1)
        axes.step(place, before, where="mid", color=COLOURS[1], label="before")
        axes.step(place, after, where="mid", color=COLOURS[0], label="after")
        axes.set(ylabel="samples", ylim=(0, None))
        axes.legend(frameon=False)
    drawing = Drawing("clusters.png", finding, png(figure))
    return page.section("Clusters before and after", page.pictures(drawing))
