"""Shows a run to Weights & Biases: offline, into the run directory, unless WANDB_MODE says
otherwise."""

import os
import tempfile
from pathlib import Path
from typing import Any

from jobs.tracking.tracker import End, Line, identity
from jobs.training.run_config import PretrainConfig
from pipelines.storage import uris
from pipelines.storage.copies import put_file

FOLDER = "wandb"
PROJECT = "afield"
# of a run only what the log says: no code, host, packages, or statistics of the driver's machine
_LEFT_OUT: dict[str, Any] = {
    "silent": True,
    "console": "off",
    "disable_git": True,
    "disable_code": True,
    "disable_job_creation": True,
    "save_code": False,
    "x_disable_meta": True,
    "x_disable_stats": True,
    "x_disable_machine_info": True,
    "x_save_requirements": False,
    "init_timeout": 60,
}
_STATUS: dict[End, int] = {"finished": 0, "stopped": 1, "failed": 1}


class WandbTracker:
    """One run of Weights & Biases; a resumed run goes on with the same one.

    Offline, every start writes a folder of its own, of the same id: `wandb sync` puts them
    together.

    Args:
        config: Of the run.
    """

    def __init__(self, config: PretrainConfig) -> None:
        import wandb  # here, as it comes with an extra

        self._out = config.out
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=identity(config),
            name=config.out.rstrip("/").rpartition("/")[2],
            mode=os.environ.get("WANDB_MODE", "offline"),
            dir=self._folder(),
            resume="allow",
            config=config.model_dump(mode="json"),
            settings=wandb.Settings(**_LEFT_OUT),
        )
        # a step that is done again after a restart replaces nothing: it is logged once more
        self._run.define_metric("*", step_metric="step")

    def log(self, line: Line) -> None:
        """Send one line of the log."""
        self._run.log(dict(line))

    def end(self, how: End) -> None:
        """Close the run; where the run directory is remote, what was written here goes there."""
        import wandb

        self._run.finish(exit_code=_STATUS[how])
        wandb.teardown()  # else its service may still write when what it wrote is copied or read
        if self._temporary is None:
            return
        root = Path(self._temporary.name)
        for file in sorted(path for path in root.rglob("*") if path.is_file()):
            put_file(str(file), uris.join(self._out, *file.relative_to(root).parts))
        self._temporary.cleanup()

    def _folder(self) -> str:
        """Return where wandb makes its folder, which is called `wandb`."""
        if given := os.environ.get("WANDB_DIR"):
            return given
        if uris.is_local(self._out):
            return self._out.removeprefix("file://")
        self._temporary = tempfile.TemporaryDirectory(prefix="afield-wandb-")
        return self._temporary.name
