"""A recipe and `key=value` words, merged into plain values; what a word makes void is dropped from
the recipe."""

import difflib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, get_args

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel
from yaml import YAMLError

from augment.frozen import Frozen
from jobs.setup.failures import InputError
from jobs.setup.help_page import is_under, shown
from jobs.setup.keys.text_keys import Holds, holds, scalars_of
from jobs.setup.sections import JobConfig

RECIPES = Path(__file__).parents[1] / "recipes"
# may look like YAML, and are not read as such
PATHS = (
    "uri",
    "out",
    "artifact",
    "embeddings",
    "index",
    "run",
    "address",
    "members",
    "weights",
    "registry",
    "mlflow",
    "parent",
    "reason",
    "prices",
    "rates",
    "save",
    "work",
)

Values = dict[str, Any]


@dataclass(frozen=True)
class Given:
    """What a command line gives.

    Attributes:
        recipe: The recipe's values, nested.
        words: The words' values, nested.
        raw: Both merged, words winning.
        file: The recipe as it was read.
        pairs: The words as they were written.
    """

    recipe: Values
    words: Values
    raw: DictConfig
    file: "_Recipe"
    pairs: tuple[tuple[str, str], ...]

    @property
    def values(self) -> Values:
        """Merge both, with references among keys resolved.

        Raises:
            InputError: a reference leads nowhere.
        """
        return _plain(self.raw)


@dataclass(frozen=True)
class _Recipe:
    values: DictConfig
    scalars: dict[str, str]  # by dotted key, as they stand in the file


def read(words: list[str]) -> Given:
    """Read at most one recipe, a path or a shipped name, and `key=value` words; what a text key
    holds is read as any other value until `as_written`.

    Raises:
        InputError: an unreadable recipe, or a word that is none.
    """
    recipes = [word for word in words if "=" not in word]
    if len(recipes) > 1:
        raise InputError(f"one recipe at most, got {' and '.join(recipes)}")
    recipe = _load(recipes[0]) if recipes else _Recipe(OmegaConf.create(), {})
    pairs = [word.split("=", 1) for word in words if "=" in word]
    return _merged(recipe, tuple((key, text) for key, text in pairs), lambda key: "unknown")


def as_written(config: type[BaseModel], given: Given) -> Given:
    """Leave the texts of a configuration as they were written: 0010, 1.10 and yes are no numbers
    and no truths where a name is asked for.

    Raises:
        InputError: a word of another kind is no YAML value.
    """
    return _merged(given.file, given.pairs, partial(holds, config))


def _merged(
    recipe: _Recipe, pairs: tuple[tuple[str, str], ...], held_by: Callable[[str], Holds]
) -> Given:
    """Merge a recipe and words, each value read as what its key holds."""
    kept = recipe.values.copy()
    for key, text in recipe.scalars.items():
        if held_by(key) == "text":
            _set(kept, key, text)
    raw = kept.copy()
    alone = OmegaConf.create()
    for key, text in pairs:
        value = _value(key, text, held_by(key))
        for target in (raw, alone):
            _set(target, key, value)
    return Given(_unresolved(kept), _unresolved(alone), raw, recipe, pairs)


def _unresolved(raw: DictConfig) -> Values:
    values = OmegaConf.to_container(raw)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def _plain(raw: DictConfig) -> Values:
    try:
        values = OmegaConf.to_container(raw, resolve=True)
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None) or "a value"
        raise InputError(
            f"{key} holds ${{...}}, which refers to another key, and none fits "
            f"({_first_line(error)}): write the value itself"
        ) from None
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def _load(recipe: str) -> _Recipe:
    path = Path(recipe)
    if not path.suffix:
        path = RECIPES / f"{recipe}.yaml"
        if not path.exists():
            near = difflib.get_close_matches(recipe, recipe_names(), n=3, cutoff=0.0)
            raise InputError(
                f"no recipe is called {recipe}: shipped ones are {', '.join(near)}, "
                "or give a path to a .yaml file"
            )
    try:
        loaded = OmegaConf.load(path)
        scalars = scalars_of(path.read_text())
    except (OSError, YAMLError, OmegaConfBaseException) as error:
        raise InputError(f"recipe {recipe} cannot be read: {_first_line(error)}") from error
    if not isinstance(loaded, DictConfig):
        raise InputError(f"recipe {recipe} must hold keys and values at its top level")
    return _Recipe(loaded, scalars)


