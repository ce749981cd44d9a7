"""Reads a YAML or JSON file that a user wrote into a checked record."""

import difflib
from collections.abc import Mapping
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from augment.frozen import Frozen
from jobs.setup.command_line import in_words
from jobs.setup.failures import InputError
from pipelines.storage import uris

Record = TypeVar("Record", bound=Frozen)


def read_checked(key: str, uri: str, kind: type[Record]) -> Record:
    """Read a file, local or in object storage.

    Args:
        key: Of the command line, by which the file was given.
        uri: The file.
        kind: What it holds.

    Raises:
        InputError: it cannot be read, or the first thing wrong in it: key, value and remedy.
    """
    try:
        values = yaml.safe_load(uris.read_bytes(uris.absolute(uri)))
    except (OSError, ValueError, yaml.YAMLError) as error:
        problem = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{key} {uri} cannot be read: {problem}") from None
    if not isinstance(values, Mapping):
        known = ", ".join(kind.model_fields)
        raise InputError(f"{key} {uri} must hold keys and values at its top level: {known}")
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise InputError(f"{key} {uri}: {_said(kind, values, error)}") from None


def _said(kind: type[Frozen], values: Mapping[str, Any], error: ValidationError) -> str:
    problems = error.errors()
    unknown = [one for one in problems if one["type"] == "extra_forbidden"]
    problem = (unknown or problems)[0]  # a misspelt key is missing as well
    path = [str(part) for part in problem["loc"]]
    name = ".".join(path)
    if problem["type"] == "extra_forbidden":
        near = difflib.get_close_matches(path[-1], _beside(kind, path), n=1, cutoff=0.0)
        return f"unknown key {name}: the nearest known one is {near[0]}"
    if problem["type"] == "missing":
        return f"{name} is missing: add it"
    return in_words(name, problem)


def _beside(kind: type[Frozen], path: list[str]) -> list[str]:
    """List the keys of the record in which the last key of a path stands."""
    fields = kind.model_fields
    for part in path[:-1]:
        annotation = fields[part].annotation if part in fields else None
        members = [annotation, *getattr(annotation, "__args__", ())]
        inner = next(
            (one for one in members if isinstance(one, type) and issubclass(one, Frozen)), None
        )
        fields = inner.model_fields if inner else fields
    return list(fields)
