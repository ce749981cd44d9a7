"""List a corpus once and write its manifest."""

import sys
from typing import Any

from pydantic import Field
from ray.exceptions import RayTaskError

from augment.frozen import Frozen
from jobs import launch
from jobs.command_line import InputError, main
from jobs.config import ClusterConfig, SourceConfig
from pipelines.listing import list_source
from pipelines.manifest import Manifest, open_manifest, versions, write_manifest


class IndexConfig(Frozen):
    """A listing of a corpus."""

    source: SourceConfig
    out: str = Field(min_length=1, description="the manifest: a path or s3:// prefix")
    cluster: ClusterConfig = ClusterConfig()


def index(config: IndexConfig) -> dict[str, Any]:
    """Write the next version of the manifest at `config.out`."""
    out, source = launch.absolute_out(config.out), launch.user_uri("source.uri", config.source.uri)
    launch.check_reachable("source.uri", source)
    with launch.session(config.cluster, train=False, paths=(out, source)):
        manifest = make_manifest(source, out)
    return {
        "rows": manifest.num_rows,
        "version": manifest.version,
        "left_out": manifest.left_out,
        "result": f"{manifest.num_rows} samples, version {manifest.version}: {manifest.uri}",
    }


def make_manifest(source: str, out: str) -> Manifest:
    """List a source into a manifest; both URIs absolute.

    Raises:
        InputError: the source is missing, refused or holds no samples.
    """
    try:
        manifest = write_manifest(out, source, list_source(source))
    except ValueError as error:
        raise InputError(str(error)) from None
    except RayTaskError as error:
        if isinstance(error.cause, ValueError):
            raise InputError(str(error.cause)) from None
        raise
    left = ", ".join(f"{count} x {reason}" for reason, count in manifest.left_out.items())
    print(f"indexed {manifest.num_rows} samples of {source}{f'; left out: {left}' if left else ''}", file=sys.stderr)
    return manifest


def manifest_of(source: str, fallback: str) -> Manifest:
    """Open the manifest of a source: the source itself where it is one, else the one at `fallback`, made if missing.

    Raises:
        InputError: the source is missing, refused or holds no samples.
    """
    if versions(source):
        return open_manifest(source)
    return open_manifest(fallback) if versions(fallback) else make_manifest(source, fallback)


if __name__ == "__main__":
    sys.exit(main("index", __doc__ or "", lambda values: (IndexConfig, values), index))
