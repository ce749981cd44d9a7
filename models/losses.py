"""Objectives that more than one method can use, as pure functions of embeddings."""

import torch
from torch import Tensor
from torch.nn import functional

from models.collectives import gather, rank, world_size


def nt_xent(z: Tensor, *, temperature: float, valid: Tensor | None = None) -> Tensor:
    """Contrast each embedding with its other view against the rest of the global batch.

    Normalised temperature-scaled cross entropy, SimCLR eq. 1 (arXiv:2002.05709). Embeddings of all workers are
    negatives, so the loss does not depend on how the batch is split among them; at chance it is
    log(2 * B * world_size - 1).

    Args:
        z: Projections of two views of this worker's B samples, (2, B, D), any float dtype; need not be normalised.
            B is the same on every worker.
        temperature: Divides the cosine similarities, > 0. Paper: 0.1 at B = 4096.
        valid: (B,) bool, False where a sample could not be read: it is neither an anchor nor a negative. None: all
            are valid. Given by every worker or by none.

    Returns:
        A float32 scalar in nats: this worker's sum over its valid anchors, times the number of workers, over the valid
        anchors of the global batch; the mean over this worker's anchors where all are valid. Gradient flows to every
        worker's `z` through the gather, so that DDP's average equals the one-process gradient. Zero, with zero
        gradient, where no sample of the global batch is valid.

    Raises:
        ValueError: fewer than two samples in the global batch (there is no negative), not two views, or a temperature
            that is not positive.
    """
    if z.ndim != 3 or z.shape[0] != 2:
        raise ValueError(f"z must be (2, B, D), one row per view; got {tuple(z.shape)}")
    num_samples, num_global = z.shape[1], z.shape[1] * world_size()
    if num_global < 2:
        raise ValueError(f"the global batch must hold at least 2 samples, got {num_global}: there is no negative")
    if temperature <= 0:
        raise ValueError(f"temperature must be > 0, got {temperature}")
    valid = torch.ones(num_samples, dtype=torch.bool, device=z.device) if valid is None else valid
    first = rank() * num_samples  # this worker's first column among the global samples
    with torch.autocast(z.device.type, enabled=False):  # float32: exp overflows in fp16 at temperature 0.1
        z = functional.normalize(z.float(), dim=-1)
        everyone = gather(z.transpose(0, 1)).transpose(0, 1)  # (2, W*B, D)
        everyone_valid = gather(valid)  # (W*B,)
        logits = torch.einsum("vbd,wgd->vbwg", z, everyone) / temperature  # (2, B, 2, W*B)
        own = torch.eye(2 * num_samples, device=z.device).view(2, num_samples, 2, num_samples).bool()
        itself = torch.zeros_like(logits, dtype=torch.bool)
        itself[..., first : first + num_samples] = own
        # Finite, as a row of -inf alone (no valid sample anywhere) would have a NaN gradient.
        logits = logits.masked_fill(itself | ~everyone_valid, torch.finfo(logits.dtype).min)
        positive = (z[0] * z[1]).sum(-1) / temperature  # (B,)
        per_anchor = logits.flatten(2).logsumexp(-1) - positive  # (2, B)
        per_anchor = torch.where(valid, per_anchor, 0.0)
        return per_anchor.sum() * world_size() / (2 * everyone_valid.sum()).clamp(min=1)
