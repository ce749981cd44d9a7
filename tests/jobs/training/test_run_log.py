import pytest

from jobs.training.run_log import SUMS, stage_times


def test_the_stages_of_a_worker_add_up_to_its_time() -> None:
    sums = dict.fromkeys(SUMS, 0.0) | {
        "fetch_s": 1.0,
        "decode_s": 6.0,
        "crop_s": 3.0,
        "transport_s": 2.0,
        "wait_s": 5.0,
    }
    times = stage_times(sums | {"retries": 2.999}, num_images=1000, worker_s=20.0)
    assert (times["fetch_ms"], times["decode_ms"], times["crop_ms"]) == (1.0, 6.0, 3.0)
    assert (times["transport_ms"], times["wait_ms"], times["train_ms"]) == (2.0, 3.0, 15.0)
    assert times["wait_fraction"] == 0.25 and times["storage_retries"] == 3


def test_clocks_that_differ_never_make_more_transport_than_waiting() -> None:
    times = stage_times(
        dict.fromkeys(SUMS, 0.0) | {"transport_s": 9.0, "wait_s": 1.0}, num_images=10, worker_s=10.0
    )
    assert times["transport_ms"] == pytest.approx(100) and times["wait_ms"] == 0
