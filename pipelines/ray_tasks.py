"""Hands blocks to Ray's tasks and pools of actors, so that what kills its process is not tried for
ever.

Ray Data gives a block that killed its process to the next one without end, and starts an actor
again without end. Here both end, and the error reaches the job. What Ray loses with a preempted
node is not counted by it.
"""

import warnings
from collections.abc import Callable
from typing import Any

import ray.data

from pipelines import ray_internals

MAX_RETRIES = 3  # of a block whose process died under it
MAX_RESTARTS = 20  # of an actor: more of them will not mend a constructor that kills its process


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


def _map_batches(
    blocks: ray.data.Dataset, function: Callable[..., Any], options: dict[str, Any]
) -> ray.data.Dataset:
    with warnings.catch_warnings():
        # Nothing else sets retries in 2.60.
        warnings.filterwarnings("ignore", message=".*ray_remote_args")
        return blocks.map_batches(function, **options)
