"""Makes rows of what a listing finds: a sample each, or the reason why it is left out."""

import hashlib
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines import schema
from pipelines.corpus.entry import Entry, Selection, is_hidden
from pipelines.corpus.file_kinds import (
    COMPRESSED,
    HEAD_BYTES,
    MEDIA_OF,
    TAR,
    is_one_text,
    kind_of,
    no_content,
    no_sample,
    sample_in,
)
from pipelines.corpus.tar_members import COMPRESSED_SHARD, Member, read_members
from pipelines.storage import uris
from pipelines.storage.retries import Refused
from pipelines.storage.threads import pool
from pipelines.texts.text_files import texts_in

LEFT_OUT = pa.field("left_out", pa.string())  # why a file is no sample; null for samples
MESSAGE = pa.field("message", pa.string())  # more of it, for a person
LISTED = schema.MANIFEST.append(LEFT_OUT).append(MESSAGE)
LOOKED_AT = 1024  # files whose first bytes are read at a time
LOCAL_THREADS = 4
REMOTE_THREADS = 64  # a store takes tens of milliseconds to answer, whatever the size
NESTED = {TAR: "tar in a tar (unpack it)", COMPRESSED: "compressed tar in a tar (unpack it)"}
REFUSED = "refused by the storage"
NOT_CHOSEN = "not in source.members"
SEVERAL = "file of several texts in a tar (unpack it)"
_SAMPLES = {kind for kinds in MEDIA_OF.values() for kind in kinds}
_IDENTITY = (schema.URI, "member", "etag")


def sample_id(uri: str, member: str | None, etag: str, clip: int = 0) -> int:
    """Hash what identifies a sample's content to a signed 64-bit id."""
    key = "\0".join([uri, member or "", str(clip), etag]).encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big", signed=True)


def rows_of(entries: Iterable[Entry], selection: Selection) -> Iterator[dict[str, Any]]:
    """Yield rows of schema `LISTED`: one a file, one a member of each tar shard, and one a text of
    each file of texts."""
    for entry, what in _told(entries, selection):
        if entry.problem is None and what == TAR:
            yield from _tar_rows(entry, selection)
        elif what == schema.TEXT in selection.media and entry.size and not _unfit(entry):
            yield from _text_rows(entry, selection)
        else:
            reason = entry.problem or _reason(entry, what, selection)
            yield _row(entry, 0, entry.size, None, what, left_out=reason, message=entry.message)


def _told(entries: Iterable[Entry], selection: Selection) -> Iterator[tuple[Entry, str]]:
    """Tell what each file holds, by its name, or by its first bytes where the name does not say so
    and that is asked."""
    rest = iter(entries)
    known = (*selection.media, TAR, COMPRESSED)
    while some := list(islice(rest, LOOKED_AT if selection.any_name else 1)):
        kinds = [kind_of(_name(entry)).what for entry in some]
        unknown = [
            index
            for index, entry in enumerate(some)
            if selection.any_name and kinds[index] not in known and entry.size and not _unfit(entry)
        ]
        if unknown:
            threads = LOCAL_THREADS if uris.is_local(some[0].uri) else REMOTE_THREADS
            looked_at = pool("look", threads).map(_look, [some[index] for index in unknown])
            for index, (entry, what) in zip(unknown, looked_at, strict=True):
                some[index] = entry
                kinds[index] = what
        yield from zip(some, kinds, strict=True)


def _look(entry: Entry) -> tuple[Entry, str]:
    """Read a file's first bytes and tell what it holds."""
    try:
        return entry, sample_in(uris.read_range(entry.uri, 0, min(HEAD_BYTES, entry.size)))
    except FileNotFoundError:
        return entry._replace(problem="gone while it was listed"), ""
    except (Refused, PermissionError) as error:
        return entry._replace(problem=REFUSED, message=str(error)), ""


def _name(entry: Entry) -> str:
    return entry.uri.rpartition("/")[2]


def _unfit(entry: Entry) -> str | None:
    """Say why a file is no sample whatever it holds."""
    return entry.problem or ("hidden file" if is_hidden(_name(entry)) else None)


def _reason(entry: Entry, what: str, selection: Selection) -> str | None:
    """Say why a file is left out; None where it is a sample."""
    if unfit := _unfit(entry):
        return unfit
    if what == COMPRESSED:
        return COMPRESSED_SHARD
    return _no_media(_name(entry), what, entry.size, selection)


