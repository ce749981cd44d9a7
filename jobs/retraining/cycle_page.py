"""The page of a cycle: what changed in the data, how the new encoder did, what came of it, and what
it cost."""

from collections.abc import Sequence
from typing import Any

from jobs.reporting import contact_sheet, page
from jobs.reporting.contact_sheet import grid
from jobs.reporting.figures import Drawing
from jobs.reporting.page import Html
from jobs.retraining.cycle import Cycle, Told
from jobs.searching import answer_sheet
from jobs.searching.sample_rows import Sample
from pipelines import schema
from pipelines.corpus.manifest import Manifest
from pipelines.registry.registered_model import RegisteredModel
from pipelines.storage import uris

NAME = "index.html"


def write(cycle: Cycle, manifest: Manifest, model: RegisteredModel) -> Told:
    """Write the page of a cycle that has ended; returns its place."""
    uris.write_bytes(cycle.path(NAME), _drawn(cycle, manifest, model))
    return {"page": cycle.path(NAME)}


def _drawn(cycle: Cycle, manifest: Manifest, model: RegisteredModel) -> bytes:
    title = f"{model.name}, slot {cycle.slot}: {cycle.decision}"
    lead = "; ".join(cycle.why)
    body = [page.header(title, lead, str(cycle.decision), done=cycle.decision == "promoted")]
    body.append(page.tiles(_tiles(cycle)))
    body.append(_data(cycle.steps["index"], cycle.steps["decide"], manifest))
    if "gate" in cycle.steps:
        body += _gate(cycle.steps["gate"])
    body.append(_lineage(cycle, model))
    body.append(_cost(cycle))
    return page.page(title, body)


def _tiles(cycle: Cycle) -> list[tuple[str, str]]:
    index = cycle.steps["index"]
    tiles = [
        (f"{index['rows']:,}", "samples in the corpus"),
        (f"{index['new']:,}", "new to the champion"),
        (f"{index['gone']:,}", "gone since"),
    ]
    if "train" in cycle.steps:
        tiles.append((f"{cycle.steps['train']['samples']:,}", "trained on, old and new"))
    if (moved := cycle.steps.get("promote")) is not None:
        tiles.append((str(moved["version"]), "version registered"))
        tiles.append((str(moved["in_use"] or "none"), "version in use now"))
    return tiles


def _data(index: Told, decided: Told, manifest: Manifest) -> Html:
    """Show what changed in the corpus."""
    content = [page.paragraph(decided["why"])]
    if "distance" in decided:
        grown = decided["grown"]
        rows = [
            ["distance of new from old samples (MMD)", f"{decided['distance']:.3f}"],
            ["chance of such a distance between equals (p)", f"{decided['p_value']:.3f}"],
            ["share of the corpus that changes its cluster", f"{decided['shift']:.1%}"],
            ["the cluster that grows most", f"{grown[0]:.1%} to {grown[1]:.1%}"],
            ["new samples that cannot be used", f"{decided['bad_fraction']:.1%}"],
        ]
        content.append(page.table(["by the champion's embeddings", ""], rows))
    for cluster in decided.get("clusters", ()):
        content += _cluster(cluster, manifest)
    left = index["left_out"]
    if left:
        content.append(page.table(["left out of the listing", ""], sorted(left.items())))
    return page.section("What changed in the data", *content)


def _cluster(cluster: dict[str, Any], manifest: Manifest) -> list[Html]:
    """Show new samples of a cluster that holds many of them."""
    samples = [
        Sample(row[schema.URI], row[schema.MEMBER], row[schema.CLIP]) for row in cluster["shown"]
    ]
    if not samples:
        return []
    seen = answer_sheet.read_pictures(samples, manifest, max(1, manifest.per_video))
    sheet = grid([answer_sheet.cells(samples, [""] * len(samples), seen)])
    said = f"New samples of a cluster of which {cluster['new']:,} of {cluster['samples']:,} are new"
    drawing = Drawing("cluster.jpg", said, contact_sheet.to_jpeg(sheet))
    return [page.paragraph(f"{said}:"), page.pictures(drawing)]


def _gate(judged: Told) -> list[Html]:
    rows: list[Sequence[Any]] = []
    for figure in judged["figures"]:
        interval = figure["ci95"]
        change = figure["change"]
        rows.append(
            [
                figure["name"],
                _number(figure["champion"]),
                _number(figure["value"]),
                "" if change is None else f"{change:+.1%} [{interval[0]:+.1%}, {interval[1]:+.1%}]",
                figure["rule"] or "told only",
                ("holds" if figure["passed"] else "does not hold") if figure["rule"] else "",
            ]
        )
    headings = ["figure", "champion", "new", "change", "rule", ""]
    failed = [index for index, figure in enumerate(judged["figures"]) if not figure["passed"]]
    sections = [page.section("The gate", page.table(headings, rows, strong=failed))]
    probe = judged["probe"]
    if probe is not None and "compared_per_class" in probe:
        sections.append(page.section("By class", _classes(probe)))
    return sections


def _classes(probe: dict[str, Any]) -> Html:
    rows = [
        [name, _number(probe["compared_per_class"].get(name)), _number(value)]
        for name, value in probe["per_class"].items()
    ]
    return page.table(["class", "champion", "new"], rows)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _lineage(cycle: Cycle, model: RegisteredModel) -> Html:
    index = cycle.steps["index"]
    trained = cycle.steps.get("train", {})
    rows = [
        ["manifest", f"{index['manifest']}, version {index['version']}"],
        ["champion before", _version(model, index["champion"])],
        ["it was trained on", "-" if index["since"] is None else f"version {index['since']}"],
    ]
    if trained:
        rows.append(["started from", trained["started_from"] or "random or the recipe's weights"])
        if index["since"] is not None:
            rows.append(["share of the old samples", f"{trained['replayed']:.1%}"])
        rows.append(["artifact", trained["artifact"] or f"none: {trained['failure']}"])
    if (moved := cycle.steps.get("promote")) is not None:
        rows.append(["registered as", _version(model, moved["version"])])
    if (exported := cycle.steps.get("export")) is not None:
        said = f"{exported['samples']:,} samples embedded, {exported['gone']:,} dropped"
        rows.append([f"embeddings of version {exported['by_version']}", exported["embeddings"]])
        rows.append(["written in this cycle", said])
    return page.section("Lineage", page.table(["", ""], rows))


def _version(model: RegisteredModel, number: int | None) -> str:
    return "none" if number is None else f"{model.uri}@{number}"


def _cost(cycle: Cycle) -> Html:
    rows = [[name, f"{told['seconds']:.1f}"] for name, told in cycle.steps.items()]
    rows.append(["all", f"{sum(told['seconds'] for told in cycle.steps.values()):.1f}"])
    trained = cycle.steps.get("train", {})
    seen = trained.get("samples_seen", 0)
    said = f"{seen:,} samples were shown in {trained.get('num_steps', 0):,} optimiser steps."
    return page.section(
        "Cost",
        page.paragraph(said if seen else "Nothing was trained."),
        page.table(["step", "seconds"], rows, strong=[len(rows) - 1]),
        page.paragraph(
            "Of a step that was interrupted, the seconds of the command that finished it.",
            pale=True,
        ),
    )
