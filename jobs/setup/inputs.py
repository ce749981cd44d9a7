"""What a job is given: an artifact, a corpus and its manifest."""

import sys
import time
from collections.abc import Iterable, Iterator

import pyarrow as pa
from ray.exceptions import RayTaskError

from jobs.setup.command_line import InputError
from models import artifact
from models.artifact import Artifact
from pipelines.corpus.listing import list_source
from pipelines.corpus.manifest import Manifest, open_manifest, versions
from pipelines.corpus.manifest_writer import write_manifest
from pipelines.schema import VIDEO

PROGRESS_S = 5.0


def load_artifact(uri: str) -> Artifact:
    """Load the artifact that a job was given.

    Raises:
        InputError: there is none, or it is damaged.
    """
    try:
        return artifact.load(uri)
    except (ValueError, OSError) as error:
        raise InputError(f"artifact {uri} cannot be loaded: {str(error).splitlines()[0]}") from None


def make_manifest(source: str, out: str, per_video: int | None = None) -> Manifest:
    """List a source into a manifest; both URIs absolute; each video `per_video` times, or as often as before, or once.

    Raises:
        InputError: the source is missing, refused or holds no samples, or somebody else wrote the version meanwhile.
    """
    if per_video is None:
        per_video = open_manifest(out).per_video if versions(out) else 1
    try:
        tables = _with_progress(list_source(source, per_video=per_video))
        manifest = write_manifest(out, source, tables, per_video=per_video)
    except ValueError as error:
        raise InputError(str(error)) from None
    except RayTaskError as error:
        if isinstance(error.cause, ValueError):
            raise InputError(str(error.cause)) from None
        raise
    left = ", ".join(f"{count} x {reason}" for reason, count in manifest.left_out.items())
    print(
        f"indexed {manifest.num_rows} samples of {source}{f'; left out: {left}' if left else ''}",
        file=sys.stderr,
    )
    return manifest


def _with_progress(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Pass tables on and say on stderr how far the listing is, every few seconds."""
    start = told = time.monotonic()
    files = 0
    for table in tables:
        files += table.num_rows
        now = time.monotonic()
        if now - told >= PROGRESS_S:
            told = now
            print(f"listed {files:,} files  {files / (now - start):,.0f} files/s", file=sys.stderr)
        yield table


def manifest_of(source: str, fallback: str, per_video: int | None = None) -> Manifest:
    """Open the manifest of a source: the source itself where it is one, else the one at `fallback`, made if missing.

    Raises:
        InputError: the source is missing, refused or holds no samples; or its videos are listed with another number of
            clips than `per_video`.
    """
    place = source if versions(source) else fallback
    if not versions(place):
        return make_manifest(source, fallback, per_video)
    manifest = open_manifest(place)
    listed = manifest.per_video
    if per_video not in (None, listed) and (VIDEO in manifest.media or not listed):
        raise InputError(
            f"clip.per_video {per_video}, but {place} was listed with {listed}: leave it out or set "
            f"clip.per_video={listed}, or make another manifest with jobs.index clip.per_video={per_video}"
        )
    return manifest


def check_media(manifest: Manifest, *, as_frames: bool, method: str) -> None:
    """Refuse to feed clips of videos to a method that takes images.

    Raises:
        InputError: there are videos and they are not taken as frames.
    """
    if not as_frames and (clips := manifest.media.get(VIDEO)):
        raise InputError(
            f"source.uri {manifest.source} holds {clips} clips of videos, and method.name={method} takes images: "
            "set clip.as_frames=true, or leave videos out with clip.per_video=0"
        )
