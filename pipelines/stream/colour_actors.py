"""Colours changed between decode tasks and training: in a pool of Ray Data actors, on GPUs that
training leaves free.

A block goes in and the same block comes out, its crops coloured: sizes, order and all other columns
stay.
"""

import time
from dataclasses import dataclass

import numpy as np
import ray.data
import torch

from augment.generator import ViewGenerator
from pipelines import schema
from pipelines.ray_tasks import map_in_actors
from pipelines.stream.shapes import Columns

# What Ray counts for an actor, not what it may use: with one CPU left beside training, decoding
# needs 0.91 of it.
ACTOR_CPUS = 0.05


@dataclass(frozen=True)
class ActorPool:
    """How many actors change colours, and on what.

    Attributes:
        num_actors: Size of the pool; fixed, as a growing one starts too late to matter.
        gpus: Share of a GPU each of them holds; 0: they compute on the CPU.
    """

    num_actors: int
    gpus: float


class ColourActor:
    """An actor's view generator; takes blocks of crops and gives them back with their colours
    changed."""

    def __init__(self, generator: ViewGenerator, gpus: float) -> None:
        torch.set_num_threads(1)  # the parallelism is Ray's
        self._generator = generator
        self._device = torch.device("cuda" if gpus else "cpu")
        if 0 < gpus < 1:
            # Ray shares a GPU's time out, not its memory
            torch.cuda.set_per_process_memory_fraction(gpus)

    def __call__(self, block: Columns) -> Columns:
        """Change the colours of one block; what they took counts as cropping, and the block is
        ready now."""
        started = time.perf_counter()
        keys = [
            torch.tensor(block[name], device=self._device)
            for name in (schema.EPOCH, schema.SAMPLE_ID)
        ]
        crops = {
            name: torch.tensor(block[name], device=self._device)
            for name in self._generator.views.groups
        }
        views = {
            name: x.cpu().numpy() for name, x in self._generator.photometric(crops, *keys).items()
        }
        share = np.float32((time.perf_counter() - started) / max(1, len(block[schema.CROP_S])))
        times = {
            schema.CROP_S: block[schema.CROP_S] + share,
            schema.READY_AT: np.full_like(block[schema.READY_AT], time.time()),
        }
        return block | views | times


def change_colours(
    blocks: ray.data.Dataset, block_rows: int, generator: ViewGenerator, pool: ActorPool
) -> ray.data.Dataset:
    """Add the colour changes to a stream of `shapes.Crops` blocks without them, in order.

    Ray starts a killed actor again and gives it its blocks again; as draws are keyed, they come out
    as they would have.

    Args:
        blocks: `pipelines.ingest.dataset`.
        block_rows: Rows of every block but the last.
        generator: Of the crops' recipe and seed.
        pool: The actors.
    """
    return map_in_actors(
        blocks,
        ColourActor,
        generator,
        pool.gpus,
        size=pool.num_actors,
        batch_size=block_rows,  # Ray insists on a number where there are GPUs
        batch_format="numpy",
        num_cpus=ACTOR_CPUS,
        num_gpus=pool.gpus or None,
    )
