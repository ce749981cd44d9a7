"""List a corpus once and write its manifest; again later: add a version with what changed."""

import sys
from dataclasses import asdict
from typing import Any, ClassVar

from pydantic import Field

from jobs.cluster import launch
from jobs.corpora.video_survey import survey
from jobs.setup.claims import check_writable
from jobs.setup.command_line import main
from jobs.setup.failures import as_one_line
from jobs.setup.inputs import make_manifest
from jobs.setup.sections import (
    ORDER,
    TRAINING,
    WORKERS,
    ClusterConfig,
    JobConfig,
    ListedClipConfig,
    SourceConfig,
)
from pipelines.corpus.changes import Diff
from pipelines.corpus.manifest import Manifest, open_manifest, versions
from pipelines.corpus.manifest_writer import check_source

_DECODING = (
    "source.max_pixels",
    "source.max_bytes",
    "source.max_frames",
    "source.max_duration_s",
    "source.decode_timeout_s",
    "source.allow_truncated",
    "source.max_bad_fraction",
)


class IndexConfig(JobConfig):
    """A listing of a corpus."""

    example: ClassVar[str] = "source.uri=s3://bucket/images out=s3://bucket/manifest"
    most_used: ClassVar[tuple[str, ...]] = ("source.uri", "out")
    ignored: ClassVar[tuple[str, ...]] = (
        *("source.version", "source.value_range", "source.bands", "source.verify"),
        *ORDER,
        *TRAINING,
        *WORKERS,
    )

    source: SourceConfig
    out: str = Field(min_length=1, description="the manifest: a path or s3:// prefix")
    max_gone_fraction: float = Field(
        0.5,
        ge=0,
        le=1,
        description=(
            "no version is made where more of the samples are gone: something may not be mounted"
        ),
    )
    clip: ListedClipConfig = ListedClipConfig()
    cluster: ClusterConfig = ClusterConfig()

    def idle(self) -> dict[str, str]:
        """Return what has no use where nothing is decoded."""
        unused = () if self.clip.curves else _DECODING
        return dict.fromkeys(unused, "clip.curves")


def index(config: IndexConfig) -> dict[str, Any]:
    """Write the next version of the manifest at `config.out`, or none where nothing changed.

    Returns:
        `rows`, `version`, `unchanged`, `left_out` and, as `diff`, what was `added, removed,
        changed, kept` since the version before; with `clip.curves`, `videos` that were looked at
        and `bad_videos` of them by reason.
    """
    out = launch.absolute_out(config.out)
    source = launch.user_uri("source.uri", config.source.uri)
    launch.check_reachable("source.uri", source)
    check_writable("out", out)
    before = _before(out, source)
    with launch.session(config.cluster, work="tasks", paths=(out, source)):
        manifest = make_manifest(
            config.source, out, config.clip.per_video, max_gone_fraction=config.max_gone_fraction
        )
        looked_at = _look_at_videos(config, manifest) if config.clip.curves else {}
    unchanged = before is not None and before.version == manifest.version
    diff = Diff(0, 0, 0, manifest.num_rows) if unchanged else manifest.diff
    what = "unchanged" if unchanged else str(diff) if before else "new"
    return {
        "rows": manifest.num_rows,
        "version": manifest.version,
        "unchanged": unchanged,
        "diff": asdict(diff),
        "left_out": manifest.left_out,
        **looked_at,
        "result": (
            f"{manifest.num_rows} samples, version {manifest.version} ({what}): {manifest.uri}"
        ),
    }


def _look_at_videos(config: IndexConfig, manifest: Manifest) -> dict[str, Any]:
    looked_at = survey(config.source, manifest, config.clip.flow)
    return {"videos": looked_at.seen, "bad_videos": dict(looked_at.reasons)}


def _before(out: str, source: str) -> Manifest | None:
    """Open the version there is; refused before anything starts where it is of another source."""
    before = open_manifest(out) if versions(out) else None
    with as_one_line():
        check_source(before, source)
    return before


if __name__ == "__main__":
    sys.exit(main("index", __doc__ or "", lambda values: (IndexConfig, values), index))
