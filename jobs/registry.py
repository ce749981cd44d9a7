"""Keep artifacts as numbered versions of a model, and say by aliases which one is in use; every
move is recorded, and undone by one command.

Whatever takes an artifact takes REGISTRY/NAME@ALIAS or REGISTRY/NAME@VERSION."""

import shlex
import sys
from typing import Any

from jobs.cluster import launch
from jobs.registering import registry_answers as answers
from jobs.registering.lineage import lineage_of, metrics_of
from jobs.registering.registry_config import ACTIONS, RegistryConfig
from jobs.setup import run_artifact
from jobs.setup.claims import check_writable
from jobs.setup.command_line import main
from jobs.setup.failures import InputError
from jobs.setup.help_page import command_of
from pipelines.registry import mlflow_mirror, model_versions, moves
from pipelines.registry.model_versions import Version
from pipelines.registry.moves import Move
from pipelines.registry.registered_model import RegisteredModel, model_names
from pipelines.registry.signature import Signature


def run(config: RegistryConfig) -> dict[str, Any]:
    """Do what the command line asks for.

    Returns:
        What `--json` prints, `result` for people.

    Raises:
        InputError: no such registry, name, version or alias; or an alias stands elsewhere than
            expected.
    """
    uri = launch.user_uri("registry", config.registry)
    if config.action == "register":
        check_writable("registry", uri)
    else:
        launch.check_reachable("registry", uri)
    if config.name is None:
        return answers.of_names(uri, model_names(uri))
    model = RegisteredModel(uri, config.name)
    if config.action == "register":
        return _register(config, model)
    if not model.is_there():
        there = ", ".join(model_names(uri)) or "none"
        raise InputError(f"name {config.name} is not in registry {uri}: names there are: {there}")
    if config.action == "list":
        versions = model_versions.all_of(model)
        return answers.of_versions(model, versions, moves.standings_of(model))
    if config.action == "mirror":
        return _mirror(config, model)
    if config.action in ("promote", "rollback"):
        return _move(config, model)
    version = _asked(config, model)
    if config.action == "resolve":
        return answers.of_place(version)
    alias = config.alias if config.version is None else None
    return answers.of_version(version, moves.history(model), alias)


def _asked(config: RegistryConfig, model: RegisteredModel) -> Version:
    """Read the version that is asked for, by its number or by an alias."""
    if config.version is not None:
        return model_versions.read(model, config.version)
    return model_versions.read(model, moves.standing(model, config.alias).version)


def _register(config: RegistryConfig, model: RegisteredModel) -> dict[str, Any]:
    assert config.artifact is not None
    given = launch.user_uri("artifact", config.artifact)
    place = run_artifact.find(given)
    version, is_new = model_versions.register(
        model,
        place,
        lineage=lineage_of(place, model, config.parent),
        metrics=metrics_of(place, config.probes),
        by=_signed(config),
    )
    if is_new:
        print(f"{model.name} has version {version.number} now", file=sys.stderr)
    else:
        print(
            f"artifact {place} is version {version.number} of {model.name} already, registered by"
            f" {version.registered}: nothing was written",
            file=sys.stderr,
        )
    return answers.of_place(version) | {"new": is_new}


def _move(config: RegistryConfig, model: RegisteredModel) -> dict[str, Any]:
    signed = _signed(config)
    how: dict[str, Any] = {"by": signed, "reason": config.reason, "expect": config.expect}
    moved: Move | None
    if config.action == "promote":
        assert config.version is not None
        moved = moves.promote(model, config.alias, config.version, **how)
    else:
        moved = moves.rollback(model, config.alias, **how)
    print(answers.told(model, config.alias, moved, config.version), file=sys.stderr)
    version = model_versions.read(model, moved.after if moved else config.version or 0)
    return answers.of_place(version) | {"move": moved.as_dict() if moved else None}


def _mirror(config: RegistryConfig, model: RegisteredModel) -> dict[str, Any]:
    assert config.mlflow is not None
    done = mlflow_mirror.mirror(model, config.mlflow)
    print(
        f"{len(done['added'])} versions of {model.name} are new in MLflow, and"
        f" {len(done['aliases'])} aliases moved there",
        file=sys.stderr,
    )
    return done | {"result": f"{config.mlflow.rstrip('/')}/#/models/{model.name}"}


def _signed(config: RegistryConfig) -> Signature:
    """Sign with the command line that the configuration came from, or might have come from."""
    given = config.model_dump(mode="json", exclude={"action"}, exclude_defaults=True)
    words = [
        f"{key}={','.join(value) if isinstance(value, list) else value}"
        for key, value in given.items()
    ]
    return Signature.now(f"{command_of('registry')} {shlex.join([config.action, *words])}")


if __name__ == "__main__":
    sys.exit(
        main(
            "registry",
            __doc__ or "",
            lambda values: (RegistryConfig, values),
            run,
            actions=ACTIONS,
        )
    )
