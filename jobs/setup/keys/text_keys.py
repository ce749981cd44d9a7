"""Which keys of a configuration hold texts, whose values are not read as YAML: 0010, 1.10 and yes
stay what they are."""

from collections.abc import Iterator
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel

Holds = Literal["text", "texts", "other", "unknown"]


def holds(config: type[BaseModel], key: str) -> Holds:
    """Tell what a dotted key of a configuration holds: a text, a list of texts, or something else;
    of an unknown key nothing can be said."""
    name, _, rest = key.partition(".")
    field = config.model_fields.get(name)
    if field is None:
        return "unknown"
    if not rest:
        return _of(field.annotation)
    found = {holds(kind, below) for kind, below in _records(field.annotation, rest)} - {"unknown"}
    return found.pop() if len(found) == 1 else "other" if found else "unknown"


def _of(annotation: Any) -> Holds:
    """Tell what an annotation takes, where it may also be null."""
    origin = get_origin(annotation)
    parts = get_args(annotation)
    if origin is Annotated:
        return _of(parts[0])
    if origin in (Union, UnionType):
        found = {_of(part) for part in parts if part is not NoneType}
        return found.pop() if len(found) == 1 else "other"
    if origin is tuple and parts[-1] is Ellipsis and _of(parts[0]) == "text":
        return "texts"
    return "text" if annotation is str else "other"


def _records(annotation: Any, rest: str) -> Iterator[tuple[type[BaseModel], str]]:
    """Yield the records that an annotation may hold, with the key in each: of a dictionary's
    values, without the member's name."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation, rest
        return
    below = rest.partition(".")[2] if get_origin(annotation) is dict else rest
    for part in get_args(annotation):
        yield from _records(part, below)


def scalars_of(text: str) -> dict[str, str]:
    """Read the plain values of a YAML file as they stand there, by dotted key; nulls and what is in
    quotes are left out."""
    root = yaml.compose(text, yaml.SafeLoader)
    return {} if root is None else dict(_scalars(root, ""))


def _scalars(node: yaml.Node, prefix: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield from _scalars(value, f"{prefix}.{key.value}" if prefix else str(key.value))
    elif _is_plain(node):
        yield prefix, node.value


def _is_plain(node: yaml.Node) -> bool:
    scalar = isinstance(node, yaml.ScalarNode) and node.style is None
    return scalar and node.tag != "tag:yaml.org,2002:null"
