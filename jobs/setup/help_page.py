"""The text of `--help`: the keys a job takes, in words, as they would be typed."""

import shutil
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from jobs.setup.sections import JobConfig

WIDEST = 110  # columns; longer lines are hard to read
TYPE_COLUMN = 34
INDENT = " " * 6
FLAGS = (
    "--help: this page, with the values of the RECIPE and words given",
    "--print-config: what would run, as YAML; starts nothing",
    "--json: one object as the last line of stdout",
)
TITLES = {
    "": "The job itself",
    "off": "Changes of views that are off: setting any key of one turns it on, in any group",
}
GROUPS = "views.groups."
NAMES: dict[Any, str] = {bool: "true | false", int: "int", float: "number", str: "text"}


@dataclass(frozen=True)
class Key:
    """A key of a configuration.

    Attributes:
        name: The whole dotted key.
        kind: What it takes, in words.
        text: What it is for.
        value: What it would be: given, from the recipe, or the default.
        required: Whether it has no default.
        section: The dotted key of the record that holds it; `off` for what belongs to a record that
            is null.
        about: What the section is.
    """

    name: str
    kind: str
    text: str
    value: Any
    required: bool
    section: str
    about: str

    @property
    def missing(self) -> bool:
        """Tell whether it has to be given and was not."""
        return self.required and self.value is None


def command_of(verb: str) -> str:
    """Return what starts a job: in a clone, or where `afield` is installed."""
    own = __name__.partition(".jobs.")[0]
    return f"python -m jobs.{verb}" if own == __name__ else f"python -m {own} {verb}"


def known_keys(config: type[JobConfig], values: Mapping[str, Any]) -> list[Key]:
    """List every key that a configuration takes.

    Args:
        config: The class.
        values: Those given so far, completed; they name the members of dictionaries.
    """
    return [key for key in _walk(config, values, "", "") if not is_under(key.name, config.ignored)]


def is_under(key: str, prefixes: tuple[str, ...]) -> bool:
    """Tell whether a dotted key is one of those given, or lies below one."""
    return any(key == prefix or key.startswith(f"{prefix}.") for prefix in prefixes)


def _walk(
    config: type[BaseModel], values: Mapping[str, Any], prefix: str, section: str, about: str = ""
) -> Iterator[Key]:
    """Yield the keys of a record: its own ones, then those of the records in it."""
    nested: list[tuple[str, FieldInfo, type[BaseModel]]] = []
    about = about or _first_sentence(config.__doc__)
    for name, field in config.model_fields.items():
        if (kind := _record(field.annotation)) is not None:
            nested.append((name, field, kind))
            continue
        value = values.get(name)
        if name not in values and not field.is_required():
            value = field.get_default(call_default_factory=True)
        words = type_words(field)
        text = field.description or ""
        yield Key(f"{prefix}{name}", words, text, value, field.is_required(), section, about)
    for name, field, kind in nested:
        place = f"{prefix}{name}"
        inner = values.get(name)
        if get_origin(field.annotation) is dict:
            for member, held in (inner if isinstance(inner, Mapping) else {}).items():
                held = held if isinstance(held, Mapping) else {}
                yield from _walk(kind, held, f"{place}.{member}.", f"{place}.{member}")
        elif NoneType in get_args(field.annotation):  # a part that may be absent
            on = isinstance(inner, Mapping)
            held = inner if isinstance(inner, Mapping) else {}
            yield from _walk(kind, held, f"{place}.", section if on else "off", about)
        else:
            held = inner if isinstance(inner, Mapping) else {}
            for key in _walk(kind, held, f"{place}.", place):
                choice = key.name == f"{place}.name" and not key.text
                yield replace(key, text=field.description or "") if choice else key


def _record(annotation: Any) -> type[BaseModel] | None:
    """Return the record class that an annotation holds: itself, optional, or as a dictionary's
    values."""
    for kind in (annotation, *get_args(annotation)):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None


def _first_sentence(doc: str | None) -> str:
    line = (doc or "").strip().partition("\n")[0]
    return line.partition(". ")[0].rstrip(".")


def type_words(field: FieldInfo) -> str:
    """Say in words what a field takes: `int >= 1`, `auto | number`, `2 numbers > 0`."""
    if get_origin(field.annotation) is Literal and len(get_args(field.annotation)) == 1:
        return "name"  # of what has keys of its own; the class follows the name
    return _words(field.annotation, [field])


def _words(kind: Any, rules: list[Any]) -> str:
    """Say what an annotation takes; `rules` are the constraints and fields that go with it."""
    origin = get_origin(kind)
    parts = get_args(kind)
    if origin is Annotated:
        return _words(parts[0], [*parts[1:], *rules])
    if origin in (Union, UnionType):
        texts = [_words(part, [] if part is NoneType else rules) for part in parts]
        return " | ".join(texts)
    if kind is NoneType:
        return "null"
    if origin is Literal:
        return " | ".join(str(part) for part in parts)
    if examples := next((rule.examples for rule in rules if _has_examples(rule)), None):
        return " | ".join(map(str, examples))
    if origin is tuple:
        number = "1 or more" if parts[-1] is Ellipsis else str(len(parts))
        return f"{number} {_each(parts[0])}"
    if origin is list:
        return f"list of {_each(parts[0])}"
    return f"{NAMES.get(kind, 'text')}{_range(rules) if kind in (int, float) else ''}"


