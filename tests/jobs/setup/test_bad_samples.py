"""The one rule for samples that cannot be used."""

import pytest

from jobs.setup.bad_samples import BadSamples
from jobs.setup.failures import RunError


def made(max_fraction: float = 0.1, epoch: int | None = None) -> BadSamples:
    return BadSamples(max_fraction, "out/quarantine", epoch)


def test_a_fraction_is_judged_from_the_first_hundred_and_once_at_the_end() -> None:
    bad = made()
    bad.add(64, {"truncated": 32})
    assert bad.problem() is None
    with pytest.raises(RunError, match=r"32 of 64 samples \(50%\) are bad \(32 truncated\)"):
        bad.check(final=True)
    bad.add(36, {})
    line = bad.problem()
    assert line is not None and "source.max_bad_fraction=0.1: see out/quarantine" in line
    bad.add(300, {})
    assert bad.problem() is None and bad.problem(final=True) is None


def test_an_epoch_without_one_valid_sample_is_an_error_whatever_the_limit() -> None:
    bad = made(max_fraction=1, epoch=40)
    bad.add(30, {"gone": 30})
    assert bad.problem() is None
    bad.add(30, {"gone": 30})
    assert str(bad.problem()).startswith("no sample can be used: 60 of 60")
    bad.add(30, {"gone": 29})
    assert bad.problem() is None
    bad.add(40, {"gone": 40})
    assert bad.problem() is not None


def test_a_short_run_without_one_valid_sample_is_an_error() -> None:
    bad = made(max_fraction=1)
    bad.add(8, {"unknown_type": 8})
    assert bad.problem() is None and "no sample can be used" in str(bad.problem(final=True))


def test_what_is_left_out_is_told_by_reason_most_frequent_first(
    capsys: pytest.CaptureFixture[str],
) -> None:
    bad = made()
    bad.tell()
    bad.add(400, {"missing": 1, "corrupt": 30, "truncated": 60, "empty": 2, "too_long": 7})
    assert bad.summary() == (
        "100 of 400 samples (25%) are bad (60 truncated, 30 corrupt, 7 too_long, 2 empty)"
    )
    bad.tell()
    said = capsys.readouterr().err
    assert said == (
        "left out 100 of 400 samples: 60 x truncated, 30 x corrupt, 7 x too_long, 2 x empty, "
        "1 x missing; see out/quarantine\n"
    )
