"""Second images of samples: depth, infrared, another season. Found by name, fetched and decoded
beside the first."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import tee
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from augment.picture import Picture
from augment.recipe import PairKind
from augment.scenes.hha import hha, hha_image
from pipelines import schema
from pipelines.corpus.left_out import rows_of_shard
from pipelines.corpus.listed_rows import NOT_CHOSEN
from pipelines.media.contract import BadSample, Limits
from pipelines.media.decoder import Decoder
from pipelines.pairs.name_rule import second_name
from pipelines.storage import uris
from pipelines.storage.parquet_files import open_parquet
from pipelines.storage.threads import pool
from pipelines.stream.payload import Payload, payloads, reads
from pipelines.stream.stage_times import Stopwatch

THREADS = 32  # that ask for the sizes of loose files
_Place = tuple[str, int, int]  # URI, offset and length


@dataclass(frozen=True)
class SecondImages:
    """What a decode task needs to know of second images.

    Attributes:
        rule: Names them, as `second_name` says.
        kind: What is made of them.
        camera: fx, fy, cx, cy of `augment.scenes.hha`, px of whole images; of kind `hha`.
        unit_m: Metres that a step of the files' values is; of kind `hha`.
        left_out: URI of the manifest's table of files that are no samples: those in shards are
            found there; None: there is none.
    """

    rule: str
    kind: PairKind = "colours"
    camera: tuple[float, float, float, float] | None = None
    unit_m: float = 0.001
    left_out: str | None = None

    @property
    def named(self) -> tuple[str, ...]:
        """Return the columns that `columns` gives."""
        return ()

    def columns(self, rows: pa.Table) -> dict[str, np.ndarray]:
        """Return what else is known of each row and its second image, a column a name."""
        return {}

    def sought(self, rows: pa.Table) -> list[str]:
        """Name the second image of each row."""
        places = zip(rows[schema.MEMBER].to_pylist(), rows[schema.URI].to_pylist(), strict=True)
        return [second_name(member or address, self.rule) for member, address in places]

    def payloads(
        self, blocks: Iterator[pa.Table], limits: Limits, clock: Stopwatch
    ) -> Iterator[Payload]:
        """Fetch the second image of each row of blocks of manifest rows, in order.

        Yields:
            As `pipelines.stream.payload.payloads`; a `BadSample` of reason `pair` where there is
            none.
        """
        addressed, asked = tee(self._addressed(block, clock) for block in blocks)
        fetched = payloads(addressed, limits, clock)
        for rows in asked:
            for row in rows.select([schema.LENGTH, "sought"]).to_pylist():
                payload = next(fetched)
                yield payload if row[schema.LENGTH] else _missing(row["sought"])

    def reads(self, blocks: Iterator[pa.Table], limits: Limits) -> tuple[int, int]:
        """Return the requests and the bytes of `payloads` for blocks; the sizes of loose files are
        asked for here too."""
        addressed = [self._addressed(block, Stopwatch()) for block in blocks]
        loose = sum(block[schema.MEMBER].null_count for block in addressed)
        requests, size = reads(iter(addressed), limits)
        return requests + loose, size

    def decode(self, payload: Payload, first: Picture, decoder: Decoder) -> np.ndarray:
        """Decode the second image of a picture.

        Returns:
            (H, W, 3) uint8, the height and width of the first; of kind `depth` (H, W) int32, the
            values of the file as they are.

        Raises:
            BadSample: `pair`: it cannot be used, or is of another size.
        """
        if isinstance(payload, BadSample):
            raise payload if payload.reason == "pair" else _of_pair(str(payload))
        assert isinstance(payload, bytes)
        try:
            if self.kind == "colours":
                return _of_size(decoder.image(payload).pixels, first)
            depth = _of_size(decoder.depth(payload), first)
        except BadSample as problem:
            raise problem if problem.reason == "pair" else _of_pair(problem.message) from None
        return self._hha(depth) if self.kind == "hha" else depth.astype(np.int32)

    def _hha(self, depth: np.ndarray) -> np.ndarray:
        """Turn depth (H, W) into the three channels of HHA, (H, W, 3) uint8."""
        assert self.camera is not None
        metres = torch.from_numpy(depth.astype(np.float32) * self.unit_m).unsqueeze(0)
        image = hha_image(hha(metres, torch.tensor([self.camera])))[0]
        levels = (image * 255).round().to(torch.uint8)
        return np.ascontiguousarray(levels.permute(1, 2, 0).numpy())

    def _addressed(self, rows: pa.Table, clock: Stopwatch) -> pa.Table:
        """Address second images as though they were samples; those that are missing have no
        bytes."""
        members = rows[schema.MEMBER].to_pylist()
        addresses = rows[schema.URI].to_pylist()
        sought = self.sought(rows)
        with clock.time("fetch"):
            places = self._places(addresses, members, sought)
        columns: dict[str, Any] = {
            schema.URI: [uri for uri, _, _ in places],
            schema.OFFSET: pa.array([offset for _, offset, _ in places], pa.int64()),
            schema.LENGTH: pa.array([length for _, _, length in places], pa.int64()),
            schema.MEMBER: pa.array(members, pa.string()),
            "etag": [""] * len(places),
            schema.MEDIA: ["image"] * len(places),
            "sought": sought,
        }
        return pa.table(columns)

    def _places(
        self, addresses: list[str], members: list[str | None], sought: list[str]
    ) -> list[_Place]:
        loose = [name for name, member in zip(sought, members, strict=True) if member is None]
        sizes = dict(zip(loose, pool("sizes", THREADS).map(_size, loose), strict=True))
        places = list[_Place]()
        for address, member, name in zip(addresses, members, sought, strict=True):
            if member is None:
                places.append((name, 0, sizes[name]))
            else:
                known = _in_shard(self.left_out, address) if self.left_out else {}
                places.append((address, *known.get(name, (0, 0))))
        return places


def _missing(sought: str) -> BadSample:
    if not sought:
        return BadSample(
            "pair", "no pose of its frame, or none of another near by: check source.poses"
        )
    return BadSample(
        "pair",
        f"no second image {sought}, or an empty one: check source.pair, and leave second images in"
        " shards out of the samples with source.members",
    )


def _of_pair(message: str) -> BadSample:
    return BadSample("pair", f"its second image: {message}")


def _of_size(pixels: np.ndarray, first: Picture) -> np.ndarray:
    """Return pixels as they are.

    Raises:
        BadSample: they are not as many as the first image's.
    """
    height, width = pixels.shape[:2]
    if (height, width) != (first.height, first.width):
        raise BadSample(
            "pair",
            f"its second image is {width} x {height}, the first {first.width} x {first.height}:"
            " both must show the same, at the same size",
        )
    return pixels


def _size(uri: str) -> int:
    """Return the bytes of a file, 0 where there is none."""
    if not uri:
        return 0
    try:
        return uris.size(uri)
    except (FileNotFoundError, NotADirectoryError):
        return 0


@lru_cache(maxsize=32)  # as many may be drawn from together: `source.interleave`
def _in_shard(table: str, shard: str) -> dict[str, tuple[int, int]]:
    """Return offset and length of the members of a shard that are no samples by choice, by name."""
    rows = rows_of_shard(open_parquet(table), shard)
    rows = rows.filter(pc.equal(rows["reason"], NOT_CHOSEN))
    names = [name.removeprefix("./") for name in rows[schema.MEMBER].to_pylist()]
    offsets = rows[schema.OFFSET].to_pylist()
    lengths = rows[schema.LENGTH].to_pylist()
    return dict(zip(names, zip(offsets, lengths, strict=True), strict=True))
