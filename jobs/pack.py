"""Pack a source of any kind into WebDataset tar shards in hash order; a rerun writes only what is
missing."""

import json
import sys
import tempfile
import time
from dataclasses import replace
from typing import Any, ClassVar

import ray
from pydantic import Field

from augment.frozen import Frozen
from jobs.cluster import launch
from jobs.setup.bad_samples import BadSamples
from jobs.setup.claims import check_writable, claim, held, one_spelling
from jobs.setup.command_line import main
from jobs.setup.failures import InputError, as_one_line
from jobs.setup.inputs import check_version, manifest_of
from jobs.setup.sections import (
    DECODING,
    ORDER,
    TRAINING,
    WORKERS,
    ClusterConfig,
    JobConfig,
    SourceConfig,
)
from pipelines.corpus.entry import Selection
from pipelines.corpus.file_kinds import Medium
from pipelines.corpus.manifest import open_manifest, versions
from pipelines.corpus.manifest_writer import write_manifest
from pipelines.packing import parquet_source
from pipelines.packing.pack_plan import HashOrder, PackPlan, is_planned, samples_of, write_plan
from pipelines.packing.shards import Pack, Reencoding, measure, write_shards
from pipelines.ray_tasks import MAX_RETRIES
from pipelines.storage import uris
from pipelines.storage.lease import Held
from pipelines.stream import quarantine

RECORD = "pack.json"
MEASURED = 256  # samples that tell how much smaller re-encoding makes them
MIB = 1 << 20


class PackSource(SourceConfig):
    """Where samples come from: also Parquet files with a column of bytes."""

    bytes_column: str | None = Field(
        None,
        min_length=1,
        description="of Parquet files: bytes, or a struct of bytes and path; null: bytes or image",
    )


class ReencodeConfig(Frozen):
    """How images are made smaller, where `max_side` is given."""

    max_side: int | None = Field(
        None, ge=16, description="longer side at most, px; null: bytes stay as they are"
    )
    quality: int = Field(
        90, ge=1, le=100, description="JPEG quality; a JPEG within max_side stays as it is"
    )


# What of a source matters to pictures that are made smaller.
_READ = ("source.max_pixels", "source.max_bad_fraction", "source.value_range", "source.bands")


class PackConfig(JobConfig):
    """A pack."""

    example: ClassVar[str] = (
        "source.uri=s3://bucket/images out=s3://bucket/packed reencode.max_side=512"
    )
    most_used: ClassVar[tuple[str, ...]] = (
        "source.uri",
        "out",
        "shard_mib",
        "reencode.max_side",
        "reencode.quality",
    )
    ignored: ClassVar[tuple[str, ...]] = (
        *(key for key in DECODING if key not in _READ),
        *ORDER,
        *TRAINING,
        *WORKERS,
    )

    source: PackSource
    out: str = Field(
        min_length=1, description="folder of shards and manifest; new, or holding the same pack"
    )
    shard_mib: int = Field(
        128, ge=1, le=4096, description="size of a shard, MiB; 64 to 256 suit object storage"
    )
    reencode: ReencodeConfig = ReencodeConfig()
    cluster: ClusterConfig = ClusterConfig()


def pack(config: PackConfig) -> dict[str, Any]:
    """Pack the lower bytes of what was unpacked to where they were.

    Returns:
        `rows_in`, `rows` packed and `quarantined` (they add up), `shards_written`, `shards_kept`,
        `manifest`.

    Raises:
        InputError: the source cannot be packed, or `out` holds something else.
    """
    out = launch.absolute_out(config.out)
    source = launch.user_uri("source.uri", config.source.uri)
    launch.check_reachable("source.uri", source)
    side = config.reencode.max_side
    if config.source.value_range == "percentiles":
        raise InputError("source.value_range percentiles is not measured here: give [LOW,HIGH]")
    work = Pack(
        out, Reencoding(side, config.reencode.quality) if side else None, config.source.limits()
    )
    check_writable("out", out)
    with held("pack", out, "plan", "shards", "done", "quarantine", "staging", "source") as mine:
        return _pack(config, source, replace(work, fence=mine.fence), mine)


