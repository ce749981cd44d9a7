"""Recipe YAML and `key=value` words to one frozen, checked configuration; the same for every
job."""

import difflib
import json
import os
import re
import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from typing import Any, TypeVar

from omegaconf import OmegaConf
from pydantic import ValidationError

from jobs.setup import failures
from jobs.setup import words as given_words
from jobs.setup.failures import InputError
from jobs.setup.help_page import command_of, help_page, is_under, known_keys, shown
from jobs.setup.sections import JobConfig
from jobs.setup.words import Given
from models.json_values import finite
from pipelines.storage.retries import StorageError

Config = TypeVar("Config", bound=JobConfig)
_SECRET = re.compile(r"://[^/@\s]*@")
FLAGS = ("--help", "--print-config", "--json")
_ACTION = "action="
Build = Callable[[dict[str, Any]], tuple[type[Config], dict[str, Any]]]


def parse(build: Build[Config], words: list[str]) -> Config:
    """Merge a recipe and `key=value` words, the later ones winning, and check the result.

    What a word excludes in the recipe is dropped, with a line on stderr; so is, silently, what the
    recipe says of keys that the job does not use.

    Args:
        build: Gives, for the values so far, the configuration class and the values completed with
            defaults that depend on other values (a method has keys and views of its own).
        words: Command line words: at most one recipe (a path or a shipped name), then `key=value`.

    Raises:
        InputError: unreadable recipe, unknown or unused key (with the nearest known one), or a
            value out of range.
    """
    given = _read(build, words)
    kind, values, void = _resolved(build, given)
    _refuse_unused(kind, values, given)
    kind.check_given(values)
    config = validate(kind, values)
    if note := kind.note(values):
        print(note, file=sys.stderr)
    for word, other in given_words.clashes(kind, given):
        raise InputError(f"{word} has no effect beside {other}: leave one of them out")
    for word, other in given_words.idle(config, given):
        raise InputError(f"{word} has no effect with {other}: leave it out")
    if void:
        print(_takes_the_place(given, void), file=sys.stderr)
    return config


def _read(build: Build[Config], words: list[str]) -> Given:
    """Read a recipe and words, each value as what the job's configuration takes there."""
    given = given_words.read(words)
    kind, _ = build(given.values)
    return given_words.as_written(kind, given)


def _resolved(
    build: Build[Config], given: Given
) -> tuple[type[Config], dict[str, Any], dict[str, list[str]]]:
    """Drop what the words make void and what the job does not use.

    Returns:
        The class, its values, and what was void: key of a word to keys of the recipe.
    """
    kind, _ = build(given.values)
    void = given_words.voided(kind, given)
    left_out = [key for keys in void.values() for key in keys]
    return *build(given_words.drop(given.values, [*left_out, *kind.ignored])), void


def _refuse_unused(config: type[JobConfig], values: dict[str, Any], given: Given) -> None:
    """Refuse the words that the job does not use; of another job's command line, say which.

    Raises:
        InputError: there is one.
    """
    ignored = config.ignored
    unused = [key for key in given_words.leaves(given.words) if is_under(key, ignored)]
    if unused and config.of_another:
        print(f"no effect on this job: {', '.join(unused)}", file=sys.stderr)
    elif unused:
        near = _nearest(unused[0], config, values)
        raise InputError(
            f"{unused[0]} has no effect on this job: leave it out (the nearest key it takes is"
            f" {near})"
        )


def _takes_the_place(given: Given, void: dict[str, list[str]]) -> str:
    """Say in one line what the words replace beside the same key."""
    words = given_words.leaves(given.words)
    recipe = given_words.leaves(given.recipe)
    said = []
    for word, keys in void.items():
        theirs = ", ".join(f"{key}={shown(recipe[key])}" for key in keys)
        said.append(f"{word}={shown(words[word])} takes the place of the recipe's {theirs}")
    return "; ".join(said)


def validate(config: type[Config], values: dict[str, Any]) -> Config:
    """Check values against a configuration class.

    Raises:
        InputError: the first thing wrong, with key, value and remedy.
    """
    try:
        return config.model_validate(values)
    except ValidationError as error:
        raise InputError(_explain(config, values, error.errors()[0])) from None


