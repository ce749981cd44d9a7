"""jobs.exporting.remarks: what is told of rows that may not be as expected."""

import pytest

from jobs.exporting.export_sections import ExportedClipConfig
from jobs.exporting.remarks import tell_of_carried, tell_of_longer
from pipelines.embeddings.sinks import CUT, LONGEST, in_column


def test_a_carried_column_that_is_null_in_all_rows_is_told(
    capsys: pytest.CaptureFixture[str],
) -> None:
    counts = {"rows": 1200, in_column("label"): 1, in_column("caption"): 0, in_column("etag"): 1200}
    tell_of_carried(("label", "caption", "etag"), counts)
    assert capsys.readouterr().err.splitlines() == [
        "carry=caption: the column is null in all 1,200 rows that were written: there is none"
        " (sought in .txt beside samples, as 0.txt beside 0.jpg)"
    ]
    tell_of_carried(("caption",), {"rows": 0, in_column("caption"): 0})  # nothing was to do
    assert not capsys.readouterr().err


def test_videos_that_are_longer_than_their_rows_of_frames_are_told(
    capsys: pytest.CaptureFixture[str],
) -> None:
    clip = ExportedClipConfig(num_frames=64, fps=1, rows="frame")
    tell_of_longer(clip, {CUT: 3, LONGEST: 600})
    assert capsys.readouterr().err.splitlines() == [
        "videos longer than clip.num_frames=64 at clip.fps=1: 3; their frames before and behind the"
        " clip have no row: for all of them choose another out and clip.num_frames=600"
    ]
    tell_of_longer(clip, {CUT: 0, LONGEST: 64})
    tell_of_longer(ExportedClipConfig(num_frames=64, fps=1), {CUT: 3, LONGEST: 600})
    assert not capsys.readouterr().err
