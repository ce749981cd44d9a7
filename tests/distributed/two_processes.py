"""Two processes in one gloo group that stay up for a test session and run functions side by
side."""

import io
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from augment.sound import sound_texture
from tests import small_methods

_COLLECTIVE_TIMEOUT_S = 60  # one process failed and the other waits for it
_SHALLOW = small_methods.shallow_transformers()
_CALL_TIMEOUT_S = 180  # importing torch twice on a busy machine included


@contextmanager
def in_float64() -> Iterator[None]:
    """Compute in float64 also where methods ask for float32: rounding then moves no unit of a ReLU
    across its threshold, which in a small batch is per cents of a gradient."""
    _forget()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "float", torch.Tensor.double)
        try:
            yield
        finally:
            _forget()


def _forget() -> None:
    """Have tensors that are made once and kept, in one precision, made anew."""
    for kept in (small_methods.kept_batch, sound_texture.bands_of):
        kept.cache_clear()


class TwoProcesses:
    """Calls a function in both processes at once; starting them costs seconds, so one pair serves
    all tests.

    Example:
        both = TwoProcesses(tmp_path / "store")
        of_rank0, of_rank1 = both(function, 3)
    """

    def __init__(self, store: Path) -> None:
        """Starts nothing yet.

        Args:
            store: A file that does not exist, through which the two find each other.
        """
        spawn = multiprocessing.get_context("spawn")
        self._processes = [
            ProcessPoolExecutor(
                1, mp_context=spawn, initializer=_join, initargs=(rank, f"file://{store}")
            )
            for rank in range(2)
        ]

    def __call__(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """Returns what `function(*arguments)` returned in rank 0 and in rank 1; its exception is
        raised here.

        Args:
            function: Importable by name, the same in both; it tells them apart by
                `models.collectives.rank`.
            arguments: Picklable, no tensors. What comes back is tensors, numbers and strings in
                lists and dicts.
        """
        calls = [process.submit(_saved, function, *arguments) for process in self._processes]
        return [
            torch.load(io.BytesIO(call.result(_CALL_TIMEOUT_S)), weights_only=True)
            for call in calls
        ]

    def stop(self) -> None:
        for process in self._processes:
            process.shutdown(wait=False, cancel_futures=True)


def _join(rank: int, store: str) -> None:
    torch.set_num_threads(1)
    _SHALLOW.__enter__()  # as long as the process lives
    dist.init_process_group(
        "gloo",
        init_method=store,
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=_COLLECTIVE_TIMEOUT_S),
    )


def _saved(function: Callable[..., Any], *arguments: Any) -> bytes:
    file = io.BytesIO()  # not a tensor in shared memory, which would need the sender alive
    torch.save(function(*arguments), file)
    return file.getvalue()
