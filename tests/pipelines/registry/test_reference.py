"""`REGISTRY/NAME@ALIAS` and `REGISTRY/NAME@VERSION`: how a job names a registered artifact."""

import pytest

from pipelines.registry import reference
from pipelines.registry.registered_model import RegisteredModel


@pytest.mark.parametrize(
    ("uri", "registry", "name", "wanted", "is_alias"),
    [
        ("s3://bucket/registry/encoder@champion", "s3://bucket/registry", "encoder", "champion", 1),
        ("s3://bucket/encoder@7/", "s3://bucket", "encoder", "7", 0),
        ("/data/registry/en.co-der@v2", "/data/registry", "en.co-der", "v2", 1),
        ("az://box@host.blob.x/r/e@1", "az://box@host.blob.x/r", "e", "1", 0),
    ],
)
def test_a_reference_is_told_by_its_last_part(
    uri: str, registry: str, name: str, wanted: str, is_alias: bool
) -> None:
    found = reference.split(uri)
    assert found == reference.Reference(RegisteredModel(registry, name), wanted)
    assert found is not None and found.is_alias == is_alias
    if not is_alias:
        place = found.model.version(int(wanted), "artifact")
        assert reference.of_place(place) == found


@pytest.mark.parametrize(
    "uri",
    [
        *("s3://bucket/runs/a", "abfs://container@account.dfs.core.windows.net", "/data/a@", "/@b"),
        *("/data/a@0", "/data/a@b c", "/data/mail@host/artifact", "encoder@champion"),
    ],
)
def test_other_places_are_no_references(uri: str) -> None:
    assert reference.split(uri) is None
    assert reference.of_place(uri) is None
