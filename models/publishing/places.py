"""Names in place of paths: what is published says nothing of the machine that trained."""

import os
from typing import Any
from urllib.parse import urlsplit


def name_of(place: str) -> str:
    """Return a local path's last name; a URI without credentials and query, if it had some."""
    if "://" in place and not place.startswith("file://"):
        parts = urlsplit(place)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    return os.path.basename(place.rstrip("/"))


def without_places(value: Any) -> Any:
    """Replace absolute paths by their last names, at any depth of plain values."""
    if isinstance(value, dict):
        return {key: without_places(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_places(item) for item in value]
    if isinstance(value, str) and (value.startswith(("/", "~", "file:")) or "://" in value):
        return name_of(value)
    return value
