"""What a run asks of storage: requests and bytes, as the stream and the log make them."""

import math
from dataclasses import dataclass
from itertools import islice

from jobs.estimating.price_table import StoragePrices
from jobs.estimating.time_model import RunTime, Work
from jobs.training.run_log import FLUSH_S
from pipelines.captions.caption_table import CaptionTable
from pipelines.pairs.files_beside import FilesBeside
from pipelines.storage.lease import BEAT_S
from pipelines.stream.ingest import Ingest, item_blocks
from pipelines.stream.payload import reads

KEYS_A_PAGE = 1000
SEEN_BLOCKS = 64
FILES_A_CHECKPOINT = 3  # state, contents, and Ray Train's record
PART_BYTES = 8 << 20  # of a file that is written in parts
GIB = 2**30


@dataclass(frozen=True)
class StorageUse:
    """Requests and bytes of a run.

    Attributes:
        lists: Requests that list the source.
        reads: Requests that read samples.
        writes: Requests that write checkpoints, log and lease.
        read_bytes: Of samples.
        kept_bytes: What lies in the run directory at the end: its checkpoints.
    """

    lists: int
    reads: int
    writes: int
    read_bytes: float
    kept_bytes: int


def of_a_sample(
    work: Ingest, captions: FilesBeside | CaptionTable | None = None
) -> tuple[float, float]:
    """Return the requests and bytes with which a sample is read, over the first blocks of the
    order.

    Args:
        work: What the data tasks do.
        captions: Where the captions are that they read too; None: none are read.
    """
    blocks = list(islice(item_blocks(work, 0, work.item_rows()), SEEN_BLOCKS))
    count = sum(block.num_rows for block in blocks)
    requests, size = reads(iter(blocks), work.limits, verify=work.verify)
    if work.pair:
        more, larger = work.pair.reads(iter(blocks), work.limits)
        requests += more
        size += larger
    if isinstance(captions, FilesBeside):  # a table is read once by each task
        more, larger = captions.reads(iter(blocks), work.limits)
        requests += more
        size += larger
    return requests / count, size / count


def storage_use(
    work: Work, time: RunTime, *, requests_per_sample: float, checkpoint_bytes: int, kept: int
) -> StorageUse:
    """Return what a run asks of storage.

    Args:
        work: What it does.
        time: How long that takes.
        requests_per_sample: As `of_a_sample` says.
        checkpoint_bytes: Of one checkpoint.
        kept: Checkpoints that stay.
    """
    shown = work.num_steps * work.batch
    parts = FILES_A_CHECKPOINT + checkpoint_bytes // PART_BYTES
    writes = (time.saves + 1) * parts + time.seconds / FLUSH_S + time.seconds / BEAT_S
    return StorageUse(
        lists=math.ceil(work.samples / KEYS_A_PAGE) if work.listed else 0,
        reads=round(shown * requests_per_sample),
        writes=round(writes),
        read_bytes=shown * work.bytes_per_sample,
        kept_bytes=min(kept, time.saves + 1) * checkpoint_bytes,
    )


def dollars(use: StorageUse, prices: StoragePrices) -> float:
    """Return what the requests and the bytes read cost."""
    return (
        use.reads / 1000 * prices.dollars_per_1000_reads
        + (use.writes + use.lists) / 1000 * prices.dollars_per_1000_writes
        + use.read_bytes / GIB * prices.dollars_per_gib_read
    )
