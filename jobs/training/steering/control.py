"""What all ranks do after a step, agreed on by all of them."""

import time
from typing import Any

import torch
import torch.distributed as dist

from jobs.training.run_config import PretrainConfig
from jobs.training.steering.monitor import Question
from models import collectives
from pipelines import ray_internals


class Verdict:
    """What all ranks do after a step: bit 1 checkpoint, bit 2 stop."""

    def __init__(self, bits: int) -> None:
        self.checkpoint = bool(bits & 1)
        self.stop = bool(bits & 2)


class Control:
    """Rank 0's clock and the driver's wish to stop, agreed on by all ranks.

    A checkpoint is due every so many seconds, and at once where a node of the workers is about to
    be taken away. The verdict of a step travels beside the next one on a gloo group, so that no GPU
    is waited for.
    """

    def __init__(self, config: PretrainConfig, monitor: Any) -> None:
        self._every_s = config.checkpoint.every_s
        self._stop_wanted = Question(monitor.stop_wanted, False)
        self._saved = time.monotonic()
        self._leaving = frozenset[str]()
        self._several = collectives.world_size() > 1
        self._group: Any = dist.new_group(backend="gloo") if self._several else None
        self._bits = torch.zeros(1, dtype=torch.int64)
        self._pending: Any = None

    def exchange(self) -> Verdict:
        """Give this rank's view after a step and get the verdict all ranks share."""
        if self._pending is not None:
            self._pending.wait()
        verdict = Verdict(int(self._bits))
        self._bits = torch.tensor([self._decide() if collectives.rank() == 0 else 0])
        if self._several:
            self._pending = dist.broadcast(self._bits, src=0, group=self._group, async_op=True)
        return verdict

    def _decide(self) -> int:
        now = time.monotonic()
        leaving = ray_internals.nodes_leaving()
        due = now - self._saved >= self._every_s or bool(leaving - self._leaving)
        if due:
            self._saved = now
            self._leaving = leaving
        return int(due) | 2 * int(self._stop_wanted.ask())
