"""A Dagster asset: a night's retraining, materialised by what nightly.sh runs.

`dagster dev -f deploy/schedules/dagster_asset.py`, with the wheel on the PATH and the night's
settings in the environment; RAY_ADDRESS says which cluster. `pip install -e .[dagster]` brings
Dagster.
"""

import os
import subprocess
from pathlib import Path

import dagster

SCRIPT = Path(__file__).with_name("nightly.sh")
CHECKPOINT_S = 300  # a night that is told to stop writes one first
WRONG_SETTING = 2  # the exit code of a job, or of the script, that somebody must mend


@dagster.asset(
    group_name="afield",
    retry_policy=dagster.RetryPolicy(max_retries=2, delay=600),
    op_tags={"dagster/max_runtime": 82800},
)
def nightly_encoder(context: dagster.AssetExecutionContext) -> dagster.MaterializeResult:
    """The encoder in use after the night, and the embeddings of the whole corpus with it."""
    night = subprocess.Popen(
        ["sh", str(SCRIPT)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert night.stdout is not None
    last = ""
    try:
        for line in night.stdout:
            last = line.strip() or last
            context.log.info(line.rstrip())
        night.wait()
    finally:
        _end(night)  # max_runtime, or somebody who stops the run: the registry must be free again
    if night.returncode:
        raise dagster.Failure(
            f"the night failed: {last}",
            metadata={"exit code": night.returncode},
            allow_retries=night.returncode != WRONG_SETTING,
        )
    return dagster.MaterializeResult(
        metadata={"registry": os.environ["AFIELD_REGISTRY"], "page": last}
    )


def _end(night: subprocess.Popen[str]) -> None:
    """Tell a night that still runs to stop, and wait for its checkpoint."""
    if night.poll() is not None:
        return
    night.terminate()
    try:
        night.communicate(timeout=CHECKPOINT_S)  # reads on, so that it cannot stick at a full pipe
    except subprocess.TimeoutExpired:
        night.kill()
        night.wait()


definitions = dagster.Definitions(
    assets=[nightly_encoder],
    schedules=[
        dagster.ScheduleDefinition(
            name="nightly",
            target=dagster.AssetSelection.assets(nightly_encoder),
            cron_schedule="0 1 * * *",
            execution_timezone="Etc/UTC",
        )
    ],
)
