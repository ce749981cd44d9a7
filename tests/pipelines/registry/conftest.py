"""A model of a registry, on local disk and on a real S3 server."""

from pathlib import Path

import pytest

from pipelines.registry.registered_model import RegisteredModel
from tests.object_store import ObjectStore


@pytest.fixture(params=["local", "bucket"])
def model(
    request: pytest.FixtureRequest, tmp_path: Path, object_store: ObjectStore
) -> RegisteredModel:
    registry = str(tmp_path / "registry")
    if request.param == "bucket":
        bucket = f"registry-{request.node.originalname.replace('_', '-')}"[:60].rstrip("-")
        registry = f"{object_store.make_bucket(bucket)}/registry"
    return RegisteredModel(registry, "encoder")
