"""Recipe YAML and `key=value` words to one frozen, checked configuration; the same for every job."""

import difflib
import json
import sys
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar, get_args

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from yaml import YAMLError

from augment.frozen import Frozen
from pipelines.storage.retries import StorageError

Config = TypeVar("Config", bound=Frozen)


class InputError(ValueError):
    """What a user can cause and mend; becomes one `error:` line and exit code 2."""


class RunError(RuntimeError):
    """A job cannot go on, and trying again at once would not help; becomes one `error:` line and exit code 1."""


Build = Callable[[dict[str, Any]], tuple[type[Config], dict[str, Any]]]


def parse(build: Build[Config], words: list[str]) -> Config:
    """Merge a recipe and `key=value` words, the later ones winning, and check the result.

    Args:
        build: Gives, for the values so far, the configuration class and the values completed with defaults that depend
            on other values (a method has keys and views of its own).
        words: Command line words: at most one recipe (a path or a shipped name), then `key=value`.

    Raises:
        InputError: unreadable recipe, unknown key (with the nearest known one) or a value out of range.
    """
    return validate(*build(_merge(words)))


def _merge(words: list[str]) -> dict[str, Any]:
    recipes = [word for word in words if "=" not in word]
    if len(recipes) > 1:
        raise InputError(f"one recipe at most, got {' and '.join(recipes)}")
    raw = _load(recipes[0]) if recipes else OmegaConf.create()
    for word in words:
        if "=" in word:
            _assign(raw, *word.split("=", 1))
    values = OmegaConf.to_container(raw, resolve=True)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def _load(recipe: str) -> DictConfig:
    path = Path(recipe)
    if not path.suffix:
        path = Path(str(resources.files("jobs") / "recipes" / f"{recipe}.yaml"))
        if not path.exists():
            near = difflib.get_close_matches(recipe, recipe_names(), n=3, cutoff=0.0)
            raise InputError(
                f"no recipe is called {recipe}: shipped ones are {', '.join(near)}, or give a path to a .yaml file"
            )
    try:
        loaded = OmegaConf.load(path)
    except (OSError, YAMLError, OmegaConfBaseException) as error:
        raise InputError(f"recipe {recipe} cannot be read: {str(error).splitlines()[0]}") from error
    if not isinstance(loaded, DictConfig):
        raise InputError(f"recipe {recipe} must hold keys and values at its top level")
    return loaded


def recipe_names() -> list[str]:
    """Names of the shipped recipes."""
    return sorted(
        path.name.removesuffix(".yaml") for path in (resources.files("jobs") / "recipes").iterdir()
    )


def _assign(raw: DictConfig, key: str, text: str) -> None:
    """Set one dotted key; the value is read as YAML, so that numbers, lists and null mean what they look like."""
    if key.rpartition(".")[2] in ("uri", "out", "artifact", "run", "address", "members"):
        value: Any = text  # a path may look like YAML
    else:
        try:
            value = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]))["value"]  # type: ignore[index,call-overload]
        except (YAMLError, OmegaConfBaseException) as error:
            raise InputError(
                f"{key}={text} is no YAML value: {str(error).splitlines()[0]}"
            ) from error
    try:
        OmegaConf.update(raw, key, value, merge=True, force_add=True)
    except (OmegaConfBaseException, ValueError, TypeError) as error:
        raise InputError(f"{key} cannot be set: {str(error).splitlines()[0]}") from error


def validate(config: type[Config], values: dict[str, Any]) -> Config:
    """Check values against a configuration class.

    Raises:
        InputError: the first thing wrong, with key, value and remedy.
    """
    try:
        return config.model_validate(values)
    except ValidationError as error:
        raise InputError(_explain(config, error.errors()[0])) from None


def _explain(config: type[Frozen], problem: Any) -> str:
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        known = [name for name, _, _ in keys(config)]
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.0)
        return (
            f"unknown key {key}: the nearest known key is {near[0]}"
            if near
            else f"unknown key {key}"
        )
    if problem["type"] == "missing":
        return f"{key} is missing: give {key}=..."
    message = str(problem["msg"]).removeprefix("Value error, ")
    if not key or key in message:
        return message
    return f"{key}: {message[0].lower()}{message[1:]}, got {problem['input']!r}"


def keys(config: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo, str]]:
    """Yield every leaf key of a configuration class with its field and the name of its type."""
    for name, field in config.model_fields.items():
        nested = [
            kind for kind in (field.annotation, *get_args(field.annotation)) if _is_model(kind)
        ]
        if nested:
            yield from keys(nested[0], f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field, _type_name(field.annotation)


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _type_name(kind: Any) -> str:
    text = kind.__name__ if isinstance(kind, type) and not get_args(kind) else str(kind)
    return (
        text.replace("typing.", "")
        .replace("Literal", "")
        .replace("NoneType", "null")
        .replace("None", "null")
    )


def help_text(verb: str, summary: str, config: type[Frozen]) -> str:
    """Every key with its type, default and description."""
    lines = [f"python -m jobs.{verb} [RECIPE] key=value ...", "", summary, ""]
    for name, field, kind in keys(config):
        default = (
            "required"
            if field.is_required()
            else json.dumps(_jsonable(field.get_default(call_default_factory=True)))
        )
        lines.append(f"  {name:32} {field.description or ''} [{kind}; {default}]")
    flags = "--help  --print-config (as YAML; starts nothing)  --json (one object as the last line of stdout)"
    return "\n".join([*lines, "", f"  {flags}", f"  recipes: {', '.join(recipe_names())}"])


def _jsonable(value: Any) -> Any:
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else value


def to_yaml(config: Frozen) -> str:
    """Write a configuration as YAML that `parse` reads back to an equal one."""
    return OmegaConf.to_yaml(OmegaConf.create(config.model_dump(mode="json")))


def main(
    verb: str,
    summary: str,
    build: Build[Config],
    run: Callable[[Config], dict[str, Any]],
    words: list[str] | None = None,
) -> int:
    """Run a job from the command line.

    Args:
        verb: The job's name.
        summary: One paragraph for `--help`.
        build: As for `parse`.
        run: The job; returns the object that `--json` prints, its `result` key the line without `--json`.
        words: Command line words, sys.argv's by default.

    Returns:
        0 done, 1 failed while running, 2 wrong configuration or input.
    """
    words = sys.argv[1:] if words is None else words
    flags = {word for word in words if word.startswith("--")}
    rest = [word for word in words if not word.startswith("--")]
    try:
        if unknown := flags - {"--help", "--print-config", "--json"}:
            raise InputError(
                f"unknown option {sorted(unknown)[0]}: there are --help, --print-config and --json"
            )
        if "--help" in flags:
            print(help_text(verb, summary, build(_merge(rest))[0]))
            return 0
        config = parse(build, rest)
        if "--print-config" in flags:
            print(to_yaml(config), end="")
            return 0
        result = run(config)
    except (
        InputError,
        StorageError,
    ) as error:  # storage that fails later than the start is a RunError
        print(f"error: {error}", file=sys.stderr)
        return 2
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 1
    line = result.pop("result", "")
    print(json.dumps(result) if "--json" in flags else line, flush=True)
    return int(result.get("exit_code", 0))
