"""Numbers that JSON has no word for."""

import math
from typing import Any


def finite(value: Any) -> Any:
    """Replace NaN and infinity by null, at any depth of plain values."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value
