"""How long a run takes, from rates: what limits, and how it grows."""

from dataclasses import replace

import pytest

from jobs.estimating.rates import Rates
from jobs.estimating.time_model import (
    Cluster,
    Work,
    cores_per_device,
    run_time,
    step_time,
    store_bytes,
)

WORK = Work(
    samples=10_000,
    num_steps=1_000,
    batch=1_000,
    looks=11,
    every_s=100,
    listed=True,
    bytes_per_sample=1e5,
)
GPU = Rates(
    device="gpu",
    train_samples_per_s=500,
    data_samples_per_s=100,
    list_samples_per_s=1_000,
    start_s=30,
    warm_up_s=5,
    end_s=10,
    first_look_s=4,
    look_s=2,
    save_s=0.5,
    checkpoint_bytes=10**8,
)
FOUR = Cluster(workers=4, cpus=24, data_cpus=20)  # 5 cores for each GPU are just enough


def test_a_step_takes_as_long_as_its_slowest_part_and_names_it() -> None:
    assert cores_per_device(GPU) == 5
    step = step_time(WORK, GPU, FOUR)
    assert (step.train_s, step.data_s, step.seconds) == (0.5, 0.5, 0.5)
    few = step_time(WORK, GPU, replace(FOUR, data_cpus=10))
    assert (few.seconds, few.limit) == (1.0, "decoding")
    many = step_time(WORK, GPU, replace(FOUR, data_cpus=40))
    assert (many.seconds, many.limit) == (0.5, "training")
    slow = step_time(WORK, GPU, replace(FOUR, bytes_per_s=5e7))  # 1e8 bytes a step
    assert (slow.seconds, slow.limit) == (2.0, "storage")
    exchange = GPU.model_copy(update={"gradient_bytes": 10**9, "exchange_bytes_per_s": 1e9})
    assert step_time(WORK, exchange, FOUR).train_s == 0.5 + 2 * 0.75
    assert step_time(WORK, exchange, replace(FOUR, workers=1)).train_s == 2.0


def test_without_gpus_training_and_data_take_turns_on_the_same_cores() -> None:
    cpu = GPU.model_copy(update={"device": "cpu", "train_samples_per_s": 50.0})
    step = step_time(WORK, cpu, Cluster(workers=1, cpus=2, data_cpus=1))
    assert (step.train_s, step.data_s, step.seconds) == (10.0, 5.0, 15.0)
    twice = step_time(WORK, cpu, Cluster(workers=1, cpus=4, data_cpus=3))
    assert twice.seconds == 7.5


def test_a_run_is_its_parts_and_grows_with_each() -> None:
    time = run_time(WORK, GPU, FOUR)
    assert (time.list_s, time.start_s, time.steps_s, time.looks_s) == (10, 35, 500, 4 + 10 * 2)
    assert (time.saves, time.saves_s, time.end_s) == (5, 2.5, 10)
    assert time.seconds == pytest.approx(10 + 35 + 500 + 24 + 2.5 + 10)
    longer = [
        replace(WORK, num_steps=2_000),
        replace(WORK, batch=2_000),
        replace(WORK, samples=20_000),
        replace(WORK, looks=20),
        replace(WORK, every_s=10),
    ]
    assert all(run_time(work, GPU, FOUR).seconds > time.seconds for work in longer)
    assert run_time(replace(WORK, listed=False), GPU, FOUR).list_s == 0
    assert run_time(WORK, GPU, replace(FOUR, speed=2.0)).step.limit == "decoding"


def test_the_object_store_holds_an_item_a_task_and_three_blocks_a_worker() -> None:
    assert store_bytes(block_bytes=10, item_bytes=320, data_cpus=3.5, workers=2) == 4 * 320 + 60
