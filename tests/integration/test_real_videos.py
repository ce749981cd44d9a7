"""149 videos as the world has them, and what a thousand clips cost in memory."""

import csv
import io
import tarfile
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pytest

from augment.presets import simclr_views
from pipelines import schema
from pipelines.media.clips import Sampling
from pipelines.media.contract import Clip, Limits
from pipelines.media.decoder import kept_decoder
from pipelines.media.video import decode_clip
from pipelines.stream import shapes
from pipelines.stream.ingest import Ingest, run_items
from pipelines.stream.orders import Listed
from tests.pipelines.media.videos import video
from tests.pipelines.stream.test_ingest import items, listed
from tests.shared_data import shared_data

pytestmark = pytest.mark.slow
VIDEOS = shared_data("videos.tar")


@pytest.mark.timeout(1200)
@pytest.mark.skipif(VIDEOS is None, reason="the collection of videos is not on this machine")
def test_clips_of_real_videos_are_a_plain_decode_at_the_same_times() -> None:
    assert VIDEOS is not None
    with tarfile.open(VIDEOS) as tar:
        labels = tar.extractfile("labels.csv")
        assert labels is not None
        rows = list(csv.DictReader(io.TextIOWrapper(labels, "utf-8")))
        for row in rows:
            member = tar.extractfile(row["file"])
            assert member is not None
            _compare(row, member.read())
    assert len(rows) == 149 and sum(row["vfr"] == "1" for row in rows) == 9


def _compare(row: dict[str, str], data: bytes) -> None:
    clips = [
        decode_clip(io.BytesIO(data), Clip(4, 2, None, at), Limits()) for at in (0.1, 0.5, 1.0)
    ]
    wanted = {round(time, 6) for clip in clips for time in clip.times}
    plain = _plain(data, wanted)
    for clip in clips:
        height, width = int(row["height"]), int(row["width"])
        turned = row["rotation"] in ("90", "-90")
        assert clip.frames.shape == (4, *((width, height) if turned else (height, width)), 3), row[
            "file"
        ]
        for pixels, time in zip(clip.frames, clip.times, strict=True):
            assert np.array_equal(pixels, plain[round(time, 6)]), f"{row['file']} at {time}"


def _plain(data: bytes, wanted: set[float]) -> dict[float, np.ndarray]:
    """Decode the whole file from its beginning, and keep the frames at some times, turned
    upright."""
    kept: dict[float, np.ndarray] = {}
    with av.open(io.BytesIO(data), metadata_errors="replace") as container:
        is_avi, last, period = (
            container.format.name == "avi",
            0.0,
            1 / float(container.streams.video[0].guessed_rate),
        )
        for frame in container.decode(video=0):
            stamp = frame.dts if is_avi else frame.pts  # AVI has no presentation times
            last = last + period if stamp is None else float(stamp * frame.time_base)
            if round(last, 6) in wanted:
                kept[round(last, 6)] = np.rot90(
                    frame.to_ndarray(format="rgb24"), frame.rotation // 90
                )
    return kept


def test_memory_stays_flat_over_a_thousand_clips(tmp_path: Path) -> None:
    kinds = [("mp4", "libx264"), ("matroska", "libx264"), ("webm", "libvpx-vp9"), ("avi", "mpeg4")]
    files = [tmp_path / f"{number}.mkv" for number in range(8)]  # the decoder goes by content
    for number, file in enumerate(files):
        kind, codec = kinds[number % 4]
        file.write_bytes(video(100 + number, kind=kind, codec=codec))
    few = listed(files).table
    table = pa.concat_tables(
        [few.set_column(0, schema.SAMPLE_ID, pa.array(range(i, i + 8))) for i in range(0, 1200, 8)]
    )
    shape = shapes.Clips(shapes.Crops(simclr_views(32), 0, photometric=False), 8)
    sampling = Sampling(num_frames=8, frame_stride=2, as_frames=False, seed=0)
    work = Ingest(
        Listed(table), shape, 50, Limits(), quarantine=None, run="test", sampling=sampling
    )
    resident = []
    for block in run_items(items((0, 1200)), ingest=work):
        assert block[schema.VALID].all()
        child = kept_decoder(work.limits, work.decoder)._child
        assert child is not None
        resident.append(_resident_mib("self") + _resident_mib(str(child.pid)))
    # after 200 clips, over 1 000 more
    assert len(resident) == 24 and max(resident) - resident[3] < 16, resident


def _resident_mib(process: str) -> float:
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * 4096 / 2**20
