"""How often a run has seen each token: what it takes for noise, and what a guess is worth that
looks at nothing."""

import torch
from torch import Tensor, nn

from augment.texts.special_tokens import NUM_SPECIAL, is_word
from models.collectives import all_reduce_sum

_UNSEEN = 0.01  # counted of a token before the first
_SCALE = 1 << 32


class TokenCounts(nn.Module):
    """Counts the words of the valid texts of all workers, step by step.

    Args:
        vocab_size: V, tokens that there are.
    """

    counts: Tensor
    fresh: Tensor

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.register_buffer("counts", torch.zeros(vocab_size, dtype=torch.int64))
        # of this worker, since the last step; none are left where a checkpoint is written
        self.register_buffer("fresh", torch.zeros_like(self.counts), persistent=False)

    @torch.no_grad()
    def see(self, tokens: Tensor, valid: Tensor) -> None:
        """Count the words of this worker's texts (B, L) that are valid (B,)."""
        ones = (is_word(tokens) & valid.unsqueeze(1)).long()
        self.fresh.scatter_add_(0, tokens.flatten(), ones.flatten())

    @torch.no_grad()
    def after_step(self) -> None:
        """Add what all workers have seen; all of them must call."""
        self.counts += all_reduce_sum(self.fresh)
        self.fresh.zero_()

    def shares(self) -> Tensor:
        """Return each token's share of all words, (V,) float32; small but not 0 where it was not
        seen."""
        weights = self.counts.float().clamp(min=_UNSEEN)
        weights = torch.cat([torch.zeros_like(weights[:NUM_SPECIAL]), weights[NUM_SPECIAL:]])
        return weights / weights.sum()

    def noise(self, draws: Tensor, power: float) -> Tensor:
        """Turn uniform numbers into tokens, each as likely as its share to a power
        (arXiv:1310.4546, section 2.2).

        Args:
            draws: In [0, 1), of any shape.
            power: 1: as they are; 0: all tokens alike.

        Returns:
            int64, of the draws' shape.
        """
        shares = self.shares().double()
        weights = torch.where(shares > 0, shares.pow(power), 0.0)
        # whole numbers, whose sums are the same in any order
        bounds = (weights / weights.amax() * _SCALE).ceil().long().cumsum(0)
        found = torch.searchsorted(bounds, (draws.double() * bounds[-1]).long(), right=True)
        return found.clamp(max=len(bounds) - 1)
