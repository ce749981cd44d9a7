"""Rates from the lines of a log."""

from dataclasses import replace

import pytest

from jobs.cluster.share import Session
from jobs.estimating.measuring import Measured, rates_of

BATCH = 100
LOCAL = Session(
    num_workers=1,
    min_workers=1,
    cpus_per_worker=1,
    threads_per_worker=2,
    use_gpu=False,
    gpus_per_worker=1,
    view_actors=None,
)


def log(seconds: list[float], wait: float = 0.0) -> list[dict[str, float]]:
    """Write a line for every ten steps, with a look in every second one and a save in the last."""
    at = 1000.0
    lines = []
    for index, elapsed in enumerate(seconds):
        at += elapsed
        look = {"health_step": 0.0, "look_s": 3.0 if index == 1 else 1.0} if index % 2 else {}
        last = index == len(seconds) - 1
        lines.append(
            {
                "step": 10 * (index + 1),
                "images_per_s": 10 * BATCH / elapsed,
                "wait_fraction": wait,
                "fetch_ms": 0.0,
                "decode_ms": 1.5,
                "crop_ms": 0.5,
                "time_s": at,
                "look_s": 0.0,
                "save_s": 0.5 if last else 0.0,
                **look,
            }
        )
    return lines


def test_what_is_not_training_is_told_apart_from_it() -> None:
    # 10 s of training a line; the first takes 6 s longer, looks 3 and 1 s, the checkpoint 0.5 s
    measured = Measured(log([16, 13, 10, 11.5]), begun=980, ended=1055, checkpoint_bytes=7)
    rates = rates_of(measured, LOCAL, batch=BATCH, cores=2, start_s=5, end_s=1)
    # a sample keeps two cores busy for 10 ms, of which data take 2 ms of one
    assert rates.train_samples_per_s == pytest.approx(1 / (0.020 - 0.002))
    assert rates.data_samples_per_s == pytest.approx(500)
    assert (rates.start_s, rates.warm_up_s) == (pytest.approx(25), pytest.approx(6))
    assert rates.end_s == pytest.approx(1055 - 1050.5 + 1)
    assert (rates.first_look_s, rates.look_s, rates.save_s) == (3, 1, 0.5)
    assert rates.stages == {"fetch_s": 0, "decode_s": 0.0015, "crop_s": pytest.approx(0.0005)}


def test_where_gpus_wait_the_data_cpus_gave_what_was_trained() -> None:
    gpus = replace(LOCAL, use_gpu=True, num_workers=2, min_workers=2)
    seconds = [10.0, 13.0, 10.0, 11.5]
    busy = rates_of(Measured(log(seconds), 980, 1055, 7), gpus, batch=BATCH, cores=8)
    # 100 samples a second on two GPUs
    assert busy.train_samples_per_s == pytest.approx(50)
    assert busy.data_samples_per_s == pytest.approx(500)
    waits = rates_of(Measured(log(seconds, wait=0.5), 980, 1055, 7), gpus, batch=BATCH, cores=8)
    assert waits.train_samples_per_s == pytest.approx(100)
    assert waits.data_samples_per_s == pytest.approx(100 / 6)
