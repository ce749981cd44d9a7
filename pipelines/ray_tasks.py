"""Hands blocks to Ray's tasks and pools of actors, so that what kills its process is not tried for
ever.

Ray Data gives a block that killed its process to the next one without end, and starts an actor
again without end. Here both end, and the error reaches the job. What Ray loses with a node that was
announced to leave is not counted; a node that dies at once uses the tries up, and
`jobs.setup.persistence` goes on with what is missing.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray.data

from pipelines import ray_internals

MAX_RETRIES = 3  # of a block whose process died under it
MAX_RESTARTS = 20  # of an actor: more of them will not mend a constructor that kills its process


@dataclass(frozen=True)
class Placed:
    """Where the actors of a pool run.

    Attributes:
        use_gpu: Whether each actor has a GPU.
        threads: Compute threads of an actor on the CPU.
        cpus: Logical CPUs that it holds.
    """

    use_gpu: bool
    threads: int
    cpus: float = 1.0

    @property
    def device(self) -> str:
        """Return where an actor's network goes."""
        return "cuda" if self.use_gpu else "cpu"


def map_in_tasks(
    blocks: ray.data.Dataset, function: Callable[..., Any], **options: Any
) -> ray.data.Dataset:
    """Apply a function to batches in tasks.

    Args:
        blocks: The stream.
        function: Of a batch.
        options: Of `map_batches`.
    """
    return _map_batches(blocks, function, options | {"max_retries": MAX_RETRIES})


def map_in_actors(
    blocks: ray.data.Dataset, worker: type, *arguments: Any, size: int, **options: Any
) -> ray.data.Dataset:
    """Apply a class to batches in a pool of actors.

    Args:
        blocks: The stream.
        worker: Made once in each actor, then called with batches.
        arguments: Of its constructor; small, as a restarted actor is given them again: an encoder
            travels as its URI.
        size: Of the pool; fixed, as a growing one starts too late to matter.
        options: Of `map_batches`.
    """
    limits = {"max_task_retries": MAX_RETRIES, "max_restarts": MAX_RESTARTS}
    pool = {
        "fn_constructor_args": arguments,
        "compute": ray.data.ActorPoolStrategy(size=size),
        "ray_remote_args_fn": ray_internals.hand_actors_values,
    }
    return _map_batches(blocks, worker, options | limits | pool)


def map_in_networks(
    images: ray.data.Dataset,
    worker: type,
    network: object,
    placed: Placed,
    *,
    block_rows: int,
    num_actors: int,
) -> ray.data.Dataset:
    """Apply a network to a stream of blocks in a pool of actors, in order.

    Args:
        images: The blocks.
        worker: Made once in each actor of `network`, then called with blocks.
        network: Which network; small, as an artifact travels as its URI.
        placed: Where the actors run.
        block_rows: Rows of every block but the last.
        num_actors: Size of the pool.
    """
    return map_in_actors(
        images,
        worker,
        network,
        size=num_actors,
        batch_size=block_rows,  # Ray insists on a number where there are GPUs
        num_cpus=placed.cpus,
        num_gpus=1 if placed.use_gpu else None,
    )


def _map_batches(
    blocks: ray.data.Dataset, function: Callable[..., Any], options: dict[str, Any]
) -> ray.data.Dataset:
    with warnings.catch_warnings():
        # Nothing else sets retries in 2.60.
        warnings.filterwarnings("ignore", message=".*ray_remote_args")
        return blocks.map_batches(function, **options)


def said_to(stream: ray.data.Dataset, do: str, total: int | None) -> ray.data.Dataset:
    """Note what a stream does, for people who wait for it.

    Args:
        stream: The stream, as it will be run.
        do: A verb and what it is done to, as `embedding samples`.
        total: Rows that it will be done to; None: nobody knows.
    """
    stream.context.set_config(ray_internals.DOING, (do, total))
    return stream
