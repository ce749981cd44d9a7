import os

import pytest

from jobs.cluster import launch
from jobs.setup.sections import ClusterConfig
from jobs.training.run_dir import environment
from pipelines.storage import retries


def test_no_credential_is_forwarded_or_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.setenv(name, "topsecret")
        assert name not in launch.FORWARDED
    assert "topsecret" not in str(environment())


def test_patience_of_the_configuration_reaches_every_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in (retries.RETRY_VARIABLE, retries.TIMEOUT_VARIABLE):
        monkeypatch.setenv(name, "1")
    launch._set_patience(ClusterConfig(storage_retry_s=7, storage_timeout_s=2))
    assert (retries.retry_s(), retries.timeout_s()) == (7, 2)
    assert {retries.RETRY_VARIABLE, retries.TIMEOUT_VARIABLE} <= set(launch.FORWARDED) & set(
        os.environ
    )
