"""A probe over the checkpoints of a run, beside its effective rank: whether health without labels
would have chosen well."""

import json
import math
from collections.abc import Callable
from typing import Any

from scipy.stats import spearmanr

from jobs.cluster import launch
from jobs.reporting import page
from jobs.reporting.checkpoint_figure import probe_beside_rank
from jobs.setup import run_artifact
from jobs.setup.failures import InputError
from jobs.setup.sections import ClusterConfig
from jobs.training import checkpoints
from jobs.training.run_dir import RunDir, open_run
from models.scores import WORDS, measure_of
from pipelines.storage import uris

FOLDER = "checkpoint-probes"
_RANK = "health_rankme"
_FEWEST = 3  # checkpoints whose order says anything


def probe_checkpoints(
    artifact: str,
    out: str | None,
    cluster: ClusterConfig,
    judge: Callable[[str], dict[str, Any]],
) -> dict[str, Any]:
    """Probe every whole checkpoint of the run that `artifact` names, in one Ray session.

    Args:
        artifact: The run, in an artifact's place.
        out: Where the page, its figures as JSON and the checkpoints' artifacts go; None: into the
            run.
        cluster: What the session takes.
        judge: Probes the artifact at a place.

    Returns:
        `checkpoints` (step, top1, ci95, rankme and rankme_step of each), `untrained_top1` (or by
        the key of what else the probe measures), `rank_correlation` (Spearman's, null below
        three), `best_step`, `healthiest_step`, `page`.

    Raises:
        InputError: there is no run or it has no whole checkpoint.
    """
    uri = launch.user_uri("artifact", artifact)
    launch.check_reachable("artifact", uri)
    run, recipe = open_run(uri)
    kept = list(checkpoints.whole(run.uri))
    if not kept:
        raise InputError(f"artifact {uri} has no whole checkpoint to probe: let the run make one")
    place = run.path(FOLDER) if out is None else launch.absolute_out(out)
    lines = run.join_metrics()
    rows = list[dict[str, Any]]()
    with launch.session(cluster, work="embed", paths=(run.uri, place)):
        for step in kept:
            made = uris.join(place, checkpoints.name_of(step))
            run_artifact.write_from_checkpoint(run, recipe, step, made)
            rows.append({"step": step, **judge(made), **_rank(lines, step)})
    return _told(run, place, rows)


def _rank(lines: list[dict[str, Any]], step: int) -> dict[str, Any]:
    """Return the effective rank of the last look up to a step, and of which step it is."""
    before = [line for line in lines if line["step"] <= step]
    looks = [line for line in before if math.isfinite(line.get(_RANK, math.nan))]
    if not looks:
        return {"rankme": None, "rankme_step": None}
    return {"rankme": looks[-1][_RANK], "rankme_step": looks[-1]["step"]}


def _told(run: RunDir, place: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Write the page and its figures, and return them."""
    measure = measure_of(rows[0])
    names = ("step", measure, "ci95", "rankme", "rankme_step", "artifact_digest")
    ranked = [row for row in rows if row["rankme"] is not None]
    best = max(rows, key=lambda row: row[measure])
    healthiest = max(ranked, key=lambda row: row["rankme"], default=None)
    correlation = rank_correlation(
        [row[measure] for row in ranked], [row["rankme"] for row in ranked]
    )
    told: dict[str, Any] = {
        "probe": rows[0]["probe"],
        "run": run.uri,
        "checkpoints": [{name: row[name] for name in names} for row in rows],
        f"untrained_{measure}": rows[0][f"untrained_{measure}"],
        "baseline": rows[0].get("baseline", "untrained"),
        "rank_correlation": correlation,
        "best_step": best["step"],
        "healthiest_step": None if healthiest is None else healthiest["step"],
    }
    line = finding(told, best, healthiest)
    uris.write_bytes(uris.join(place, "checkpoints.json"), json.dumps(told, indent=2).encode())
    where = uris.join(place, "checkpoints.html")
    uris.write_bytes(where, _page(run, told, line))
    return {**told, "page": where, "result": f"{line}: {where}"}


def rank_correlation(scores: list[float], ranks: list[float]) -> float | None:
    """Return Spearman's correlation; None where there are fewer than three, or all are equal."""
    if len(scores) < _FEWEST or len(set(scores)) < 2 or len(set(ranks)) < 2:
        return None
    return float(spearmanr(scores, ranks).statistic)


def finding(told: dict[str, Any], best: dict[str, Any], healthiest: dict[str, Any] | None) -> str:
    """Say in one line how the checkpoint of the highest rank compares with the best one."""
    measure = measure_of(best)
    line = f"{told['probe']} is best at step {best['step']:,} ({best[measure]:.1%})"
    if healthiest is None:
        return f"{line}; no look at the encoder's rank was logged"
    line += f", RankMe is highest at step {healthiest['step']:,} ({healthiest[measure]:.1%})"
    correlation = told["rank_correlation"]
    of = f"of {len(told['checkpoints'])} checkpoints"
    if correlation is None:
        return f"{line}; too few to correlate, {of}"
    return f"{line}; rank correlation {correlation:.2f} {of}"


def _page(run: RunDir, told: dict[str, Any], line: str) -> bytes:
    rows = told["checkpoints"]
    measure = measure_of(rows[0])
    untrained = told[f"untrained_{measure}"]
    name = f"{told['probe']} {WORDS[measure]}"
    headings = ["step", name, "95 % interval", "RankMe", "looked at"]
    cells = [
        [
            row["step"],
            f"{row[measure]:.1%}",
            f"{row['ci95'][0]:.1%} to {row['ci95'][1]:.1%}",
            "not logged" if row["rankme"] is None else f"{row['rankme']:.1f}",
            "" if row["rankme_step"] is None else f"step {row['rankme_step']:,}",
        ]
        for row in rows
    ]
    baseline = f"{told['baseline']}: {untrained:.1%}"
    strong = [index for index, row in enumerate(rows) if row["step"] == told["best_step"]]
    body = [
        page.header("Checkpoints", run.uri, f"{len(rows)} probed", done=True),
        page.section(
            "Probe beside effective rank",
            page.paragraph(f"{line}. {baseline}."),
            page.pictures(probe_beside_rank(rows, measure, untrained, line)),
            page.table(headings, cells, strong=strong),
        ),
    ]
    return page.page(f"Checkpoints of {run.uri}", body)
