"""Everything a checkpoint of a run holds."""

from pathlib import Path
from typing import Any

import numpy as np
import ray.train
import ray.train.torch
import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from jobs.setup import run_start
from jobs.training import checkpoints
from jobs.training.run_config import PretrainConfig, build
from models import collectives
from models.batch_norm import convert_sync_batch_norm
from models.method import Batch, Method, total_loss
from models.optimizers import Optimizers
from models.starting.continuation import Anchor, gentle_groups
from pipelines.stream.ledger import Ledger


class TrainState:
    """Everything a checkpoint holds: the method, the optimisers, the step and the ledger of what
    they have seen."""

    def __init__(
        self, config: PretrainConfig, device: torch.device, plan: Ledger, lr_scale: float = 1.0
    ) -> None:
        self.config = config
        self.device = device
        self._plan = plan
        method = build(run_start.starting_from_copy(config))
        if collectives.world_size() > 1:
            convert_sync_batch_norm(method)
        self.method: Method = method.to(device).to(memory_format=torch.channels_last)
        self.model: torch.nn.Module = self.method
        if collectives.world_size() > 1:
            devices = [device] if device.type == "cuda" else None
            # Looking for unused parameters keeps the gradients in the buckets of the first step.
            # DDP would regroup them after it, and a sum over three or more workers rounds by its
            # place in a bucket.
            self.model = DistributedDataParallel(
                self.method,
                device_ids=devices,
                broadcast_buffers=False,
                find_unused_parameters=config.deterministic,
            )
        self.optimizers = Optimizers(
            self.method,
            gentle_groups(self.method, config.start),
            config.optim,
            config.global_batch_size,
            lr_scale,
        )
        self._anchor = Anchor(self.method, config.start)  # at the start, before any `restore`
        self.step = 0
        # `step`, `rankme` and `encoder` of the healthiest look
        self.samples_seen = 0
        self.bad_samples: dict[str, int] = {}  # by reason
        wanted = config.precision
        self.autocast = wanted == "bfloat16" or (wanted == "auto" and device.type == "cuda")

    def restore(self, checkpoint: ray.train.Checkpoint | None) -> None:
        """Go on from a committed checkpoint, if there is one."""
        if checkpoint is None:
            return
        with checkpoint.as_directory() as folder:
            saved = torch.load(
                Path(folder) / checkpoints.STATE, map_location=self.device, weights_only=True
            )
        self.method.load_state_dict(saved["method"])
        self.optimizers.load_state_dict(saved)
        self.step = saved["step"]
        self.samples_seen = saved.get("samples_seen", 0)
        self.bad_samples = saved.get("bad_samples", {})

    def state_dict(self) -> dict[str, Any]:
        """Return the state as tensors and plain values."""
        return {
            "step": self.step,
            "method": self.method.state_dict(),
            "samples_seen": self.samples_seen,
            "bad_samples": self.bad_samples,
            **self.optimizers.state_dict(),
        }

    def ledger(self) -> Ledger:
        """Return every position of the plan up to the last step's."""
        return self._plan.at(self.step * self.config.global_batch_size)

    def begin_step(self, num_steps: int) -> float:
        """Set the coming step's learning rate, which is returned, and weight decay.

        What an encoder draws from torch's own generator, as for branches that it leaves out, is a
        function of seed, step and rank from here on, so that a resumed run draws it again.
        """
        key = [self.config.seed, self.step, collectives.rank()]
        torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))
        return self.optimizers.set_schedule(self.step, num_steps)

    def backward(self, batch: Batch, *, synchronise: bool) -> dict[str, Tensor]:
        """Add the gradients of one micro-batch; ranks average theirs at the last one of a step."""
        if isinstance(self.model, DistributedDataParallel):
            self.model.require_backward_grad_sync = synchronise
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            outputs: dict[str, Tensor] = self.model(batch)
        (total_loss(outputs) / self.config.accumulate).backward()
        return outputs

    def update(self, num_steps: int) -> Tensor:
        """Take the optimisers' step; returns the norm of the gradient before clipping."""
        self._anchor.hold(self.step, self.optimizers.main)
        self.method.before_step(self.step, num_steps)
        norm = self.optimizers.step()
        self.step += 1
        self.method.after_step(self.step, num_steps)
        return norm
