"""How long a run takes on a cluster: rates and sizes in, seconds and what limits out."""

import math
from dataclasses import dataclass

from jobs.estimating.rates import Rates

CPUS_PER_GPU_WORKER = 1.0
EXCHANGED = 2  # a ring sums gradients in two rounds, each of which sends nearly all of them


@dataclass(frozen=True)
class Work:
    """What a run does.

    Attributes:
        samples: Of the corpus.
        num_steps: Optimiser steps.
        batch: Samples of a step, over all workers.
        looks: At the encoder's health.
        every_s: Seconds from one checkpoint to the next.
        listed: Whether the source must be listed first.
        bytes_per_sample: Read from storage.
    """

    samples: int
    num_steps: int
    batch: int
    looks: int
    every_s: float
    listed: bool
    bytes_per_sample: float


@dataclass(frozen=True)
class Cluster:
    """What a run has.

    Attributes:
        workers: Training processes.
        cpus: Logical CPUs, of all nodes.
        data_cpus: Those that training leaves; on the CPU training and data share all of them.
        speed: Of training, against the device that was measured.
        bytes_per_s: What all nodes together read from storage; None: it does not limit.
    """

    workers: int
    cpus: float
    data_cpus: float
    speed: float = 1.0
    bytes_per_s: float | None = None


@dataclass(frozen=True)
class StepTime:
    """Seconds that each part of a step takes by itself.

    Attributes:
        train_s: Compute of the training processes, and their exchange of gradients.
        data_s: Fetching, decoding and cropping on the data CPUs.
        network_s: Reading from storage.
        shared: Whether training and data share the same CPUs, and so take turns.
    """

    train_s: float
    data_s: float
    network_s: float
    shared: bool

    @property
    def seconds(self) -> float:
        """Return what a step takes: the slowest part, as they run beside each other."""
        compute = self.train_s + self.data_s if self.shared else max(self.train_s, self.data_s)
        return max(compute, self.network_s)

    @property
    def limit(self) -> str:
        """Name the part that limits: `training`, `decoding` or `storage`."""
        if self.network_s >= self.seconds:
            return "storage"
        return "training" if self.train_s >= self.data_s else "decoding"


@dataclass(frozen=True)
class RunTime:
    """Seconds of a whole run.

    Attributes:
        step: Of one step.
        list_s: Listing the source.
        start_s: From the command to the first batch, and what the first steps take longer.
        steps_s: All steps.
        looks_s: Looks at the encoder's health.
        saves_s: Training stands still for checkpoints.
        end_s: From the last step to the end of the command.
        saves: Checkpoints while it trains.
    """

    step: StepTime
    list_s: float
    start_s: float
    steps_s: float
    looks_s: float
    saves_s: float
    end_s: float
    saves: int

    @property
    def seconds(self) -> float:
        """Return the whole."""
        parts = (self.list_s, self.start_s, self.steps_s, self.looks_s, self.saves_s, self.end_s)
        return sum(parts)


def step_time(work: Work, rates: Rates, cluster: Cluster) -> StepTime:
    """Return what a step takes on a cluster.

    Each rate is taken to hold for any batch and any number of processes.

    Args:
        work: What is trained.
        rates: By the sample.
        cluster: On what.
    """
    shared = rates.device == "cpu"
    devices = cluster.cpus if shared else cluster.workers
    train_s = work.batch / (devices * rates.train_samples_per_s * cluster.speed)
    if cluster.workers > 1:
        others = (cluster.workers - 1) / cluster.workers
        train_s += EXCHANGED * others * rates.gradient_bytes / rates.exchange_bytes_per_s
    cores = cluster.cpus * cluster.speed if shared else cluster.data_cpus
    network_s = 0.0
    if cluster.bytes_per_s is not None:
        network_s = work.batch * work.bytes_per_sample / cluster.bytes_per_s
    data_s = work.batch / (cores * rates.data_samples_per_s) if cores > 0 else math.inf
    return StepTime(train_s, data_s, network_s, shared)


def run_time(work: Work, rates: Rates, cluster: Cluster) -> RunTime:
    """Return what a run takes on a cluster, from the command to its end."""
    step = step_time(work, rates, cluster)
    listed_per_s = rates.list_samples_per_s if work.listed else None
    steps_s = work.num_steps * step.seconds
    looks_s = rates.first_look_s + (work.looks - 1) * rates.look_s if work.looks else 0.0
    saves = int((steps_s + looks_s) // work.every_s)
    return RunTime(
        step=step,
        list_s=work.samples / listed_per_s if listed_per_s else 0.0,
        start_s=rates.start_s + rates.warm_up_s,
        steps_s=steps_s,
        looks_s=looks_s,
        saves_s=saves * rates.save_s,
        end_s=rates.end_s,
        saves=saves,
    )


def cores_per_device(rates: Rates, speed: float = 1.0) -> float:
    """Return how many cores feed one GPU; on the CPU, one training core."""
    return rates.train_samples_per_s * speed / rates.data_samples_per_s


def store_bytes(block_bytes: int, item_bytes: int, data_cpus: float, workers: int) -> int:
    """Return the least memory of the object store, over all nodes, in which nothing waits for room.

    Blocks come in order: what the tasks of later items have made waits there for the first one. A
    worker holds a block, and two are on their way to it.

    Args:
        block_bytes: Of one worker's share of a batch.
        item_bytes: Of what one data task makes.
        data_cpus: Data tasks that run at the same time.
        workers: Training processes.
    """
    tasks = max(1, int(data_cpus))
    return (tasks + 1) * item_bytes + 3 * workers * block_bytes
