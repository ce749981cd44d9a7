import os

import pytest

from jobs import launch
from jobs.command_line import RunError
from jobs.config import ClusterConfig
from jobs.failures import as_one_line, lasting
from jobs.run_dir import environment
from pipelines import retries
from pipelines.retries import StorageError


def test_no_credential_is_forwarded_or_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.setenv(name, "topsecret")
        assert name not in launch.FORWARDED
    assert "topsecret" not in str(environment())


def test_patience_of_the_configuration_reaches_every_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (retries.RETRY_VARIABLE, retries.TIMEOUT_VARIABLE):
        monkeypatch.setenv(name, "1")
    launch._set_patience(ClusterConfig(storage_retry_s=7, storage_timeout_s=2))
    assert (retries.retry_s(), retries.timeout_s()) == (7, 2)
    assert {retries.RETRY_VARIABLE, retries.TIMEOUT_VARIABLE} <= set(launch.FORWARDED) & set(os.environ)


def test_a_lasting_failure_is_found_under_its_wrappings() -> None:
    refused = StorageError("s3://bucket/a", "refused")
    wrapped = RuntimeError("a worker failed")
    wrapped.__cause__ = ValueError("in between")
    wrapped.__cause__.__cause__ = refused
    assert lasting(wrapped) == "s3://bucket/a: refused" and lasting(ValueError("other")) is None
    with pytest.raises(RunError, match="s3://bucket/a: refused"), as_one_line():
        raise wrapped
    with pytest.raises(ValueError, match="other"), as_one_line():
        raise ValueError("other")
