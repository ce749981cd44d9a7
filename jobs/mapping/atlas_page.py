"""The page of an atlas: one HTML file with its style and its program, which loads its data as
scripts from the folder beside it, so that it opens from disk.

What it may do is written in its head: run this program and scripts beside it, draw pictures that it
holds, and nothing else; no address of the network can be asked.
"""

import base64
import hashlib
import json
from html import escape
from importlib import resources
from string import Template
from typing import Any

from pipelines.atlas import point_rows, thumbnails
from pipelines.embeddings.stored import Stored

PROGRAM = ("map_page.js", "map_page_controls.js")  # one function, in two files


def draw(stored: Stored, made: dict[str, Any], folder: str) -> bytes:
    """Make the page.

    Args:
        stored: The export.
        made: What was made, as the job tells it.
        folder: Of the data, relative to the page.
    """
    source = stored.provenance.source
    about = {
        **{name: made[name] for name in ("points", "rows", "neighbours", "recall", "colours")},
        "thumbnails": made["thumbnails"] + made["without_picture"],
        "rowsAFile": point_rows.FILE_ROWS,
        "picturesAFile": thumbnails.FILE_ROWS,
    }
    style = _beside("map_page.css")
    program = "".join(map(_beside, PROGRAM))
    return (
        Template(_beside("map_page.html"))
        .substitute(
            title=escape(f"Atlas of {source}"),
            lead=escape(_lead(stored, made)),
            source=escape(source),
            folder=escape(folder),
            # in an attribute, so that no text of it is ever markup
            about=escape(json.dumps(about)),
            style=style,
            program=program,
            style_hash=_hash(style),
            program_hash=_hash(program),
        )
        .encode()
    )


def _lead(stored: Stored, made: dict[str, Any]) -> str:
    """Say what is shown, and what is not."""
    some = f" of {made['rows']:,}" if made["points"] < made["rows"] else ""
    shown = f"{made['points']:,}{some} samples"
    pictures = made["thumbnails"] + made["without_picture"]
    if pictures == made["points"]:
        pictured = ""
    elif pictures:
        pictured = f", thumbnails of {pictures:,} that are spread over the map"
    else:
        pictured = ", no thumbnails"
    encoder = f"{stored.column.encoder} {stored.column.artifact_digest[:12]}".strip()
    by_landmarks = made["landmarks"] < made["points"]
    learnt = f", laid out by {made['landmarks']:,} landmarks" if by_landmarks else ""
    return f"{shown} by {encoder}{learnt}{pictured}"


def _beside(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text()


def _hash(text: str) -> str:
    """Return what lets a browser run or apply exactly this text."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
