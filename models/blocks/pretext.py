"""What pretext tasks of classification share: their loss and how often they are right."""

import torch
from torch import Tensor
from torch.nn import functional

from models.collectives import global_mean


def classification(logits: Tensor, label: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Judge a task's answers over the valid samples of all workers.

    Args:
        logits: Scores of K classes for each of a sample's A questions, (B, A, K).
        label: The right classes, (B, A) int64.
        valid: (B,) bool.

    Returns:
        Cross entropy, nats, log(K) at chance, with gradient; and the share of right answers, 1 / K
        at chance. Both are means over a sample's questions and the global batch's valid samples:
        float32 scalars whose averages over workers are those means.
    """
    flat = logits.float().flatten(0, 1)  # (B * A, K)
    entropy = functional.cross_entropy(flat, label.flatten(), reduction="none").view_as(label)
    right = (logits.detach().argmax(-1) == label).float()
    return global_mean(entropy.mean(1), valid), global_mean(right.mean(1), valid)


def pair_top1(first: Tensor, second: Tensor, valid: Tensor) -> Tensor:
    """Return the share of this worker's valid samples whose own second embedding is the most alike
    to the first, of this worker's only; 1 / B at chance.

    Args:
        first: (B, D), any float dtype.
        second: (B, D), row i belongs to row i of the first.
        valid: (B,) bool; the others are neither asked nor among the answers.
    """
    first, second = (functional.normalize(x.detach().float(), dim=1) for x in (first, second))
    alike = (first @ second.T).masked_fill(~valid, float("-inf"))
    right = (alike.argmax(dim=1) == torch.arange(len(valid), device=valid.device)) & valid
    share: Tensor = right.sum() / valid.sum().clamp(min=1)
    return share
