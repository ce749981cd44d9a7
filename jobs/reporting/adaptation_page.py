"""What an adaptation leaves: its result as JSON, a drawn page, and a copy of the result in the run
whose artifact was judged, for the run's report."""

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from jobs.reporting import adaptation_figures as figures
from jobs.reporting import page as html
from jobs.reporting.figures import Drawing
from jobs.reporting.page import Html
from jobs.setup import registered
from models.json_values import finite
from models.scores import measure_of
from pipelines.storage import uris

RESULT = "adaptation.json"
PAGE = "index.html"
PROBES = "probes"  # in a run
_HALF_PX = 536
_WIDE_PX = 1096


def leave(
    out: str,
    result: Mapping[str, Any],
    *,
    artifact: str,
    digest: str,
    shown: Sequence[Drawing] = (),
) -> None:
    """Write result and page, and tell the run of the artifact.

    Args:
        out: The adaptation's folder.
        result: What `--json` prints.
        artifact: What was judged or adapted: an artifact, or a run.
        digest: Of that artifact.
        shown: Pictures of samples.
    """
    told = json.dumps(finite(dict(result)), indent=1).encode()
    uris.write_bytes(uris.join(out, RESULT), told)
    uris.write_bytes(uris.join(out, PAGE), page_of(result, out, shown))
    run = _run_of(artifact)
    if run is None:
        return
    own = {"artifact_digest": digest, "adapted_digest": result["artifact_digest"], "out": out}
    name = f"{result['probe']}-{hashlib.sha256(out.encode()).hexdigest()[:8]}.json"
    try:
        copy = json.dumps(finite({**result, **own}), indent=1).encode()
        uris.write_bytes(uris.join(run, PROBES, name), copy)
    except OSError as error:
        print(f"the report of {run} will lack this adaptation: {error}", file=sys.stderr)


def _run_of(artifact: str) -> str | None:
    """Return the run that an artifact belongs to; None where it stands alone."""
    for place in (artifact, registered.run_around(artifact)):
        if uris.exists(uris.join(place, "config.yaml")):
            return place
    return None


def page_of(result: Mapping[str, Any], out: str, shown: Sequence[Drawing] = ()) -> bytes:
    """Draw the page of a result."""
    title = f"{result['probe']}: {figures.words_of(result)} {result[measure_of(result)]:.1%}"
    body = [
        html.header(title, out, _badge(result), done=True),
        html.tiles(_tiles(result)),
        html.section("Beside what it is compared with", *scores([result])),
    ]
    if curve := figures.few_labels(result):
        body.append(html.section("With few labels", html.pictures(curve, width=_WIDE_PX)))
    drawn = [one for one in (figures.confusion(result), figures.calibration(result)) if one]
    by_class = figures.per_class(result)
    parts = [html.pictures(by_class, width=_WIDE_PX)] if by_class else []
    parts += [html.pictures(*drawn, width=_HALF_PX)] if drawn else []
    if "image_to_text" in result:
        body.append(html.section("Found among the first", _recall(result)))
    if parts:
        by = "Video by video" if "per_sequence" in result else "Class by class"
        body.append(html.section(by, *parts))
    if shown:
        what = "Videos" if "num_sequences" in result else "Samples"
        body.append(html.section(what, *(html.pictures(one) for one in shown)))
    if sweep := _sweep(result):
        body.append(html.section("Settings tried on validation", *sweep))
    body.append(html.section("What was judged", *_account(result)))
    return html.page(f"Adaptation: {out}", body)


def _badge(result: Mapping[str, Any]) -> str:
    if "num_sequences" in result:
        return f"{result['num_sequences']} videos"
    if "num_captions" in result:
        return f"{result['num_captions']:,} captions"
    if "num_pairs" in result:
        return f"{result['num_pairs']} pairs"
    return f"{result['num_classes']} classes"


