"""The page of all cycles: what each decided and why, and how the encoder in use got on."""

from collections.abc import Sequence

from jobs.reporting import page
from jobs.reporting.figures import COLOURS, Drawing, figure_of, png
from jobs.reporting.page import Html
from jobs.retraining.cycle import Cycle, all_of, order_of
from pipelines.registry import moves
from pipelines.registry.registered_model import RegisteredModel
from pipelines.storage import uris

NAME = "index.html"
_WIDE = (11.0, 3.6)  # inches
_MOST_SHOWN = 200  # cycles


def write(out: str, model: RegisteredModel, alias: str, ending: Cycle) -> str:
    """Write the page of all cycles that have ended, and of one that is about to; returns its
    place."""
    found = [cycle for cycle in all_of(out) if cycle.decision is not None]
    others = [cycle for cycle in found if cycle.slot != ending.slot]
    ended = sorted([*others, ending], key=lambda cycle: order_of(cycle.slot))
    place = uris.join(out, NAME)
    uris.write_bytes(place, _drawn(ended[-_MOST_SHOWN:], model, alias))
    return place


def _drawn(ended: Sequence[Cycle], model: RegisteredModel, alias: str) -> bytes:
    standing = moves.standings_of(model).get(alias)
    now = f"{alias} is version {standing.version}" if standing else f"there is no {alias} yet"
    title = f"Retraining of {model.name}"
    body = [page.header(title, f"{len(ended):,} cycles; {now}", model.uri, done=True)]
    curve = _curve(ended)
    if curve is not None:
        body.append(page.section("The gate over the cycles", page.pictures(curve)))
    body.append(page.section("Cycles, the newest first", _table(ended)))
    body.append(page.section("Moves of aliases, the newest first", _moves(model)))
    return page.page(title, body)


def _table(ended: Sequence[Cycle]) -> Html:
    rows = []
    for cycle in reversed(ended):
        index = cycle.steps["index"]
        moved = cycle.steps.get("promote", {})
        embedded = cycle.steps.get("export", {}).get("samples")
        rows.append(
            [
                cycle.slot,
                str(cycle.decision),
                f"{index['rows']:,}",
                f"{index['new']:,}",
                str(moved.get("version") or "-"),
                str(moved.get("in_use") or index["champion"] or "-"),
                "-" if embedded is None else f"{embedded:,}",
                f"{sum(told['seconds'] for told in cycle.steps.values()) / 60:.1f}",
                "; ".join(cycle.why),
            ]
        )
    headings = ["slot", "decision", "samples", "new", "made", "in use", "embedded", "min", "why"]
    return page.table(headings, rows)


def _curve(ended: Sequence[Cycle]) -> Drawing | None:
    """Draw the share of right answers that the gate went by, of each new encoder and of the
    champion on the same samples."""
    judged = [(cycle.slot, main) for cycle in ended if (main := _main(cycle)) is not None]
    if not judged:
        return None
    slots = [slot for slot, _ in judged]
    finding = f"{judged[-1][1]['name']}: {judged[-1][1]['value']:.1%} in slot {slots[-1]}"
    with figure_of(finding, panels=1, size=_WIDE, across="slot") as (figure, (axes,)):
        place = range(len(slots))
        new = [main["value"] for _, main in judged]
        before = [main["champion"] for _, main in judged]
        axes.plot(place, new, "o-", color=COLOURS[0], label="new encoder")
        known = [(x, value) for x, value in zip(place, before, strict=True) if value is not None]
        if known:
            axes.plot(*zip(*known, strict=True), "s", color=COLOURS[1], label="champion")
        axes.set(ylabel="share right", ylim=(0, 1))
        axes.set_xticks(list(place), slots, rotation=30, ha="right")
        axes.legend(frameon=False)
    return Drawing("gate.png", finding, png(figure))


def _main(cycle: Cycle) -> dict[str, float] | None:
    """Return the figure that the gate went by: the probe, where there are labels."""
    figures = cycle.steps.get("gate", {}).get("figures", [])
    shares = [each for each in figures if not each["name"].startswith("slice ")]
    probes = [each for each in shares if "labelled" in each["name"]]
    recognised = [each for each in shares if "recognised" in each["name"]]
    return next(iter(probes + recognised), None)


def _moves(model: RegisteredModel) -> Html:
    rows = [
        [
            str(move.number),
            move.action,
            move.alias,
            "-" if move.before is None else str(move.before),
            str(move.after),
            f"{move.by.user} on {move.by.host}, {move.by.time}",
            move.reason,
        ]
        for move in reversed(moves.history(model)[-_MOST_SHOWN:])
    ]
    return page.table(["", "what", "alias", "from", "to", "by", "why"], rows)
