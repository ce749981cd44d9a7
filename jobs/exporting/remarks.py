"""What a user is told of rows that were written and may not be as expected."""

import sys
from collections.abc import Mapping

from pipelines.embeddings.sinks import in_column

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