def _each(kind: Any) -> str:
    """Say what stands in a list: `numbers > 0`, `of mean | max`."""
    first, space, rest = _words(kind, []).partition(" ")
    return f"of {first}{space}{rest}" if get_origin(kind) is Literal else f"{first}s{space}{rest}"


def _has_examples(rule: Any) -> bool:
    return isinstance(rule, FieldInfo) and bool(rule.examples)


def _range(rules: list[Any]) -> str:
    bounds: dict[str, Any] = {}
    for rule in rules:
        for part in rule.metadata if isinstance(rule, FieldInfo) else [rule]:
            for name in ("ge", "gt", "le", "lt", "multiple_of"):
                if (bound := getattr(part, name, None)) is not None:
                    bounds.setdefault(name, shown(bound))
    if bounds.keys() >= {"ge", "le"}:
        text = f" {bounds['ge']}..{bounds['le']}"
    else:
        signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
        limits = [f"{sign} {bounds[name]}" for name, sign in signs.items() if name in bounds]
        text = f" {' and '.join(limits)}" if limits else ""
    if "multiple_of" in bounds:
        text += f", a multiple of {bounds['multiple_of']}"
    return text


def shown(value: Any) -> str:
    """Write a value as it is typed on the command line."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.4g}" if len(repr(value)) > 7 else repr(value).removesuffix(".0")
    if isinstance(value, list | tuple):
        return f"[{','.join(shown(part) for part in value)}]"
    return str(value)


def help_page(
    command: str,
    summary: str,
    config: type[JobConfig],
    values: Mapping[str, Any],
    given: Mapping[str, Any],
    recipes: list[str],
    actions: tuple[str, ...] = (),
) -> str:
    """Write every key that a job takes: the most used first, then section by section.

    Args:
        command: What starts the job.
        summary: What it does, a paragraph.
        config: Its configuration.
        values: The values that would be used.
        given: Those of them that the recipe or the words gave, by dotted key.
        recipes: The shipped recipes that it takes.
        actions: The words one of which comes first.
    """
    width = max(40, min(WIDEST, shutil.get_terminal_size((80, 24)).columns))
    first = "|".join(actions) or ("[RECIPE]" if recipes else "[FILE.yaml]")
    lines = [f"{command} {first} key=value ...", "", *_paragraphs(summary, width)]
    if config.example:
        lines += ["", "For example", *_wrap(f"{command} {config.example}", width, "  ")]
    if given:
        lines += ["", "* set by the recipe or the words given; all others are defaults"]
    keys = known_keys(config, values)
    wanted = [*config.most_used, *(key.name for key in keys if key.required)]
    top = [key for name in dict.fromkeys(wanted) for key in keys if key.name == name]
    described: set[str] = set()
    lines += ["", "Most used", *_key_lines(top, given, width, described)]
    told: set[str] = set()
    sections: dict[str, list[Key]] = {}
    for key in keys:
        if key not in top:
            sections.setdefault(key.section, []).append(key)
    for section in sorted(sections, key=lambda name: _rank(name, list(sections))):
        about = sections[section][0].about
        title = TITLES.get(section) or (f"{section}: {about}" if about not in told else section)
        told.add(about)
        lines += ["", *_wrap(title, width), *_key_lines(sections[section], given, width, described)]
    lines += ["", "Flags"]
    for flag in FLAGS:
        lines += _wrap(flag, width, "  ")
    if recipes:
        lines += ["", "Recipes: one of these names, or a path to a .yaml file"]
        lines += _wrap(", ".join(recipes), width, "  ")
    return "\n".join(lines)


def _rank(section: str, sections: list[str]) -> tuple[int, int]:
    """Order sections as they come, with what is off behind the views that it belongs to."""
    if section != "off":
        return sections.index(section), 0
    views = [index for index, name in enumerate(sections) if name.startswith("views")]
    return max(views, default=len(sections)), 1


def _key_lines(
    keys: list[Key], given: Mapping[str, Any], width: int, described: set[str]
) -> list[str]:
    """Write keys with their types and what each is for; of groups of views, once for all."""
    lines: list[str] = []
    for key in keys:
        # The same key of any group, and whether it is off.
        shared = f"{key.section == 'off'} {key.name.removeprefix(GROUPS).partition('.')[2]}"
        repeated = shared in described
        if key.name.startswith(GROUPS):
            described.add(shared)
        if repeated and key.section == "off":
            continue
        value = "..." if key.missing else shown(key.value)
        left = f"{'*' if key.name in given else ' '} {key.name}={value}"
        lines += _beside(left, key.kind + (", required" if key.required else ""), width)
        lines += [] if repeated else _wrap(key.text, width, INDENT)
    return lines


def _beside(left: str, right: str, width: int) -> list[str]:
    """Put the type beside the key, below it where there is no room."""
    start = max(TYPE_COLUMN, len(left) + 2)
    if start + len(right) <= width:
        return [f"{left:{start}}{right}"]
    return [left, *_wrap(right, width, " " * min(TYPE_COLUMN, 30))]


def _paragraphs(text: str, width: int) -> list[str]:
    lines: list[str] = []
    for paragraph in text.strip().split("\n\n"):
        lines += ([""] if lines else []) + _wrap(" ".join(paragraph.split()), width)
    return lines


def _wrap(text: str, width: int, indent: str = "") -> list[str]:
    return textwrap.wrap(
        text,
        width,
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