def _tiles(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    measure = measure_of(result)
    tiles = [(f"{result[measure]:.1%}", figures.words_of(result))]
    counts = {
        "num_train": "training samples",
        "num_test": "test samples",
        "num_captions": "their captions",
        "num_sequences": "videos",
        "num_judged": "judged frames",
    }
    tiles += [(f"{result[key]:,}", name) for key, name in counts.items() if key in result]
    parameters = result.get("parameters", {})
    tiles += [(f"{number:,}", f"values {name}") for name, number in parameters.items()]
    return tiles


def scores(results: Sequence[Mapping[str, Any]]) -> list[Html]:
    """Make the table of scores with intervals, of each result every kind that it compares."""
    rows = list[tuple[Any, ...]]()
    strong = list[int]()
    for result in results:
        measure = measure_of(result)
        for prefix, kind in figures.KINDS.items():
            score = result.get(f"{prefix}{measure}")
            if not isinstance(score, float | int):
                continue
            strong += [len(rows)] if not prefix else []
            name = result.get("baseline", kind) if prefix == "untrained_" else kind
            what = f"{result['probe']} {figures.words_of(result)}"
            given = result.get(f"{prefix}ci95")
            limits = ("", Html(""))
            if given:
                low, high = given
                limits = (f"{low:.1%} to {high:.1%}", html.interval(score, low, high))
            videos = f"{result['num_sequences']} videos" if "num_sequences" in result else ""
            counts = (result.get("num_train", ""), result.get("num_test", videos))
            rows.append((what, name, f"{score:.1%}", *limits, *counts))
    headings = ("probe", "features", "score", "95 % interval", "0 to 100 %")
    parts = [html.table((*headings, "train images", "test images"), rows, strong=strong)]
    for result in results:
        if "difference" in result:
            low, high = result["difference_ci95"]
            parts.append(
                html.paragraph(
                    f"Ahead of the compared encoder by {result['difference']:+.1%}"
                    f" ({low:+.1%} to {high:+.1%}), on the same test samples."
                )
            )
    groups = {result.get("num_test_groups") for result in results} - {None}
    whole = ", whole groups of them where they have groups" if groups else ""
    drawn = {"videos" if "num_sequences" in result else "test images" for result in results}
    note = f"Intervals by bootstrap over the {' or '.join(sorted(drawn))}{whole}."
    return [*parts, html.paragraph(note, pale=True)]


_WAYS = {"image_to_text": "an image's captions", "text_to_image": "a caption's image"}


def _recall(result: Mapping[str, Any]) -> Html:
    """Make the table of recalls between images and captions, a row a kind of features."""
    lengths = list(result["image_to_text"]["recall_at"])
    rows = []
    for prefix, kind in figures.KINDS.items():
        ways = [result[f"{prefix}{way}"] for way in _WAYS if f"{prefix}{way}" in result]
        if not ways:
            continue
        name = result.get("baseline", kind) if prefix == "untrained_" else kind
        rows.append((name, *(_share_at(way, k) for way in ways for k in lengths)))
    headings = [f"{words} @{k}" for words in _WAYS.values() for k in lengths]
    return html.table(("features", *headings), rows, strong=[0])


def _share_at(way: Mapping[str, Any], k: str) -> str:
    share = f"{way['recall_at'][k]:.1%}"
    if "ci95" not in way:
        return share
    low, high = way["ci95"][k]
    return f"{share} ({low:.1%} to {high:.1%})"


def _sweep(result: Mapping[str, Any]) -> list[Html]:
    """Make the table of the settings that were tried; nothing where there was one."""
    settings = result.get("settings")
    if not isinstance(settings, list) or len(settings) < 2:
        return []
    names = list(dict.fromkeys(name for one in settings for name in one))
    rows = [[_value(one.get(name)) for name in names] for one in settings]
    chosen = result.get("chosen", {})
    strong = [i for i, one in enumerate(settings) if chosen and chosen.items() <= one.items()]
    own = ", ".join(f"{name.replace('_', ' ')} {_value(value)}" for name, value in chosen.items())
    note = f"Chosen: {own}, the first of the best on validation."
    table = html.table([name.replace("_", " ") for name in names], rows, strong=strong)
    return [table, html.paragraph(note, pale=True)]


def _value(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _account(result: Mapping[str, Any]) -> list[Html]:
    classes = [str(name) for name in result.get("classes", [])]
    unreadable = result.get("unreadable", {})
    rows = [
        ("classes", ", ".join(classes)),
        ("unreadable", _counts(unreadable)),
        ("left out", "; ".join(f"{k}: {_counts(v)}" for k, v in _given(result, "left_out"))),
    ]
    if not {"num_sequences", "num_pairs"} & result.keys():
        rows.append(("test images among those of training", str(result.get("duplicates", 0))))
    rows.append(("artifact", f"{result.get('artifact', '')} {result['artifact_digest']}"))
    everything = json.dumps(finite(dict(result)), indent=1)
    return [html.table(("", ""), rows), html.listing("Everything, as JSON", everything)]


def _given(result: Mapping[str, Any], name: str) -> list[tuple[str, Mapping[str, int]]]:
    return [(split, counts) for split, counts in result.get(name, {}).items() if counts]


def _counts(counts: Mapping[str, int]) -> str:
    said = [f"{number} {name}" for name, number in counts.items() if number]
    return ", ".join(said) or "none"
