"""List a corpus once and write its manifest; again later: add a version with what changed."""

import sys
from dataclasses import asdict
from typing import Any, ClassVar

from pydantic import Field

from jobs.cluster import launch
from jobs.setup.claims import check_writable
from jobs.setup.command_line import main
from jobs.setup.failures import as_one_line
from jobs.setup.inputs import make_manifest
from jobs.setup.sections import (
    DECODING,
    ORDER,
    TRAINING,
    WORKERS,
    ClusterConfig,
    JobConfig,
    PerVideoConfig,
    SourceConfig,
)
from pipelines.corpus.changes import Diff
from pipelines.corpus.manifest import Manifest, open_manifest, versions
from pipelines.corpus.manifest_writer import check_source


class IndexConfig(JobConfig):
    """A listing of a corpus."""

    example: ClassVar[str] = "source.uri=s3://bucket/images out=s3://bucket/manifest"
    most_used: ClassVar[tuple[str, ...]] = ("source.uri", "out")
    ignored: ClassVar[tuple[str, ...]] = (*DECODING, *ORDER, *TRAINING, *WORKERS)

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
    clip: PerVideoConfig = PerVideoConfig()
    cluster: ClusterConfig = ClusterConfig()


def index(config: IndexConfig) -> dict[str, Any]:
    """Write the next version of the manifest at `config.out`, or none where nothing changed.

    Returns:
        `rows`, `version`, `unchanged`, `left_out` and, as `diff`, what was `added, removed,
        changed, kept` since the version before.
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
    unchanged = before is not None and before.version == manifest.version
    diff = Diff(0, 0, 0, manifest.num_rows) if unchanged else manifest.diff
    what = "unchanged" if unchanged else str(diff) if before else "new"
    return {
        "rows": manifest.num_rows,
        "version": manifest.version,
        "unchanged": unchanged,
        "diff": asdict(diff),
        "left_out": manifest.left_out,
        "result": (
            f"{manifest.num_rows} samples, version {manifest.version} ({what}): {manifest.uri}"
        ),
    }


def _before(out: str, source: str) -> Manifest | None:
    """Open the version there is; refused before anything starts where it is of another source."""
    before = open_manifest(out) if versions(out) else None
    with as_one_line():
        check_source(before, source)
    return before


if __name__ == "__main__":
    sys.exit(main("index", __doc__ or "", lambda values: (IndexConfig, values), index))
