"""The checkpoints of a run, and which of them Ray Train restores.

checkpoints/step-000000120/state.pt                  method, optimiser and step
checkpoints/step-000000120/contents.json             the ledger of what they have seen, and the size of state.pt
checkpoints/checkpoint_manager_snapshot.json         Ray Train's own: which checkpoints are committed

The snapshot's format is private to Ray. This file alone knows it, and tests hold it against real runs.
"""

import json
import sys
from pathlib import Path
from typing import Any

import ray
import torch

from pipelines.storage import uris
from pipelines.stream.ledger import Ledger

FOLDER = "checkpoints"
STATE = "state.pt"
_CONTENTS = "contents.json"
_SNAPSHOT = "checkpoint_manager_snapshot.json"
_PREFIX = "step-"


def name_of(step: int) -> str:
    """Directory name of the checkpoint after an optimiser step."""
    return f"{_PREFIX}{step:09d}"


def step_of(name: str) -> int:
    """Optimiser step of a checkpoint's directory name."""
    return int(name.removeprefix(_PREFIX))


def write(folder: str, state: dict[str, Any], ledger: Ledger) -> None:
    """Write a checkpoint into a local folder, from which Ray Train uploads it."""
    path = Path(folder)
    torch.save(state, path / STATE)
    contents = {"ledger": ledger.as_dict(), "bytes": (path / STATE).stat().st_size}
    (path / _CONTENTS).write_text(json.dumps(contents))


def committed(folder: str) -> str | None:
    """Name of the checkpoint that Ray Train would restore; None where there is none.

    Train writes its snapshot at each commit and reads it at start, so what it does not name is an orphan: a checkpoint
    that was uploaded and never committed.
    """
    snapshot = _snapshot(folder)
    latest = snapshot.get("latest_checkpoint_result") if snapshot else None
    return str(latest["checkpoint_dir_name"]) if latest else None


def ledger(folder: str) -> Ledger:
    """What the weights of the committed checkpoint have seen; nothing where there is none."""
    name = committed(folder)
    if name is None:
        return Ledger(0, ())
    return Ledger.from_dict(
        json.loads(uris.read_bytes(uris.join(folder, name, _CONTENTS)))["ledger"]
    )


def mend(folder: str) -> None:
    """Make Ray Train restore the newest whole checkpoint where the one it would restore is torn.

    A machine that dies while it writes can leave a snapshot cut in two, or one that names a checkpoint whose files did
    not all arrive. Train would refuse to start. Nothing is deleted: the snapshot is pointed at another checkpoint.
    """
    names = [name for name in uris.list_names(folder) if name.startswith(_PREFIX)]
    if _SNAPSHOT not in uris.list_names(folder):
        return
    snapshot = _snapshot(folder)
    latest = committed(folder)
    found = snapshot is not None and {
        _name(result) for result in snapshot["checkpoint_results"]
    } <= set(names)
    if found and (latest is None or _is_whole(uris.join(folder, latest))):
        return
    whole = next((name for name in reversed(names) if _is_whole(uris.join(folder, name))), None)
    was = f"checkpoint {latest}" if latest else f"{_SNAPSHOT} of {folder}"
    print(f"{was} is torn: going on from {whole or 'the beginning'}", file=sys.stderr)
    uris.write_bytes(uris.join(folder, _SNAPSHOT), json.dumps(_snapshot_of(whole)).encode())


def _snapshot(folder: str) -> dict[str, Any] | None:
    """Train's snapshot, None where there is none or it is cut short."""
    try:
        values: dict[str, Any] = json.loads(uris.read_bytes(uris.join(folder, _SNAPSHOT)))
    except (FileNotFoundError, ValueError):
        return None
    return values


def _name(result: dict[str, Any]) -> str:
    return str(result["checkpoint_dir_name"])


def _is_whole(checkpoint: str) -> bool:
    try:
        contents = json.loads(uris.read_bytes(uris.join(checkpoint, _CONTENTS)))
        return bool(uris.size(uris.join(checkpoint, STATE)) == contents["bytes"])
    except (FileNotFoundError, ValueError, KeyError):
        return False


def _snapshot_of(name: str | None) -> dict[str, Any]:
    """A snapshot as Train writes it, with one committed checkpoint or none."""
    results = (
        [{"version": 0, "checkpoint_dir_name": name, "metrics": {"step": step_of(name)}}]
        if name
        else []
    )
    return {
        "ray_version": ray.__version__,
        "checkpoint_results": results,
        "checkpoint_report_indices": [0] * len(results),
        "latest_checkpoint_result": results[0] if results else None,
        "pending_training_results": [],
        "pending_validation_specs": [],
        "current_report_index": len(results),
        "validated_checkpoint_dir_names": [],
        "timed_out_validation_checkpoint_dir_names": [],
        "failed_validation_checkpoint_dir_names": [],
    }
