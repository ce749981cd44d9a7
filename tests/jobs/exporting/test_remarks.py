"""jobs.exporting.remarks: what is told of rows that may not be as expected."""

import pytest

from jobs.exporting.remarks import tell_of_carried
from pipelines.embeddings.sinks import in_column


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
