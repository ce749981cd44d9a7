"""What a user is told of rows that were written and may not be as expected."""

import sys
from collections.abc import Mapping

from jobs.exporting.export_sections import ExportedClipConfig
from pipelines.embeddings.sinks import CUT, LONGEST, in_column

_SOUGHT = {
    "label": "in .cls or .json beside samples, or as the first folder below the source",
    "caption": "in .txt beside samples, as 0.txt beside 0.jpg",
    "json": "in .json beside samples, as 0.json beside 0.jpg",
}


def tell_of_carried(names: tuple[str, ...], counts: Mapping[str, int]) -> None:
    """Say which carried columns are null in all rows that were written.

    Args:
        names: Of the columns.
        counts: What was counted in writing.
    """
    for name in names:
        if counts["rows"] and not counts[in_column(name)]:
            sought = f" (sought {_SOUGHT[name]})" if name in _SOUGHT else ""
            print(
                f"carry={name}: the column is null in all {counts['rows']:,} rows that were"
                f" written: there is none{sought}",
                file=sys.stderr,
            )


def tell_of_longer(clip: ExportedClipConfig, counts: Mapping[str, int]) -> None:
    """Say how many videos are longer than a clip of which every frame is a row.

    Args:
        clip: What was taken of each.
        counts: What was counted in writing.
    """
    if clip.each_frame and counts[CUT]:
        print(
            f"videos longer than clip.num_frames={clip.num_frames} at clip.fps={clip.fps:g}:"
            f" {counts[CUT]:,}; their frames before and behind the clip have no row: for all of"
            f" them choose another out and clip.num_frames={counts[LONGEST]}",
            file=sys.stderr,
        )
