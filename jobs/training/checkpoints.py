"""The checkpoints of a run, and which of them Ray Train restores.

checkpoints/step-000000120/state.pt           method, optimiser and step
checkpoints/step-000000120/contents.json      their ledger, and the size of state.pt
checkpoints/checkpoint_manager_snapshot.json  Ray Train's own: which checkpoints are committed
series/step-000000100/                        the same of every so many steps; none is deleted
"""

import json
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

from pipelines import ray_internals
from pipelines.storage import uris
from pipelines.storage.copies import put_file
from pipelines.stream.ledger import Ledger

FOLDER = "checkpoints"
SERIES = "series"
STATE = "state.pt"
_CONTENTS = "contents.json"
PREFIX = "step-"


def name_of(step: int) -> str:
    """Return the directory name of the checkpoint after an optimiser step."""
    return f"{PREFIX}{step:09d}"


def step_of(name: str) -> int:
    """Return the optimiser step of a checkpoint's directory name."""
    return int(name.removeprefix(PREFIX))


def write(folder: str, state: dict[str, Any], ledger: Ledger) -> None:
    """Write a checkpoint into a local folder, from which Ray Train uploads it."""
    import torch  # here, as Ray Train's controller, which only looks at them, needs none

    path = Path(folder)
    torch.save(state, path / STATE)
    contents = {"ledger": ledger.as_dict(), "bytes": (path / STATE).stat().st_size}
    (path / _CONTENTS).write_text(json.dumps(contents))


def write_to_series(run: str, step: int, state: dict[str, Any], ledger: Ledger) -> None:
    """Write the checkpoint of a step into the run's series; one of the same step is replaced."""
    place = uris.join(run, SERIES, name_of(step))
    with tempfile.TemporaryDirectory(prefix="afield-series-") as folder:
        write(folder, state, ledger)
        for name in (STATE, _CONTENTS):  # what says that it is whole comes last
            put_file(str(Path(folder) / name), uris.join(place, name))


def whole(run: str) -> dict[int, str]:
    """Find the whole checkpoints of a run, rolling ones and its series: step to place,
    ascending."""
    found = {
        step: uris.join(run, kind, name_of(step))
        for kind in (FOLDER, SERIES)
        for step in whole_steps(uris.join(run, kind))
    }
    return dict(sorted(found.items()))


def committed(folder: str) -> str | None:
    """Name of the checkpoint that Ray Train would restore; None where there is none.

    Train writes its snapshot at each commit and reads it at start, so what it does not name is an
    orphan: a checkpoint that was uploaded and never committed.
    """
    snapshot = ray_internals.read_snapshot(folder)
    return snapshot.latest if snapshot else None


def committed_step(run: str) -> int:
    """Return the optimiser step of a run's newest committed checkpoint, 0 where there is none."""
    name = committed(uris.join(run, FOLDER))
    return step_of(name) if name else 0


def ledger(folder: str) -> Ledger:
    """Read what the committed checkpoint's weights have seen; nothing where there is none."""
    name = committed(folder)
    return ledger_of(uris.join(folder, name)) if name else Ledger(0, ())


def ledger_of(checkpoint: str) -> Ledger:
    """Read what the weights of a checkpoint have seen."""
    return Ledger.from_dict(json.loads(uris.read_bytes(uris.join(checkpoint, _CONTENTS)))["ledger"])


def whole_steps(folder: str) -> list[int]:
    """Return the steps of the checkpoints of which all files are there, ascending."""
    return [step_of(name) for name in _names(folder) if _is_whole(uris.join(folder, name))]


def mend(folder: str) -> None:
    """Make Ray Train restore the newest whole checkpoint where the one it would restore is torn.

    A machine that dies while it writes can leave a snapshot cut in two, or one that names a
    checkpoint whose files did not all arrive. Train would refuse to start. Nothing is deleted: the
    snapshot is pointed at another checkpoint.
    """
    if not ray_internals.has_snapshot(folder):
        return
    names = _names(folder)
    snapshot = ray_internals.read_snapshot(folder)
    latest = snapshot.latest if snapshot else None
    found = snapshot is not None and set(snapshot.names) <= set(names)
    if found and (latest is None or _is_whole(uris.join(folder, latest))):
        return
    newest = next((name for name in reversed(names) if _is_whole(uris.join(folder, name))), None)
    was = f"checkpoint {latest}" if latest else f"{ray_internals.SNAPSHOT} of {folder}"
    print(f"{was} is torn: going on from {newest or 'the beginning'}", file=sys.stderr)
    ray_internals.write_snapshot(folder, newest, {"step": step_of(newest)} if newest else {})


def _names(folder: str) -> list[str]:
    """List the checkpoints of a folder, by step; others may keep copies beside them."""
    names = [name for name in uris.list_names(folder) if re.fullmatch(rf"{PREFIX}\d{{9,}}", name)]
    return sorted(names, key=step_of)


def _is_whole(checkpoint: str) -> bool:
    try:
        contents = json.loads(uris.read_bytes(uris.join(checkpoint, _CONTENTS)))
        return bool(uris.size(uris.join(checkpoint, STATE)) == contents["bytes"])
    except (FileNotFoundError, ValueError, KeyError):
        return False
