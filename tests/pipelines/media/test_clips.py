"""Where in a video each of its clips lies."""

import numpy as np
import pyarrow as pa
import pytest

from pipelines import schema
from pipelines.media.clips import Sampling


def rows(*, clips: list[int | None], epoch: int = 0) -> pa.Table:
    number = len(clips)
    columns = {
        schema.SAMPLE_ID: pa.array(np.arange(number) + 7, pa.int64()),
        schema.MEDIA: pa.array(["image" if clip is None else "video" for clip in clips]),
        schema.CLIP: pa.array(clips, pa.int32()),
        schema.EPOCH: pa.array([epoch] * number, pa.int64()),
    }
    return pa.table(columns)


def positions(sampling: Sampling, table: pa.Table) -> list[float]:
    return [clip.position for clip in sampling.clips(table) if clip is not None]


def test_still_images_have_no_clip() -> None:
    assert Sampling().clips(rows(clips=[None, None])) == [None, None]
    mixed = Sampling(num_frames=4, as_frames=False).clips(rows(clips=[None, 0]))
    assert mixed[0] is None and mixed[1] is not None and mixed[1].num_frames == 4


def test_each_clip_of_a_video_lies_in_its_own_stretch() -> None:
    table = rows(clips=[0, 1, 2] * 40)
    drawn = positions(Sampling(per_video=3, seed=0), table)
    stretches = [int(3 * position) for position in drawn]
    assert stretches == [0, 1, 2] * 40
    middle = positions(Sampling(per_video=3), rows(clips=[0, 1, 2]))
    assert middle == pytest.approx([1 / 6, 3 / 6, 5 / 6])


def test_another_epoch_or_seed_takes_other_places_and_the_same_one_the_same() -> None:
    drawn = [
        positions(Sampling(seed=seed), rows(clips=[0] * 20, epoch=epoch))
        for seed, epoch in ((0, 0), (0, 1), (1, 0), (0, 0))
    ]
    assert drawn[3] == drawn[0]
    for number in range(20):
        assert len({draws[number] for draws in drawn}) == 3


def test_the_clips_of_a_sample_lie_at_instants_of_their_own() -> None:
    table = rows(clips=[0] * 50)
    several = Sampling(4, as_frames=False, seed=0, per_sample=3, max_gap_s=2.0).clips(table)
    alone = Sampling(4, as_frames=False, seed=0).clips(table)
    for clip, single in zip(several, alone, strict=True):
        assert clip is not None and single is not None
        assert clip.position == single.position and single.others == ()
        assert len({clip.position, *clip.others}) == 3 and clip.max_gap_s == 2.0
    still = Sampling(4, as_frames=False, per_sample=2).clips(rows(clips=[0]))
    assert still[0] is not None and still[0].others == (0.5,)
