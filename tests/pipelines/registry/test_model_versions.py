"""Versions of a registered model: whole or not there, and none twice."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from models import artifact
from pipelines.registry import model_versions
from pipelines.registry.model_versions import Version, register
from pipelines.registry.registered_model import RegisteredModel, model_names
from pipelines.registry.signature import Signature
from pipelines.storage import uris
from pipelines.storage.retries import StorageError

BY = Signature("2026-11-29 09:00:00 UTC", "ada", "head", "python -m jobs.registry register")


def registered(model: RegisteredModel, source: str, parent: str | None = None) -> Version:
    lineage = {"parent": parent, "manifest_versions": [1, 2]}
    return register(model, source, lineage=lineage, metrics={"loss": float("nan")}, by=BY)[0]


def test_a_version_is_a_whole_copy_with_metrics_and_lineage(
    model: RegisteredModel, small_artifact: str
) -> None:
    assert model_names(model.registry) == []
    first = registered(model, small_artifact)
    again, is_new = register(
        model, small_artifact, lineage=first.lineage, metrics={"other": 1}, by=BY
    )
    assert (again, is_new) == (first, False)
    second = registered(model, small_artifact, parent="encoder@1")
    assert [one.number for one in model_versions.all_of(model)] == [1, 2]
    assert model_versions.read(model, 2) == second != first
    assert first.metrics == {"loss": None}
    assert first.registered == BY
    assert artifact.load(first.artifact).digest == first.digest
    assert model_names(model.registry) == ["encoder"]
    with pytest.raises(ValueError, match=r"version 3 is none of .*/encoder: there are 1, 2"):
        model_versions.read(model, 3)


def test_of_many_who_register_at_once_the_same_is_one_version_and_others_have_numbers_of_their_own(
    model: RegisteredModel, small_artifact: str
) -> None:
    parents = [None, "a", None, "b", None, "a"]
    with ThreadPoolExecutor(len(parents)) as threads:
        made = list(threads.map(lambda parent: registered(model, small_artifact, parent), parents))
    by_parent = {version.lineage["parent"]: version for version in made}
    assert len({version.number for version in made}) == 3
    assert made == [by_parent[parent] for parent in parents]
    listed = model_versions.all_of(model)
    assert {one.number for one in listed} == {one.number for one in made}
    copies = [n for n in model.version_folders() if uris.list_names(model.version(n, "artifact"))]
    assert copies == [one.number for one in listed]


def test_an_artifact_that_changes_while_it_is_copied_becomes_no_version(
    tmp_path: Path, small_artifact: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = RegisteredModel(str(tmp_path), "encoder")

    def other_weights(source: str, target: str) -> None:
        uris.write_bytes(target, uris.read_bytes(source).replace(b"0", b"1"))

    monkeypatch.setattr(model_versions, "copy_file", other_weights)
    with pytest.raises(ValueError):  # noqa: PT011
        registered(model, small_artifact)
    assert model_versions.all_of(model) == []
    monkeypatch.undo()
    assert registered(model, small_artifact).number == 2


def test_a_store_that_overwrites_what_is_there_is_refused_before_anything_is_copied(
    tmp_path: Path, small_artifact: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = RegisteredModel(str(tmp_path), "encoder")

    def overwrite(uri: str, data: bytes) -> bool:
        uris.write_bytes(uri, data)
        return True

    monkeypatch.setattr(uris, "create", overwrite)
    with pytest.raises(StorageError, match="needs a store with conditional writes"):
        registered(model, small_artifact)
    assert model.version_folders() == []
    assert json.loads((tmp_path / "encoder" / "registry.json").read_text())["format"] == 1