def _no_media(name: str, what: str, size: int, selection: Selection) -> str | None:
    if what in selection.media or selection.any_name:
        if not size:
            return "zero bytes"
        return None if what in selection.media else no_content(selection.medium)
    return no_sample(name, selection.medium)


def _tar_rows(shard: Entry, selection: Selection) -> Iterator[dict[str, Any]]:
    if unfit := _unfit(shard) or (None if shard.size else "zero bytes"):
        yield _row(shard, 0, shard.size, None, TAR, left_out=unfit)
        return
    for member in _members(shard, selection.any_name):
        name, offset, length, what, problem, message = member
        if problem is None and name is not None:
            hidden = "hidden file" if is_hidden(name) else None
            chosen = None if selection.takes(name) else NOT_CHOSEN
            problem = hidden or chosen or NESTED.get(what)
            if what == schema.TEXT in selection.media and not is_one_text(name):
                problem = problem or SEVERAL
            problem = problem or _no_media(name, what, length, selection)
        yield _row(shard, offset, length, name, what, left_out=problem, message=message or None)


def _text_rows(file: Entry, selection: Selection) -> Iterator[dict[str, Any]]:
    """Yield a row for each text of a file of many."""
    try:
        for name, offset, length, _, problem, message in texts_in(
            file.uri, file.size, selection.text_columns
        ):
            more = message or None
            yield _row(file, offset, length, name, schema.TEXT, left_out=problem, message=more)
    except FileNotFoundError:
        yield _row(file, 0, file.size, None, schema.TEXT, left_out="gone while it was listed")
    except (Refused, PermissionError) as error:
        told = str(error)
        yield _row(file, 0, file.size, None, schema.TEXT, left_out=REFUSED, message=told)


def _members(shard: Entry, any_name: bool) -> Iterator[Member]:
    """List the members of a shard, or say that it is refused: the storage has just listed it, so it
    knows us."""
    try:
        yield from read_members(shard.uri, shard.size, any_name=any_name)
    except (Refused, PermissionError) as error:
        yield Member(None, 0, shard.size, "", REFUSED, str(error))


def _row(
    entry: Entry,
    offset: int,
    length: int,
    member: str | None,
    what: str,
    *,
    left_out: str | None,
    message: str | None = None,
) -> dict[str, Any]:
    return {
        schema.SAMPLE_ID: sample_id(entry.uri, member, entry.etag),
        schema.URI: entry.uri,
        schema.OFFSET: offset,
        schema.LENGTH: length,
        "member": member,
        "etag": entry.etag,
        schema.MEDIA: what if what in _SAMPLES else "",
        schema.CLIP: None,
        LEFT_OUT.name: left_out,
        MESSAGE.name: message,
    }


def per_clip(table: pa.Table, *, per_video: int) -> pa.Table:
    """Give each video a row for each of its clips, or the reason why it is left out."""
    is_video = np.array(table[schema.MEDIA]) == schema.VIDEO
    is_video &= table[LEFT_OUT.name].is_null().to_numpy()
    if not is_video.any():
        return table
    if not per_video:
        reason = np.where(
            is_video, "a video, and clip.per_video=0", table[LEFT_OUT.name].to_pylist()
        )
        return _replaced(table, LEFT_OUT.name, reason.tolist())
    repeats = np.where(is_video, per_video, 1)
    rows = table.take(np.repeat(np.arange(table.num_rows), repeats))
    clip = np.concatenate([np.arange(count) for count in repeats])
    of_video = np.repeat(is_video, repeats)
    keys = zip(
        of_video,
        clip,
        *(rows[name].to_pylist() for name in (schema.SAMPLE_ID, *_IDENTITY)),
        strict=True,
    )
    ids = [
        sample_id(uri, member, etag, int(i)) if video else key
        for video, i, key, uri, member, etag in keys
    ]
    rows = _replaced(
        rows,
        schema.CLIP,
        [int(i) if video else None for video, i in zip(of_video, clip, strict=True)],
    )
    return _replaced(rows, schema.SAMPLE_ID, ids)


def _replaced(table: pa.Table, name: str, values: list[Any]) -> pa.Table:
    index = table.schema.get_field_index(name)
    return table.set_column(
        index, table.schema.field(index), pa.array(values, table.schema.field(index).type)
    )
