"""Files of data that a page opened from disk can read: scripts, each one call with JSON.

A browser lets a page at file:// fetch nothing, and lets it load scripts. Arrays travel as base64.
Whatever a file's name says stays a JSON string, which the page never takes for markup.
"""

import base64
import json
from typing import Any

import numpy as np

from pipelines.storage import uris


def packed(values: np.ndarray) -> str:
    """Return numbers as base64 of their bytes, little-endian."""
    flat = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
    return base64.b64encode(flat.tobytes()).decode()


def write(uri: str, function: str, *arguments: Any) -> None:
    """Write a file that calls a function of the page with some JSON."""
    words = [json.dumps(one, separators=(",", ":"), allow_nan=False) for one in arguments]
    uris.write_bytes(uri, f"atlas.{function}({','.join(words)});\n".encode())


def read(uri: str, function: str) -> list[Any]:
    """Read the arguments of such a file back."""
    text = uris.read_bytes(uri).decode()
    found: list[Any] = json.loads(
        f"[{text.removeprefix(f'atlas.{function}(').removesuffix(');' + chr(10))}]"
    )
    return found
