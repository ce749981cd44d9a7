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
from models.method import Batch, Method, Shipped, total_loss
from models.starting.continuation import Anchor, gentle_groups
from models.steps import acceleration, memory_layout, sharding
from models.steps.optimizers import Optimizers
from pipelines.stream.ledger import Ledger


class TrainState:
    """Everything a checkpoint holds: the method, the optimisers, the step and the ledger of what
    they have seen."""

    def __init__(
        self,
        config: PretrainConfig,
        device: torch.device,
        plan: Ledger,
        lr_scale: float = 1.0,
        *,
        compiled: bool = False,
    ) -> None:
        self.config = config
        self.device = device
        self._plan = plan
        method = build(run_start.starting_from_copy(config))
        if collectives.world_size() > 1:
            convert_sync_batch_norm(method)
        self.autocast = _autocast(config, device)
        self.method: Method = method.to(device)
        self._accelerate(compiled=compiled)
        self.model = self._parallel()
        self.optimizers = Optimizers(
            self.method,
            gentle_groups(self.method, config.start),
            config.optim,
            config.global_batch_size,
            lr_scale,
            float16=self.autocast == torch.float16,
        )
        self._anchor = Anchor(self.method, config.start)  # at the start, before any `restore`
        self.step = 0
        self.samples_seen = 0
        self.bad_samples: dict[str, int] = {}  # by reason

    @property
    def is_sharded(self) -> bool:
        """Tell whether the parameters are divided among the workers."""
        return self.config.train.shard and collectives.world_size() > 1

    def _accelerate(self, *, compiled: bool) -> None:
        """Compile the encoders, and let the one that is trained compute again, where wanted."""
        wanted = self.config.train
        trained = self.method.trained_encoder
        if compiled:
            for encoder in {trained, self.method.encoder}:
                by_blocks = wanted.checkpoint_activations or self.is_sharded
                acceleration.compile_encoder(encoder, by_blocks=by_blocks)
        if wanted.checkpoint_activations:
            acceleration.recompute(trained)

    def _parallel(self) -> torch.nn.Module:
        """Return the method as what the workers train together."""
        if self.is_sharded:
            sharding.shard(self.method)  # which takes no channels_last weights
            return self.method
        memory_layout.channels_last(self.method)
        if collectives.world_size() == 1:
            return self.method
        return DistributedDataParallel(
            self.method,
            device_ids=[self.device] if self.device.type == "cuda" else None,
            broadcast_buffers=False,
            # Looking for unused parameters keeps the gradients in the buckets of the first step.
            # DDP would regroup them after it, and a sum over three or more workers rounds by its
            # place in a bucket.
            find_unused_parameters=self.config.deterministic,
        )

    def restore(self, checkpoint: ray.train.Checkpoint | None) -> None:
        """Go on from a committed checkpoint, if there is one."""
        if checkpoint is None:
            return
        # What is divided may have no room on a device while it is whole.
        place = torch.device("cpu") if self.is_sharded else self.device
        with checkpoint.as_directory() as folder:
            saved = torch.load(
                Path(folder) / checkpoints.STATE, map_location=place, weights_only=True
            )
        self.method.load_state_dict(sharding.laid_out_state(saved["method"], self.method))
        self.optimizers.load_state_dict(saved)
        self.step = saved["step"]
        self.samples_seen = saved.get("samples_seen", 0)
        self.bad_samples = saved.get("bad_samples", {})

    def state_dict(self) -> dict[str, Any]:
        """Return the state as plain values and tensors, divided ones whole on rank 0 alone; all
        workers must call."""
        return {
            "step": self.step,
            "method": sharding.whole_state(self.method.state_dict()),
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
        elif self.is_sharded:
            sharding.synchronise(self.method, wanted=synchronise)
        with self.autocasting():
            outputs: dict[str, Tensor] = self.model(batch)
        self.optimizers.scaled(total_loss(outputs) / self.config.accumulate).backward()
        return outputs

    def autocasting(self) -> torch.autocast:
        """Compute in half precision where that is safe, as configured."""
        wanted = self.autocast
        return torch.autocast(self.device.type, wanted, enabled=wanted is not None)

    def shipped(self, num_rows: int) -> Shipped | None:
        """Return what the artifact holds, whole; all workers must call.

        Args:
            num_rows: Rows ever stored in the manifest.

        Returns:
            None on every rank but 0, which has the whole of a divided method.
        """
        state = sharding.whole_state(self.method.state_dict()) if self.is_sharded else None
        if collectives.rank() != 0:
            return None
        if state is None:
            return self.method.ships()
        method = build(self.config, start=False)
        method.expect_rows(num_rows)
        method.load_state_dict(state)
        return method.ships()

    def update(self, num_steps: int) -> Tensor:
        """Take the optimisers' step; returns the norm of the gradient before clipping."""
        self._anchor.hold(self.step, self.optimizers.main)
        self.method.before_step(self.step, num_steps)
        norm = self.optimizers.step()
        self.step += 1
        self.method.after_step(self.step, num_steps)
        return norm


def _autocast(config: PretrainConfig, device: torch.device) -> torch.dtype | None:
    """Return the half precision of a run; None: it computes in float32."""
    if config.precision == "auto":
        return torch.bfloat16 if device.type == "cuda" else None
    return {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": None}[config.precision]
