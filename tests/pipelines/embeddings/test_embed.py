"""pipelines.embeddings.embed: what the suite's end-to-end runs, which have no GPU, leave
untried."""

import pytest
import ray.data

from pipelines import ray_internals
from pipelines.embeddings.embed import BLOCK_ROWS, Encoders, embed
from pipelines.embeddings.features import Features
from pipelines.ray_tasks import Placed


@pytest.mark.usefixtures("ray_session")
def test_ray_takes_actors_with_a_gpu_each() -> None:
    encoders = Encoders({"embedding": Features("file:///none")}, Placed(use_gpu=True, threads=1))
    # Ray refuses here what it will not run
    stream = embed(ray.data.range(2 * BLOCK_ROWS), encoders, num_actors=1)
    assert ray_internals.last_operator(stream).ray_remote_args["num_gpus"] == 1
