"""pipelines.stream.colour_actors: a pool of actors gives the blocks that the decode task would have
given."""

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import ray.data
import torch
from torch import Tensor

from augment.generator import ViewGenerator
from augment.presets import simclr_views
from pipelines import schema
from pipelines.corpus.file_kinds import media_of
from pipelines.corpus.listed_rows import sample_id
from pipelines.media.contract import Limits
from pipelines.stream import colour_actors, ingest
from pipelines.stream.colour_actors import ActorPool
from pipelines.stream.ingest import Ingest
from pipelines.stream.orders import Listed
from pipelines.stream.shapes import Crops

ROWS = 4
KEYS = (schema.SAMPLE_ID, schema.EPOCH, schema.POSITION, schema.VALID, schema.REASON)


@pytest.fixture
def order(image_folder: Path, tmp_path: Path) -> Listed:
    """22 images, so that the last block is shorter, and two files that are none."""
    broken = [tmp_path / f"{number}.jpg" for number in range(2)]
    for file in broken:
        file.write_bytes(b"no picture")
    good = sorted(image_folder.rglob("*.*"))[:20]
    rows = [
        {
            "sample_id": sample_id(str(file), None, ""),
            "uri": str(file),
            "offset": 0,
            "length": file.stat().st_size,
            "member": None,
            "etag": "",
            "media": media_of(file.name),
            "clip": None,
        }
        for file in (*good[:5], broken[0], *good[5:], broken[1])
    ]
    return Listed(pa.Table.from_pylist(rows, schema=schema.MANIFEST))


def stream(order: Listed, generator: ViewGenerator, *, photometric: bool) -> ray.data.Dataset:
    shape = Crops(generator.views, generator.seed, photometric=photometric)
    work = Ingest(order, shape, ROWS, Limits(), quarantine=None, run="test")
    return ingest.dataset(work, [(0, 8), (8, 12), (12, 22)])


def blocks(dataset: ray.data.Dataset) -> list[dict[str, np.ndarray]]:
    return list(dataset.iter_batches(batch_size=None))


def assert_same(ours: list[dict[str, np.ndarray]], expected: list[dict[str, np.ndarray]]) -> None:
    assert [len(block[schema.VALID]) for block in ours] == [4, 4, 4, 4, 4, 2]
    for block, other in zip(ours, expected, strict=True):
        assert block.keys() == other.keys()
        for name in KEYS:
            assert np.array_equal(block[name], other[name]), name
        # the others have a neighbour's pixels, here with their own colours
        valid = block[schema.VALID]
        assert block["global_crops"].shape == other["global_crops"].shape
        assert np.array_equal(block["global_crops"][valid], other["global_crops"][valid])


class Deadly(ViewGenerator):
    """Kills its process the second time it is asked, once."""

    def __init__(self, *args: Any, marker: Path) -> None:
        super().__init__(*args)
        self.marker = marker
        self.asked = 0

    def photometric(
        self, crops: dict[str, Tensor], epoch: Tensor, sample_id: Tensor
    ) -> dict[str, Tensor]:
        self.asked += 1
        if self.asked == 2 and not self.marker.exists():
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().photometric(crops, epoch, sample_id)


@pytest.mark.slow
def test_actors_give_the_decode_tasks_blocks_in_its_order_though_one_is_killed(
    ray_session: None, order: Listed, tmp_path: Path
) -> None:
    # of the size at which views are blurred as well
    generator = ViewGenerator(simclr_views(96), seed=3)
    deadly = Deadly(generator.views, 3, marker=tmp_path / "killed")
    crops = stream(order, generator, photometric=False)
    changed = blocks(
        colour_actors.change_colours(crops, ROWS, deadly, ActorPool(num_actors=2, gpus=0))
    )
    assert deadly.marker.exists()
    assert_same(changed, blocks(stream(order, generator, photometric=True)))
    valid = np.concatenate([block[schema.VALID] for block in changed])
    assert np.flatnonzero(~valid).tolist() == [5, 21]


def test_an_actor_adds_its_time_to_the_cropping_and_says_when_the_block_was_ready() -> None:
    generator = ViewGenerator(simclr_views(16), seed=0)
    block = Crops(generator.views, generator.seed, photometric=False).empty(3) | {
        schema.SAMPLE_ID: np.arange(3),
        schema.EPOCH: np.zeros(3, np.int64),
        schema.CROP_S: np.ones(3, np.float32),
        schema.READY_AT: np.zeros(3),
    }
    changed = colour_actors.ColourActor(generator, gpus=0)(dict(block))
    assert (changed[schema.CROP_S] > 1).all() and (changed[schema.READY_AT] > 1e9).all()
    assert {name: (x.shape, x.dtype) for name, x in changed.items()} == {
        name: (x.shape, x.dtype) for name, x in block.items()
    }
    keys = torch.zeros(3, dtype=torch.int64), torch.arange(3)
    expected = generator.photometric(
        {"global_crops": torch.from_numpy(block["global_crops"])}, *keys
    )
    assert np.array_equal(changed["global_crops"], expected["global_crops"])
