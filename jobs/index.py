"""List a corpus once and write its manifest; again later: add a version with what changed."""

import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any

import pyarrow as pa
from pydantic import Field
from ray.exceptions import RayTaskError

from augment.frozen import Frozen
from jobs.setup import launch
from jobs.setup.command_line import InputError, main
from jobs.training.run_config import ClusterConfig, PerVideoConfig, SourceConfig
from pipelines.corpus.changes import Diff
from pipelines.corpus.listing import list_source
from pipelines.corpus.manifest import Manifest, check_source, open_manifest, versions, write_manifest
from pipelines.schema import VIDEO

PROGRESS_S = 5.0


class IndexConfig(Frozen):
    """A listing of a corpus."""

    source: SourceConfig
    out: str = Field(min_length=1, description="the manifest: a path or s3:// prefix")
    clip: PerVideoConfig = PerVideoConfig()
    cluster: ClusterConfig = ClusterConfig()


def index(config: IndexConfig) -> dict[str, Any]:
    """Write the next version of the manifest at `config.out`, or none where nothing changed.

    Returns:
        `rows`, `version`, `unchanged`, `left_out` and, as `diff`, what was `added, removed, changed, kept` since the
        version before.
    """
    out, source = launch.absolute_out(config.out), launch.user_uri("source.uri", config.source.uri)
    launch.check_reachable("source.uri", source)
    before = _before(out, source)
    with launch.session(config.cluster, train=False, paths=(out, source)):
        manifest = make_manifest(source, out, config.clip.per_video)
    unchanged = before is not None and before.version == manifest.version
    diff = Diff(0, 0, 0, manifest.num_rows) if unchanged else manifest.diff
    what = "unchanged" if unchanged else str(diff) if before else "new"
    return {
        "rows": manifest.num_rows,
        "version": manifest.version,
        "unchanged": unchanged,
        "diff": asdict(diff),
        "left_out": manifest.left_out,
        "result": f"{manifest.num_rows} samples, version {manifest.version} ({what}): {manifest.uri}",
    }


def _before(out: str, source: str) -> Manifest | None:
    """Open the version there is; refused before anything starts where it is of another source."""
    before = open_manifest(out) if versions(out) else None
    try:
        check_source(before, source)
    except ValueError as error:
        raise InputError(str(error)) from None
    return before


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
    print(f"indexed {manifest.num_rows} samples of {source}{f'; left out: {left}' if left else ''}", file=sys.stderr)
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


if __name__ == "__main__":
    sys.exit(main("index", __doc__ or "", lambda values: (IndexConfig, values), index))