def _explain(config: type[JobConfig], values: dict[str, Any], problem: Any) -> str:
    # Beside the key, pydantic names the branch of a union that it tried.
    names = [str(part) for part in problem["loc"]]
    known = [key.name for key in known_keys(config, values)]
    while len(names) > 1 and problem["type"] not in ("extra_forbidden", "missing"):
        if any(is_under(name, (".".join(names),)) for name in known):
            break
        names.pop()
    key = ".".join(names)
    if problem["type"] == "extra_forbidden":
        return f"unknown key {key}: the nearest known key is {_nearest(key, config, values)}"
    if problem["type"] == "missing":
        inner = [one.name for one in known_keys(config, values) if one.missing]
        key = next((name for name in inner if is_under(name, (key,))), key)
        return f"{key} is missing: give {key}=... (--help shows every key)"
    if problem["type"] == "string_too_short":
        return f"{key} is empty: give {key}=... (--help shows every key)"
    if problem["type"] == "string_pattern_mismatch":
        kinds = [one.kind for one in known_keys(config, values) if one.name == key]
        return f"{key} must be {kinds[0] if kinds else 'another'}, got {_got(problem)}"
    return in_words(key, problem)


def in_words(key: str, problem: Any) -> str:
    """Say what is wrong with a value: the key, what must hold, and the value without a secret.

    Args:
        key: The dotted key; empty where the whole is meant.
        problem: As pydantic lists it.
    """
    message = str(problem["msg"]).removeprefix("Value error, ")
    if not key or key in message:
        return message
    return f"{key}: {message[0].lower()}{message[1:]}, got {_got(problem)}"


def _got(problem: Any) -> str:
    return _SECRET.sub("://***@", repr(problem["input"]))


def _nearest(key: str, config: type[JobConfig], values: Mapping[str, Any]) -> str:
    known = [one.name for one in known_keys(config, values)]
    return difflib.get_close_matches(key, known, n=1, cutoff=0.0)[0]


def to_yaml(config: JobConfig) -> str:
    """Write a configuration as YAML that `parse` reads back to an equal one."""
    values = given_words.drop(config.model_dump(mode="json"), config.ignored)
    return OmegaConf.to_yaml(OmegaConf.create(values))


def _help(
    command: str, summary: str, build: Build[Config], words: list[str], actions: tuple[str, ...]
) -> str:
    given = _read(build, words)
    kind, values, _ = _resolved(build, given)
    said = given_words.leaves(given.recipe) | given_words.leaves(given.words)
    recipes = given_words.recipes_for(kind)
    return help_page(command, summary, kind, values, said, recipes, actions)


def _with_action(words: list[str], actions: tuple[str, ...], *, needed: bool) -> list[str]:
    """Turn the first word, which says what to do, into a key; a file of keys may hold it too.

    Raises:
        InputError: there is none, it is unknown, or a second one follows.
    """
    files = [word for word in words if word.endswith((".yaml", ".yml"))]
    bare = [word for word in words if "=" not in word and word not in files]
    if not bare and not files and needed and not any(word.startswith(_ACTION) for word in words):
        raise InputError(f"nothing says what to do: give one of {', '.join(actions)} first")
    if bare and bare[0] not in actions:
        raise InputError(f"{bare[0]} is nothing that this job does: give {', '.join(actions)}")
    if len(bare) > 1:
        raise InputError(f"{bare[1]} is no key=value, and {bare[0]} says what to do already")
    return [f"{_ACTION}{word}" if word in bare else word for word in words]


def main(
    verb: str,
    summary: str,
    build: Build[Config],
    run: Callable[[Config], dict[str, Any]],
    words: list[str] | None = None,
    *,
    actions: tuple[str, ...] = (),
) -> int:
    """Run a job from the command line.

    Args:
        verb: The job's name.
        summary: One paragraph for `--help`.
        build: As for `parse`.
        run: The job; returns the object that `--json` prints, its `result` key the line without
            `--json`.
        words: Command line words, sys.argv's by default.
        actions: Of a job that does several things, the words one of which says which; it becomes
            the key `action`.

    Returns:
        0 done, 1 failed while running, 2 wrong configuration or input.
    """
    words = sys.argv[1:] if words is None else words
    flags = {"--help" if word == "-h" else word for word in words if word.startswith("-")}
    rest = [word for word in words if not word.startswith("-")]
    try:
        if unknown := sorted(flags - set(FLAGS)):
            raise InputError(f"unknown option {unknown[0]}: there are {', '.join(FLAGS)}")
        if actions:
            rest = _with_action(rest, actions, needed="--help" not in flags)
        if "--help" in flags:
            print(_help(command_of(verb), summary, build, rest, actions), flush=True)
            return 0
        config = parse(build, rest)
        if "--print-config" in flags:
            print(to_yaml(config), end="", flush=True)
            return 0
        with redirect_stdout(sys.stderr):  # Ray prints what becomes of its workers
            result = run(config)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 1
    except BrokenPipeError:  # whoever read our output has enough of it, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        failure = failures.failure_of(error)
        if failure is None:
            raise
        print(f"error: {failure}", file=sys.stderr)
        return 2 if isinstance(failure, InputError) or isinstance(error, StorageError) else 1
    line = result.pop("result", "")
    print(json.dumps(finite(result)) if "--json" in flags else line, flush=True)
    return int(result.get("exit_code", 0))
