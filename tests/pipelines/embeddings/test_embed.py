"""pipelines.embeddings.embed: what the suite's end-to-end runs, which have no GPU, leave
untried."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import ray.data
from torch import Tensor

from pipelines import ray_internals, schema
from pipelines.embeddings import embed as embedding
from pipelines.embeddings.embed import BLOCK_ROWS, Embed, Encoders, block_rows, embed, shape_for
from pipelines.embeddings.features import Extractor, Features
from pipelines.ray_tasks import Placed
from tests.pipelines.embeddings.test_features import save_inflated


@pytest.mark.usefixtures("ray_session")
def test_ray_takes_actors_with_a_gpu_each() -> None:
    encoders = Encoders({"embedding": Features("file:///none")}, Placed(use_gpu=True, threads=1))
    # Ray refuses here what it will not run
    stream = embed(ray.data.range(2 * BLOCK_ROWS), encoders, num_actors=1)
    assert ray_internals.last_operator(stream).ray_remote_args["num_gpus"] == 1


@pytest.mark.parametrize(
    ("size", "frames", "part_rows", "rows"),
    [
        (224, None, 8192, 256),
        (224, None, 100, 4),
        (518, None, 8192, 256),
        (224, 8, 8192, 128),
        (224, 64, 8192, 16),
        (224, 64, 24, 8),
        (518, 512, 8192, 1),
    ],
)
def test_blocks_of_clips_are_no_larger_than_so_many_bytes(
    size: int, frames: int | None, part_rows: int, rows: int
) -> None:
    assert block_rows(shape_for([size], num_frames=frames), part_rows) == rows


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Images or clips of each batch that encoders are given."""
    batches = list[int]()
    compute = Extractor.__call__

    def counted(self: Extractor, images: Mapping[int, Tensor]) -> dict[str, Tensor]:
        batches.append(len(images[16]))
        return compute(self, images)

    monkeypatch.setattr(Extractor, "__call__", counted)
    return batches


def clips(frames: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, frames, 3, 16, 16), dtype=np.uint8)


@pytest.mark.parametrize("each_frame", [False, True])
def test_frames_of_clips_reach_the_encoder_some_at_a_time_and_their_vectors_are_the_same(
    each_frame: bool, small_artifact: str, seen: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    columns = {"embedding": Features(small_artifact)}
    worker = Embed(Encoders(columns, Placed(use_gpu=False, threads=1), each_frame))
    whole = worker({schema.IMAGE: clips(7)})["embedding"]
    assert whole.shape == ((3, 7, 64) if each_frame else (3, 64)) and seen == [21]
    monkeypatch.setattr(embedding, "MOST_IMAGES", 4)
    in_chunks = worker({schema.IMAGE: clips(7)})["embedding"]
    assert seen[1:] == [4, 4, 4, 4, 4, 1]
    np.testing.assert_allclose(in_chunks, whole, rtol=1e-5, atol=1e-6)


def test_encoders_of_clips_are_given_as_many_frames_at_a_time(
    tmp_path: Path, seen: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = Embed(Encoders({"embedding": Features(save_inflated(tmp_path))}, Placed(False, 1)))
    whole = worker({schema.IMAGE: clips(4)})["embedding"]
    monkeypatch.setattr(embedding, "MOST_IMAGES", 9)
    in_chunks = worker({schema.IMAGE: clips(4)})["embedding"]
    assert seen == [3, 2, 1]
    np.testing.assert_allclose(in_chunks, whole, rtol=1e-5, atol=1e-6)
