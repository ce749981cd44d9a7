"""What a job hands to a cluster that it joins."""

import os
from collections.abc import Mapping
from typing import Any

import pytest

from jobs.cluster import launch
from jobs.setup.failures import RunError
from jobs.setup.sections import ClusterConfig
from jobs.training.run_dir import environment
from pipelines.storage import retries, variables

SECRET = (
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "RAY_AUTH_TOKEN"),
    *("GOOGLE_APPLICATION_CREDENTIALS", "AZURE_STORAGE_ACCOUNT_KEY", "HF_TOKEN"),
)


def test_no_credential_is_forwarded_or_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    handed: list[Mapping[str, Any]] = []
    monkeypatch.setattr(launch, "join", lambda address, runtime_env: handed.append(runtime_env))
    for name in (*variables.FORWARDED, "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in launch.FORWARDED:
        monkeypatch.setenv(name, f"the {name}")
    for name in SECRET:
        monkeypatch.setenv(name, "topsecret")
    launch._start(ClusterConfig(address="head:6379"))
    (runtime_env,) = handed
    assert runtime_env["env_vars"] == {name: f"the {name}" for name in launch.FORWARDED}
    assert "topsecret" not in str(runtime_env)
    assert "topsecret" not in str(environment())


@pytest.mark.parametrize("asked", ["1", None])
def test_usage_is_reported_only_where_that_is_asked_for(
    asked: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "join", lambda address, runtime_env: None)
    for name in launch.FORWARDED:
        monkeypatch.setenv(name, "1")
    if asked is None:
        monkeypatch.delenv("RAY_USAGE_STATS_ENABLED")
    else:
        monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", asked)
    launch._start(ClusterConfig(address="head:6379"))
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == (asked or "0")


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


@pytest.mark.parametrize("failures", [1, 2])
def test_a_local_ray_is_started_twice_and_then_refused_in_one_line(
    failures: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[str] = []

    def start(**options: Any) -> None:
        calls.append(options["address"])
        if calls.count("local") <= failures:
            raise RuntimeError("The current node timed out during startup.\nmore")

    monkeypatch.setattr("ray.init", start)
    monkeypatch.setattr("ray.shutdown", lambda: calls.append("shutdown"))
    if failures == 1:
        assert launch._start(ClusterConfig(address="local"))
    else:
        with pytest.raises(RunError, match=r"does not start: The .* startup\.: look at") as raised:
            launch._start(ClusterConfig(address="local"))
        assert "\n" not in str(raised.value)
    assert calls == ["local", "shutdown", "local"]
    assert capsys.readouterr().err.count("trying once more") == 1
