"""An example of a DAG for Airflow: a night's retraining as one job on a Ray cluster.

It uses Ray's own job client, not a provider, and asks for what nightly.sh runs. Ray's version in
Airflow's environment must be the cluster's. The connection: RAY_ADDRESS (http://HEAD:8265),
RAY_AUTH_MODE=token and RAY_AUTH_TOKEN in the environment of the workers. The nodes of the cluster
run the project's image, and have the night's AFIELD_ settings. Written for Airflow 3; not run here.
"""

import time
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk import dag, task

POLL_S = 30


@dag(
    schedule="0 1 * * *",
    start_date=datetime(2026, 12, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
)
def afield_nightly() -> None:
    """Retrain every night at one o'clock, UTC."""

    @task(retries=2, retry_delay=timedelta(minutes=10), execution_timeout=timedelta(hours=23))
    def night(ds: str | None = None, ti: Any = None) -> str:
        """Submit the night's job and wait for its end; a retry goes on where it stopped."""
        from ray.job_submission import JobStatus, JobSubmissionClient

        client = JobSubmissionClient()
        job = client.submit_job(
            entrypoint="sh /opt/nightly.sh",
            submission_id=f"nightly-{ds}-{ti.try_number}",
            runtime_env={"env_vars": {"AFIELD_SLOT": ds}},
        )
        try:
            while not (status := client.get_job_status(job)).is_terminal():
                time.sleep(POLL_S)
        except BaseException:  # Airflow gave up: the cluster must not go on
            client.stop_job(job)
            raise
        print(client.get_job_logs(job))
        if status != JobStatus.SUCCEEDED:
            raise RuntimeError(f"{job} ended with {status}: {client.get_job_info(job).message}")
        return job

    night()


afield_nightly()
