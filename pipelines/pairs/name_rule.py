"""The rule that names a sample's second image by the sample's own name."""

import posixpath
from string import Formatter

FIELDS = ("stem", "name")
_LIKE = "depth/{stem}.png"


def check_rule(rule: str) -> str:
    """Return a rule as it is.

    Raises:
        ValueError: it has no field or an unknown one, or does not begin beside the sample.
    """
    try:
        parts = list(Formatter().parse(rule))
    except ValueError as error:
        raise ValueError(f"{error}: write a name like {_LIKE}") from None
    fields = [field for _, field, _, _ in parts if field is not None]
    if unknown := [field for field in fields if field not in FIELDS]:
        raise ValueError(f"{{{unknown[0]}}} is no field: take {{stem}} or {{name}}, as {_LIKE}")
    if not fields:
        raise ValueError(f"names one file for all samples: write {{stem}}, as {_LIKE}")
    if "://" in rule or rule.startswith("/"):
        raise ValueError(f"must begin beside each sample, as {_LIKE} or ../{_LIKE}")
    return rule


def second_name(place: str, rule: str) -> str:
    """Name the second image of a sample.

    Args:
        place: URI of the sample's file, or its member's name in a shard.
        rule: `{stem}` is the last part of the name without its suffix, `{name}` with it; the rest
            is a path that begins in the sample's folder.

    Returns:
        A URI, or a member's name without `./` in front.
    """
    scheme, colon, path = place.rpartition("://")
    folder, _, name = path.rpartition("/")
    root = "/" if path.startswith("/") else ""
    told = rule.format(name=name, stem=posixpath.splitext(name)[0])
    below = posixpath.normpath(posixpath.join(folder.lstrip("/"), told))
    return f"{scheme}{colon}{root}{below}"