def _pack(config: PackConfig, source: str, work: Pack, mine: Held) -> dict[str, Any]:
    """Pack while nobody else writes to the folder."""
    out = work.out
    _claim(out, source, config)
    with launch.session(config.cluster, work="tasks", paths=(out, source)):
        with quarantine.compacting(work.quarantine):
            plan = _plan(config, source, work, mine)
            missing = work.missing(plan.num_shards)
            _write(config, plan, work, missing, mine)
        most = config.source.max_bad_fraction
        bad = BadSamples.of_quarantine(most, work.quarantine, plan.rows_in)
        bad.tell()
        bad.check(final=True)
        mine.fence.check()
        manifest = write_manifest(
            uris.join(out, "manifest"),
            work.shards,
            work.listed(plan.num_shards),
            Selection(medium=_medium(config, source)),
        )
    _clear(uris.join(out, "staging"))
    quarantined = plan.rows_in - manifest.num_rows
    return {
        "rows_in": plan.rows_in,
        "rows": manifest.num_rows,
        "quarantined": quarantined,
        "shards_written": len(missing),
        "shards_kept": plan.num_shards - len(missing),
        "manifest": manifest.uri,
        "result": (
            f"{manifest.num_rows} samples in {plan.num_shards} shards, {quarantined} quarantined:"
            f" {manifest.uri}"
        ),
    }


def _medium(config: PackConfig, source: str) -> Medium:
    """Return of which medium the samples are, as they were listed."""
    if config.source.media is None and versions(source):
        return open_manifest(source, config.source.version).selection.medium
    return config.source.media or "pictures"


def _claim(out: str, source: str, config: PackConfig) -> None:
    """Take the folder for this pack.

    Raises:
        InputError: it holds another one, or something else.
    """
    reencode = config.reencode.model_dump() if config.reencode.max_side else None
    wanted = {
        "source": one_spelling(source),
        "source.version": config.source.version,
        "bytes_column": config.source.bytes_column,
        "shard_mib": config.shard_mib,
    }
    record = wanted | {"reencode": reencode}
    claim("pack", out, RECORD, record)


def _plan(config: PackConfig, source: str, work: Pack, mine: Held) -> PackPlan:
    """Open the plan of the pack, made if missing.

    Raises:
        InputError: the source cannot be listed.
    """
    if not is_planned(work.plan):
        with tempfile.TemporaryDirectory(prefix="afield-pack-") as folder:
            order = HashOrder(f"{folder}/order")
            with as_one_line():
                rows_in = _collect(config, source, work, order)
            scale = 1.0
            if work.reencoding:
                task = ray.remote(measure).options(max_retries=MAX_RETRIES)
                scale = ray.get(task.remote(order.head(MEASURED), work))
            mine.fence.check()
            write_plan(
                work.plan, order, rows_in=rows_in, shard_bytes=config.shard_mib * MIB, scale=scale
            )
    return PackPlan(work.plan)


def _collect(config: PackConfig, source: str, work: Pack, order: HashOrder) -> int:
    """Gather all samples of the source; gives its number of rows."""
    column = config.source.bytes_column
    is_manifest = bool(versions(source))
    if column or (not is_manifest and parquet_source.is_parquet(source)):
        check_version(config.source, [])
        staging = parquet_source.Staging(uris.join(work.out, "staging"), work.quarantine, column)
        for table in parquet_source.stage(source, staging):
            order.add(table)
        return parquet_source.num_rows(source)
    manifest = manifest_of(config.source, uris.join(work.out, "source"))
    for table in samples_of(manifest):
        order.add(table)
    return manifest.num_rows


def _write(config: PackConfig, plan: PackPlan, work: Pack, missing: list[int], mine: Held) -> None:
    """Write shards.

    Raises:
        RunError: too many samples are bad.
    """
    start = time.monotonic()
    rows = 0
    size = 0
    bad = BadSamples(config.source.max_bad_fraction, work.quarantine)
    if len(missing) < plan.num_shards:
        print(
            f"{plan.num_shards - len(missing)} of {plan.num_shards} shards are there already",
            file=sys.stderr,
        )
    for number, shard in enumerate(write_shards(work, missing) if missing else (), start=1):
        mine.check()
        rows = rows + shard["rows"]
        size = size + shard["bytes"]
        bad.add(shard["rows"] + shard["quarantined"], json.loads(shard["reasons"]))
        speed = rows / (time.monotonic() - start)
        line = (
            f"shard {number}/{len(missing)}  {rows:,} samples  {size / MIB:,.0f} MiB  {speed:,.0f}"
            " samples/s"
        )
        print(f"{line}  {bad.total:,} quarantined", file=sys.stderr)
        bad.check()


def _clear(folder: str) -> None:
    """Delete the copies of a finished pack."""
    fs, path = uris.filesystem(folder)
    if fs.exists(path):
        fs.rm(path, recursive=True)


if __name__ == "__main__":
    sys.exit(main("pack", __doc__ or "", lambda values: (PackConfig, values), pack))
