"""Shows a registered model in the registry of MLflow: its versions and its aliases, one way.

MLflow numbers versions by itself, so each of its versions carries ours as a tag; what has it is
there already. Nothing is copied: the source of a version is the place of our artifact. Aliases are
set to where ours stand; those that only MLflow has are left alone, and so are its versions without
the tag.
"""

from typing import Any

from pipelines.registry import model_versions, moves
from pipelines.registry.mlflow_client import check_server, client_of
from pipelines.registry.model_versions import Version
from pipelines.registry.registered_model import RegisteredModel
from pipelines.storage import lease, uris

VERSION = "afield.version"
REGISTRY = "afield.registry"
DIGEST = "afield.digest"
_TAG_LETTERS = 4000


def mirror(model: RegisteredModel, server: str) -> dict[str, Any]:
    """Bring MLflow's registry up to date.

    Args:
        model: What is shown there, under the same name.
        server: URI of MLflow's server.

    Returns:
        `added`: our numbers of the versions that are new there; `versions`: ours to MLflow's;
        `aliases` that were moved, to our numbers.

    Raises:
        ValueError: MLflow is not installed, cannot be reached or refuses; the model there is
            another one; or the registry lies on this machine, where MLflow's server takes no
            sources from.
    """
    check_server("mlflow", server)
    if uris.is_local(model.registry):
        raise ValueError(
            f"registry {model.registry} is a local folder, and MLflow's server takes no versions"
            " from there: mirror a registry in object storage"
        )
    client = client_of("mlflow", server)
    from mlflow.exceptions import MlflowException  # here, as it comes with an extra

    with lease.held(uris.join(model.uri, "mlflow"), owner="a mirror", what="registry"):
        try:
            return _bring_up_to_date(client, model)
        except MlflowException as error:
            said = str(error).splitlines()[0]
            raise ValueError(f"mlflow {server} refused or cannot be reached: {said}") from None


def _bring_up_to_date(client: Any, model: RegisteredModel) -> dict[str, Any]:
    _check_model(client, model)
    found = client.search_model_versions(f"name='{model.name}'", max_results=10_000)
    theirs = {int(one.tags[VERSION]): one.version for one in found if VERSION in one.tags}
    added = []
    for version in model_versions.all_of(model):
        if version.number not in theirs:
            theirs[version.number] = _add(client, version)
            added.append(version.number)
    moved = {}
    aliases = client.get_registered_model(model.name).aliases
    for alias, standing in moves.standings_of(model).items():
        wanted = theirs[standing.version]
        if str(aliases.get(alias)) != str(wanted):
            client.set_registered_model_alias(model.name, alias, wanted)
            moved[alias] = standing.version
    versions = {number: int(each) for number, each in theirs.items()}
    return {"added": added, "versions": versions, "aliases": moved}


def _check_model(client: Any, model: RegisteredModel) -> None:
    """Make the model in MLflow, or make sure that it is ours.

    Raises:
        ValueError: it is somebody else's.
    """
    found = client.search_registered_models(f"name='{model.name}'")
    if not found:
        client.create_registered_model(model.name, tags={REGISTRY: model.uri})
        return
    origin = found[0].tags.get(REGISTRY)
    if origin != model.uri:
        raise ValueError(
            f"name {model.name} is in MLflow already, and comes from"
            f" {origin or 'somebody else'}: rename it there, or register under another name"
        )


def _add(client: Any, version: Version) -> str:
    """Make a version in MLflow; returns its number there."""
    lineage = version.lineage
    tags = {
        VERSION: str(version.number),
        DIGEST: version.digest,
        **{f"afield.{name}": str(value)[:_TAG_LETTERS] for name, value in lineage.items() if value},
    }
    made = client.create_model_version(
        version.model.name,
        source=version.artifact,
        tags=tags,
        description=f"version {version.number}, registered by {version.registered}",
        await_creation_for=0,  # it is there when the server answers
    )
    return str(made.version)
