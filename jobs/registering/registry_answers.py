"""What `jobs.registry` says: lines for people, one object for `--json`."""

from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.registry.model_versions import Version
from pipelines.registry.moves import Move
from pipelines.registry.registered_model import RegisteredModel
from pipelines.registry.standing import Standing

_SHOWN_FIGURES = ("loss", "rankme", "health_rankme", "feature_std")


def of_names(registry: str, names: Sequence[str]) -> dict[str, Any]:
    """Answer with the names in a registry."""
    lines = "\n".join(names) or f"{registry} holds no model yet"
    return {"registry": registry, "names": list(names), "result": lines}


def of_versions(
    model: RegisteredModel, versions: Sequence[Version], standings: Mapping[str, Standing]
) -> dict[str, Any]:
    """Answer with the versions of a model, and which aliases stand where."""
    rows = [("version", "digest", "registered", "steps", "aliases")]
    for version in versions:
        named = [alias for alias, found in standings.items() if found.version == version.number]
        steps = version.lineage.get("num_steps")
        row = (
            str(version.number),
            version.digest[:12],
            version.registered.time,
            "-" if steps is None else str(steps),
            ", ".join(sorted(named)) or "-",
        )
        rows.append(row)
    return {
        "registry": model.registry,
        "name": model.name,
        "aliases": {alias: found.version for alias, found in standings.items()},
        "versions": [version.as_dict() for version in versions],
        "result": _table(rows),
    }


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def of_place(version: Version) -> dict[str, Any]:
    """Answer with the place of a version's artifact."""
    return {
        "name": version.model.name,
        "version": version.number,
        "artifact_digest": version.digest,
        "artifact": version.artifact,
        "result": version.artifact,
    }


def of_version(version: Version, history: Sequence[Move], alias: str | None) -> dict[str, Any]:
    """Answer with a version, its metrics, its lineage and its history.

    Args:
        version: The version.
        history: All moves of the model.
        alias: By which it was asked for: its moves are shown, else those that touch the version.
    """
    touching = [
        move
        for move in history
        if (move.alias == alias if alias else version.number in (move.before, move.after))
    ]
    standings = history[-1].aliases if history else {}
    named = sorted(name for name, found in standings.items() if found.version == version.number)
    rows = [
        ("artifact", version.artifact),
        ("digest", version.digest),
        ("registered", str(version.registered)),
        ("aliases", ", ".join(named) or "-"),
        *_lineage(version.lineage),
        *_metrics(version.metrics),
        *((f"entry {move.number}", _line(move)) for move in touching),
    ]
    return {
        "name": version.model.name,
        **version.as_dict(),
        "artifact": version.artifact,
        "aliases": named,
        "history": [move.as_dict() for move in touching],
        "result": f"{version.model.name} version {version.number}\n{_table(rows)}",
    }


def _lineage(lineage: Mapping[str, Any]) -> list[tuple[str, str]]:
    versions = ", ".join(map(str, lineage.get("manifest_versions", []))) or "-"
    parent = lineage.get("parent") or {}
    packages = lineage.get("packages") or {}
    code = [f"{name} {packages[name]}" for name in ("afield", "torch") if name in packages]
    if commit := lineage.get("commit"):
        code.insert(0, f"commit {commit}")
    return [
        ("source", f"{lineage.get('source') or '-'}, manifest versions {versions}"),
        ("run", f"{lineage.get('run') or '-'}, {lineage.get('num_steps') or '-'} steps"),
        ("parent", str(parent.get("registered") or parent.get("artifact") or "-")),
        ("code", ", ".join(code) or "-"),
    ]


def _metrics(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    training = metrics.get("training", {})
    figures = [
        f"{name} {training[name]:.4g}"
        for name in _SHOWN_FIGURES
        if isinstance(training.get(name), float | int)
    ]
    rows = [("training", ", ".join(figures) or "-")]
    for score in metrics.get("probes", []):
        interval = score["interval"]
        spread = f" [{interval[0]:.4f}, {interval[1]:.4f}]" if interval else ""
        beside = "".join(f", {name} {value:.4f}" for name, value in score["baselines"].items())
        rows.append((score["probe"], f"{score['words']} {score['value']:.4f}{spread}{beside}"))
    return rows


def _line(move: Move) -> str:
    before = "nowhere" if move.before is None else move.before
    return f"{move.alias} from {before} to {move.after}, {move}"


def told(model: RegisteredModel, alias: str, moved: Move | None, version: int | None) -> str:
    """Say in one line where an alias went."""
    if moved is None:
        return f"alias {alias} of {model.name} stands at version {version} already: nothing moved"
    return f"{model.name}: {_line(moved)} (entry {moved.number})"