def recipe_names() -> list[str]:
    """List the names of the shipped recipes."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def recipes_for(config: type[BaseModel]) -> list[str]:
    """Return the names of the shipped recipes whose sections a job knows."""
    return [name for name in recipe_names() if _sections(name) <= config.model_fields.keys()]


@cache
def _sections(recipe: str) -> frozenset[str]:
    return frozenset(str(key) for key in _load(recipe).values)


def _value(key: str, text: str, held: Holds) -> Any:
    """Read a value as YAML, so that numbers, lists and null mean what they look like; a path, and
    a text that is not in quotes, as it stands.

    Raises:
        InputError: it is no YAML value; where the key is known.
    """
    if key.rpartition(".")[2] in PATHS and text != "null":
        return text
    plain = text != "null" and text[:1] not in ("'", '"')
    if plain and (held == "text" or (held == "texts" and text[:1] != "[")):
        return text
    try:
        if held == "texts" and text[:1] == "[":
            return yaml.load(text, yaml.BaseLoader)  # whose scalars are texts
        raw: Any = OmegaConf.from_dotlist([f"value={text}"])
        return OmegaConf.to_container(raw)["value"]  # type: ignore[index,call-overload]
    except (YAMLError, OmegaConfBaseException) as error:
        if held == "unknown":
            return text
        raise InputError(f"{key}={text} is no YAML value: {_first_line(error)}") from error


def _set(raw: DictConfig, key: str, value: Any) -> None:
    """Set one dotted key."""
    try:
        OmegaConf.update(raw, key, value, merge=True, force_add=True)
    except (OmegaConfBaseException, ValueError, TypeError) as error:
        raise InputError(f"{key} cannot be set: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def leaves(values: Values, prefix: str = "") -> dict[str, Any]:
    """Flatten nested values to dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict) and value:
            flat |= leaves(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def drop(values: Values, keys: Iterable[str]) -> Values:
    """Return nested values without some dotted keys, nor the sections that this empties."""
    kept = dict(values)
    for key in keys:
        name, _, rest = key.partition(".")
        if not rest:
            kept.pop(name, None)
        elif isinstance(kept.get(name), dict):
            kept[name] = drop(kept[name], [rest])
            if not kept[name]:
                del kept[name]
    return kept


def voided(config: type[Frozen], given: Given) -> dict[str, list[str]]:
    """Find what the recipe says and the words leave without effect: key of a word to keys of the
    recipe."""
    ours = leaves(given.words)
    recipes = leaves(given.recipe)
    found: dict[str, list[str]] = {}
    for key, value in ours.items():
        if key in recipes and recipes[key] == value:
            continue
        below = tuple(_void(config, key, given.values))
        there = [name for name in recipes if is_under(name, below) and name not in ours]
        if void := [name for name in there if recipes[name] is not None]:
            found[key] = void
    return found


def clashes(config: type[Frozen], given: Given) -> Iterator[tuple[str, str]]:
    """Yield each word that another word leaves without effect, and that one."""
    ours = {key: value for key, value in leaves(given.words).items() if value is not None}
    for key in ours:
        below = tuple(_void(config, key, given.values))
        yield from ((other, key) for other in ours if other != key and is_under(other, below))


def idle(config: JobConfig, given: Given) -> Iterator[tuple[str, str]]:
    """Yield each word that has no effect, and the `key=value` that leaves it without one.

    A word that repeats the default or the recipe asks for nothing, and is let pass.
    """
    recipe = leaves(given.recipe)
    changes = {key for key, value in leaves(given.words).items() if recipe.get(key) != value}
    ours = [word for word in changes if not is_under(word, config.ignored)]
    for key, other in idle_keys(config):
        if not _is_default(config, key):
            behind = f"{other}={shown(_reach(config, other))}"
            yield from ((word, behind) for word in ours if is_under(word, (key,)))


def idle_keys(config: Frozen) -> Iterator[tuple[str, str]]:
    """Yield the idle keys of a record and of those in it, each with the key behind it."""
    yield from config.idle().items()
    for name in type(config).model_fields:
        held = getattr(config, name)
        members = held.items() if isinstance(held, dict) else [("", held)]
        for member, record in members:
            if isinstance(record, Frozen):
                place = f"{name}.{member}." if member else f"{name}."
                yield from ((place + key, place + other) for key, other in idle_keys(record))


def _reach(config: Frozen, key: str) -> Any:
    """Return the value of a dotted key."""
    value: Any = config
    for name in key.split("."):
        value = value[name] if isinstance(value, dict) else getattr(value, name)
    return value


def _is_default(config: Frozen, key: str) -> bool:
    place, _, name = key.rpartition(".")
    record = _reach(config, place) if place else config
    field = type(record).model_fields[name]
    return bool(getattr(record, name) == field.get_default(call_default_factory=True))


def _void(config: type[Frozen], key: str, values: Values) -> Iterator[str]:
    """Ask the record itself, then the one inside it that holds the key, what a key leaves without
    effect."""
    yield from config.voided_by(key, values)
    name, _, rest = key.partition(".")
    field = config.model_fields.get(name)
    inner = values.get(name)
    if not rest or field is None or not isinstance(inner, dict):
        return
    for kind in (field.annotation, *get_args(field.annotation)):
        if isinstance(kind, type) and issubclass(kind, Frozen):
            yield from (f"{name}.{void}" for void in _void(kind, rest, inner))
