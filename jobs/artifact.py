"""Make an artifact of a checkpoint of a run: of the newest, or of a step that is kept."""

import json
import sys
from typing import Any, ClassVar

from pydantic import Field

from jobs.cluster import launch
from jobs.setup import run_artifact
from jobs.setup.claims import check_writable
from jobs.setup.command_line import main
from jobs.setup.failures import InputError
from jobs.setup.sections import JobConfig
from jobs.training.run_dir import open_run
from pipelines.storage import uris


class MakeArtifactConfig(JobConfig):
    """An artifact of a checkpoint."""

    example: ClassVar[str] = "run=runs/a out=runs/a/artifact"
    most_used: ClassVar[tuple[str, ...]] = ("run", "step", "out")

    run: str = Field(min_length=1, description="the run directory: a path or s3:// prefix")
    step: int | None = Field(
        None, ge=1, description="of a checkpoint that is kept; null: the newest"
    )
    out: str = Field(
        min_length=1, description="folder of the artifact; new, or holding the same step's"
    )


def make(config: MakeArtifactConfig) -> dict[str, Any]:
    """Write the artifact.

    Returns:
        `artifact`, `artifact_digest` and `step`.

    Raises:
        InputError: there is no run or no such checkpoint, or `out` holds something else.
    """
    uri = launch.user_uri("run", config.run)
    out = launch.absolute_out(config.out)
    launch.check_reachable("run", uri)
    run, recipe = open_run(uri)
    check_writable("out", out)
    _check_free(out, recipe.fingerprint(), config.step)
    digest, step = run_artifact.write_from_checkpoint(run, recipe, config.step, out)
    return {"artifact": out, "artifact_digest": digest, "step": step, "result": out}


def _check_free(out: str, fingerprint: str, step: int | None) -> None:
    """Refuse a folder that holds anything but an artifact of this run.

    Raises:
        InputError: it does.
    """
    names = uris.list_names(out)
    if not names:
        return
    if run_artifact.DESCRIPTION not in names:
        raise InputError(
            f"out {out} is no artifact and not empty ({names[0]}, ...): choose another"
        )
    before = json.loads(uris.read_bytes(uris.join(out, run_artifact.DESCRIPTION)))["provenance"]
    same_step = step is None or before.get("num_steps") == step
    if before.get("fingerprint") != fingerprint or not same_step:
        raise InputError(
            f"out {out} holds an artifact of step {before.get('num_steps')} of "
            f"{before.get('source')}: choose another out"
        )


if __name__ == "__main__":
    sys.exit(main("artifact", __doc__ or "", lambda values: (MakeArtifactConfig, values), make))
