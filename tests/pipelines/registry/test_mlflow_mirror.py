"""A registered model in MLflow's own registry, on a real server over SQLite."""

import http.client
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.registry import mlflow_mirror
from pipelines.registry.mlflow_mirror import mirror
from pipelines.registry.model_versions import register
from pipelines.registry.moves import promote, rollback
from pipelines.registry.registered_model import RegisteredModel
from pipelines.registry.signature import Signature
from tests.object_store import ObjectStore, free_ports

BY = Signature("2026-11-29 09:00:00 UTC", "ada", "head", "python -m jobs.registry")
PROGRAM = "AFIELD_TEST_MLFLOW"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """MLflow's server, from an environment of its own: the extra brings its client alone."""
    pytest.importorskip("mlflow", reason="the client is in afield[mlflow]")
    program = os.environ.get(PROGRAM)
    if program is None:
        pytest.skip(f"no server of MLflow: {PROGRAM}=/path/to/an/environment/bin/mlflow")
    (port,) = free_ports(1)
    store = f"sqlite:///{tmp_path / 'mlflow.db'}"
    command = [program, "server", "--backend-store-uri", store, "--host", "127.0.0.1"]
    command += ["--port", str(port), "--workers", "1"]
    env = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}
    env["PATH"] = f"{Path(program).parent}{os.pathsep}{env['PATH']}"
    with open(tmp_path / "mlflow.log", "wb") as log:
        process = subprocess.Popen(
            command, cwd=tmp_path, env=env, stdout=log, stderr=log, start_new_session=True
        )
    try:
        deadline = time.monotonic() + 200
        while not answers(port):
            assert process.poll() is None, (tmp_path / "mlflow.log").read_text()[-2000:]
            assert time.monotonic() < deadline, (tmp_path / "mlflow.log").read_text()[-2000:]
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, 9)
        process.wait()


def answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):  # not up yet
        return False
    finally:
        connection.close()


@pytest.mark.slow
def test_mlflow_shows_our_versions_and_aliases_each_once(
    server: str, object_store: ObjectStore, small_artifact: str
) -> None:
    from mlflow.tracking import MlflowClient

    model = RegisteredModel(f"{object_store.make_bucket('mirrored')}/registry", "encoder")
    for parent in (1, 2):
        register(model, small_artifact, lineage={"parent": parent}, metrics={}, by=BY)
    promote(model, "champion", 1, by=BY)
    promote(model, "champion", 2, by=BY)
    done = mirror(model, server)
    assert (done["added"], done["aliases"]) == ([1, 2], {"champion": 2})
    client = MlflowClient(tracking_uri=server, registry_uri=server)
    shown = client.get_model_version_by_alias("encoder", "champion")
    assert shown.source == model.version(2, "artifact")
    assert shown.tags[mlflow_mirror.VERSION] == "2"

    assert mirror(model, server) | {"versions": 0} == {"added": [], "aliases": {}, "versions": 0}
    client.set_registered_model_alias("encoder", "theirs", "1")
    rollback(model, "champion", by=BY)
    register(model, small_artifact, lineage={"parent": 3}, metrics={}, by=BY)
    done = mirror(model, server)
    assert (done["added"], done["aliases"]) == ([3], {"champion": 1})
    assert client.get_registered_model("encoder").aliases.keys() == {"champion", "theirs"}
    assert len(client.search_model_versions("name='encoder'")) == 3

    client.create_registered_model("other")
    other = RegisteredModel(model.registry, "other")
    register(other, small_artifact, lineage={}, metrics={}, by=BY)
    with pytest.raises(ValueError, match="name other is in MLflow already, and comes from some"):
        mirror(other, server)


def test_what_cannot_be_mirrored_is_refused_in_one_line(tmp_path: Path) -> None:
    model = RegisteredModel(str(tmp_path), "encoder")
    with pytest.raises(ValueError, match="mlflow carries credentials: give them as MLFLOW_"):
        mirror(model, "http://ada:secret@host")
    with pytest.raises(ValueError, match="is a local folder, and MLflow's server takes no"):
        mirror(model, "http://127.0.0.1:9")
