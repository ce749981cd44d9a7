"""Captions in one table, a row or several a sample."""

import posixpath
from collections import defaultdict
from dataclasses import dataclass
from functools import lru_cache

from pipelines.captions.caption_text import clean
from pipelines.labels.label_tables import SUFFIXES, URI_NAMES, Columns, read_rows
from pipelines.labels.labelled_rows import LeftOutNames, nfc
from pipelines.media.contract import BadSample

_SPLIT = "split"
_CAPTION_NAMES = ("caption", "captions", "text", "texts")
_Texts = tuple[str, ...]


@dataclass(frozen=True)
class CaptionTable:
    """A table with a column of file names and one of captions, held in memory by each task that
    asks.

    Attributes:
        uri: A file with a suffix of `SUFFIXES`.
        column: Which column holds captions; None: caption, captions, text or texts.
        root: URI of the folder below which samples lie; a name begins there or beside the table.
        split: Rows whose column `split` says this; None: all.
    """

    uri: str
    column: str | None
    root: str
    split: str | None = None

    @staticmethod
    def is_named_by(text: str) -> bool:
        """Tell whether a setting names a table, not a rule of names."""
        return text.lower().endswith(SUFFIXES)

    def of(self, uri: str, member: str | None) -> _Texts:
        """Return the captions of a sample.

        Args:
            uri: Of its file.
            member: Its name in a shard; None: it is the file.

        Raises:
            BadSample: `caption`: there is none.
        """
        known = _table(self.uri, self.column, self.split)
        for name in self._names(uri, member):
            if name in known:
                return known[name]
        raise BadSample("caption", f"no caption of {member or uri} in {self.uri}")

    def check(self) -> int:
        """Read the table; returns how many samples it names.

        Raises:
            ValueError: it cannot be read, or has not the columns; with the remedy.
        """
        return len(_table(self.uri, self.column, self.split))

    def _names(self, uri: str, member: str | None) -> list[str]:
        """Return what a sample may be called in the table, the longest name first."""
        if member is not None:
            member = nfc(member.removeprefix("./"))
            return [member, posixpath.basename(member)]
        folders = [self.root.rstrip("/") + "/", self.uri.rpartition("/")[0] + "/"]
        below = [uri.removeprefix(folder) for folder in folders if uri.startswith(folder)]
        return [nfc(name) for name in (uri, *below, posixpath.basename(uri))]


@lru_cache(maxsize=1)
def _table(uri: str, column: str | None, split: str | None) -> dict[str, _Texts]:
    """Read a table once a process."""
    names, rows = read_rows(uri, Columns(), LeftOutNames())
    files = next((name for name in names if name.casefold() in URI_NAMES), None)
    wanted = (column,) if column else _CAPTION_NAMES
    captions = next((name for name in names if name in wanted or name.casefold() in wanted), None)
    if files is None or captions is None:
        missing = " or ".join(URI_NAMES[:3]) if files is None else " or ".join(wanted)
        raise ValueError(
            f"source.captions {uri} has no column {missing} (it has"
            f" {', '.join(names[:8]) or 'none'}): name the captions' column with"
            " source.caption_column"
        )
    if split is not None and _SPLIT not in names:
        raise ValueError(f"captions {uri} has no column {_SPLIT}: leave split={split} out")
    found = defaultdict[str, list[str]](list)
    for row in rows:
        if split is not None and row.get(_SPLIT) != split:
            continue
        file = row.get(files)
        if isinstance(file, str) and file.strip():
            found[nfc(file.strip().removeprefix("./"))].extend(clean(row.get(captions)))
    return {name: tuple(texts) for name, texts in found.items() if texts}
