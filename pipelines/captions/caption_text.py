"""Captions as files and cells hold them: one or several texts of one sample."""

import json
import unicodedata
from typing import Any

from pipelines.media.contract import BadSample

MAX_BYTES = 1 << 20  # of a file; more is no caption
_KEYS = ("captions", "caption", "texts", "text")  # of a JSON object; the first that is there


def read_captions(data: bytes, name: str) -> tuple[str, ...]:
    """Read a file of captions: a line each, or a JSON object.

    Args:
        data: Its bytes.
        name: Its name; `.json` holds an object with `caption`, `captions`, `text` or `texts`, of
            one text or a list.

    Raises:
        BadSample: `caption`: it is too large, no UTF-8, no such object, or without a text.
    """
    if len(data) > MAX_BYTES:
        raise _bad(name, f"is of {len(data)} bytes, and one of more than {MAX_BYTES} is none")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _bad(name, f"is no UTF-8 (byte {error.start})") from None
    found: Any = text.splitlines()
    if name.endswith(".json"):
        try:
            record = json.loads(text)
        except ValueError:
            raise _bad(name, "is no JSON") from None
        keys = [key for key in _KEYS if isinstance(record, dict) and key in record]
        if not keys:
            raise _bad(name, f"is no JSON object with {' or '.join(_KEYS)}")
        found = record[keys[0]]
    captions = clean(found)
    if not captions:
        raise _bad(name, "is empty")
    return captions


def clean(value: Any) -> tuple[str, ...]:
    """Return the texts of a cell, a text or a list of them: in Unicode's form NFC, with single
    spaces, without empty ones."""
    values = value if isinstance(value, list | tuple) else [value]
    texts = (
        " ".join(unicodedata.normalize("NFC", one).split())
        for one in values
        if isinstance(one, str)
    )
    return tuple(text for text in texts if text)


def _bad(name: str, what: str) -> BadSample:
    return BadSample("caption", f"its caption {name} {what}")
