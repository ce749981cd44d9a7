"""The order in which samples are predicted: parts of one number of positions, which never divide
the clips of a video."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipelines import schema
from pipelines.corpus.manifest import Manifest
from pipelines.stream.orders import ManifestOrder, keyed


@dataclass(frozen=True, eq=False)
class WholeVideos:
    """Every sample of a manifest once, a video as so many clips one behind the other.

    A manifest that lists several clips of a video has them at random places. So the first of them
    stands for all here, and the others are passed over.

    Blocks of the stream are cut by position, so that all parts have the same number of positions.
    What the last video of a part leaves of them repeats its first row, and nobody looks at that.

    Attributes:
        manifest: Of the samples.
        part_rows: Positions of a part.
        per_video: Clips of each video.
        starts: (n + 1,) the row of the manifest at which each part starts, and the end.
    """

    manifest: Manifest
    part_rows: int
    per_video: int
    starts: np.ndarray

    @classmethod
    def of(cls, manifest: Manifest, part_rows: int, per_video: int | None) -> "WholeVideos":
        """Cut a manifest to parts.

        Args:
            manifest: Of the samples.
            part_rows: Positions of a part.
            per_video: Clips of each video; None: as it is listed.

        Raises:
            ValueError: a part is too small for the clips of a video.
        """
        clips = max(1, manifest.per_video if per_video is None else per_video)
        if clips > part_rows:
            raise ValueError(
                f"part_rows {part_rows} is too small for {clips} clips a video: give {clips} at"
                " least"
            )
        one_each = max(clips, manifest.per_video) == 1 or schema.VIDEO not in manifest.media
        if one_each:
            edges = [*range(0, manifest.num_rows, part_rows), manifest.num_rows]
        else:
            edges = cuts(_positions(manifest, clips), part_rows)
        return cls(manifest, part_rows, 1 if one_each else clips, np.array(edges, np.int64))

    def parts(self) -> list[tuple[int, int]]:
        """Return the positions of each part, [start, stop)."""
        count = len(self.starts) - 1
        sizes = [self.part_rows] * count
        if count:
            sizes[-1] = self.part(count - 1).num_rows
        firsts = range(0, count * self.part_rows, self.part_rows)
        return [(first, first + size) for first, size in zip(firsts, sizes, strict=True) if size]

    def rows_of(self, index: int) -> tuple[int, int]:
        """Return the rows of the manifest that a part answers for, [start, stop)."""
        return int(self.starts[index]), int(self.starts[index + 1])

    def part(self, index: int) -> pa.Table:
        """Return the rows of a part, one a clip, without what it repeats."""
        rows = pa.concat_tables(ManifestOrder(self.manifest).rows(*self.rows_of(index)))
        clip = np.zeros(rows.num_rows, np.int32)
        if self._has_clips:
            sizes = _sizes(rows, self.per_video)
            rows = rows.take(pa.array(np.repeat(np.arange(rows.num_rows), sizes)))
            ends = np.repeat(np.cumsum(sizes), sizes)
            clip = np.arange(rows.num_rows) - (ends - np.repeat(sizes, sizes))
        place = rows.schema.get_field_index(schema.CLIP)
        rows = rows.set_column(place, schema.CLIP, pa.array(clip, pa.int32()))
        return self._keyed(rows, index)

    @property
    def _has_clips(self) -> bool:
        return max(self.per_video, self.manifest.per_video) > 1

    def rows(self, start: int, stop: int) -> Iterator[pa.Table]:
        """Yield the clips of positions [start, stop), in order."""
        if not self._has_clips:
            yield from ManifestOrder(self.manifest).rows(start, stop)
            return
        while start < stop:
            index, first = divmod(start, self.part_rows)
            count = min(self.part_rows - first, stop - start)
            yield self._padded(index).slice(first, count)
            start += count

    def _padded(self, index: int) -> pa.Table:
        rows = self.part(index)
        repeated = np.zeros(self.part_rows, np.int64)
        repeated[: rows.num_rows] = np.arange(rows.num_rows)
        return self._keyed(rows.take(pa.array(repeated)), index)

    def _keyed(self, rows: pa.Table, index: int) -> pa.Table:
        rows = rows.drop_columns([schema.EPOCH, schema.POSITION])
        return keyed(rows, epoch=0, start=index * self.part_rows)


def _positions(manifest: Manifest, clips: int) -> Iterator[np.ndarray]:
    columns = [schema.MEDIA, schema.CLIP]
    for part, row_group, _ in manifest.row_groups():
        yield _sizes(manifest.read_row_group(part, row_group, columns), clips)


def _sizes(rows: pa.Table, clips: int) -> np.ndarray:
    """Return how many positions each row of a manifest takes."""
    is_video = np.array(rows[schema.MEDIA]) == schema.VIDEO
    is_first = rows[schema.CLIP].fill_null(0).to_numpy() == 0
    sizes: np.ndarray = np.where(is_video, clips * is_first, 1)
    return sizes


def cuts(sizes: Iterable[np.ndarray], part_rows: int) -> list[int]:
    """Cut rows to parts of so many positions at most, each as large as it can be.

    Args:
        sizes: Positions of the rows, some at a time; of a row at most `part_rows`.
        part_rows: Positions of a part.

    Returns:
        The first row of each part, and the end.
    """
    starts = [0]
    used = 0
    row = 0
    for some in sizes:
        total = np.cumsum(some)
        before = 0
        while (index := int(np.searchsorted(total, part_rows - used + before, "right"))) < len(
            some
        ):
            starts.append(row + index)
            before = int(total[index - 1]) if index else 0
            used = 0
        used += int(total[-1]) - before if len(some) else 0
        row += len(some)
    return [*starts, row]
