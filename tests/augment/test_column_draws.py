"""augment.column_draws: the numbers of augment.rng for columns, however they lie in memory."""

import numpy as np
import torch

from augment import column_draws, rng
from augment.kernels import hashing
from augment.recipe import CropGroup, Views
from augment.sample import row_keys

SAMPLES = np.arange(-3, 9) * 12345678901
EPOCHS = np.arange(12) // 5
VIEWS = Views(size=32, groups={"large": CropGroup(count=2), "small": CropGroup(count=3)})


def test_numbers_are_those_of_tensors_for_one_view_and_for_one_each() -> None:
    for view in (4, np.arange(12)):
        key = {"seed": 5, "op": "blur"}
        drawn = column_draws.uniform(3, epoch=EPOCHS, sample_id=SAMPLES, view=view, **key)
        tensors = {"epoch": torch.tensor(EPOCHS), "sample_id": torch.tensor(SAMPLES)}
        hashed = rng._state_of_tensors("5/blur", *tensors.values(), torch.tensor(view))
        assert drawn.dtype == np.float32
        assert np.array_equal(drawn, rng._uniform_of_tensor(hashed, 3).numpy())


def test_columns_that_are_strided_or_read_only_draw_the_same_by_the_same_machine_code() -> None:
    key = {"seed": 0, "view": 0, "op": "crop"}
    expected = column_draws.uniform(2, epoch=EPOCHS, sample_id=SAMPLES, **key)
    known = len(hashing.hash_keys.signatures)
    strided = np.repeat(SAMPLES, 2)[::2]
    frozen = EPOCHS.copy()
    frozen.flags.writeable = False
    drawn = column_draws.uniform(2, epoch=frozen, sample_id=strided, **key)
    assert np.array_equal(drawn, expected)
    assert len(hashing.hash_keys.signatures) == known


def test_the_keys_of_a_group_are_those_of_tensors() -> None:
    for name in VIEWS.groups:
        keys = column_draws.view_keys(VIEWS, name, EPOCHS, SAMPLES)
        expected = row_keys(VIEWS, name, torch.tensor(EPOCHS), torch.tensor(SAMPLES))
        for found, wanted in zip(keys.values(), expected, strict=True):
            assert np.array_equal(found, wanted.numpy())
