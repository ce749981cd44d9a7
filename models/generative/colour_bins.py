"""Colours as classes: the bins of the sRGB gamut, and how colours become bins and bins colours
(arXiv:1603.08511, section 2)."""

import torch
from torch import Tensor, nn

from augment.lab import gamut_points

_NEAREST = 5
_SIGMA = 5.0  # of the soft encoding, in units of a and b


class ColourBins(nn.Module):
    """Q points of a and b, and how often each was met.

    Attributes:
        points: (Q, 2) float32; in the state, as a class means nothing without its colour.
        met: (Q,) float32, how much of each bin the batches so far held: each adds 1 in all. It
            begins with a hundredth, of all bins alike.
    """

    points: Tensor
    met: Tensor

    def __init__(self) -> None:
        super().__init__()
        points = gamut_points()
        self.register_buffer("points", points.clone())
        self.register_buffer("met", torch.full((len(points),), 0.01 / len(points)))

    def encode(self, ab: Tensor) -> tuple[Tensor, Tensor]:
        """Share each colour out to its nearest bins.

        Args:
            ab: (B, 2, h, w) float32.

        Returns:
            The 5 nearest bins, the nearest first, (B, 5, h, w) int64, and the colour's share of
            each: a Gaussian of the distance whose deviation is 5, that sums to 1.
        """
        colours = ab.movedim(1, -1)  # (B, h, w, 2)
        square = (colours.unsqueeze(-2) - self.points).square().sum(-1)  # (B, h, w, Q)
        distance, index = square.topk(_NEAREST, dim=-1, largest=False)
        share = (-distance / (2 * _SIGMA**2)).softmax(-1)
        return index.movedim(-1, 1), share.movedim(-1, 1)

    def amounts(self, index: Tensor, share: Tensor) -> Tensor:
        """Return how much of each bin every sample holds, (B, Q), summing to 1 a sample."""
        held = share.new_zeros(len(share), len(self.points))
        held.scatter_add_(1, index.flatten(1), share.flatten(1))
        return held / (index.shape[2] * index.shape[3])

    def class_weights(self, uniform_share: float) -> Tensor:
        """Weigh bins by how rare they are (section 2.2), (Q,).

        Args:
            uniform_share: Lambda, share of the uniform distribution that is mixed into the bins'
                frequencies, whose inverse is the weight; 1 weighs all alike.

        Returns:
            Weights whose mean over the colours met is 1. The frequencies are those of the soft
            encoding, which smooths them as the paper does.
        """
        frequency = self.met / self.met.sum()
        weights = 1 / ((1 - uniform_share) * frequency + uniform_share / len(frequency))
        return weights / (weights * frequency).sum()

    def decode(self, logits: Tensor, temperature: float) -> Tensor:
        """Take the annealed mean of a distribution over bins (section 2.3).

        Args:
            logits: (B, Q, h, w).
            temperature: 1: the mean, greyer than any likely colour; towards 0: the likeliest bin.

        Returns:
            (B, 2, h, w) float32.
        """
        chance = (logits.float() / temperature).softmax(dim=1)
        return torch.einsum("bqhw,qc->bchw", chance, self.points)


def bin_entropy(logits: Tensor, index: Tensor, share: Tensor) -> Tensor:
    """Return the cross entropy of each place, nats, log(Q) at chance, (B, h, w) float32.

    Args:
        logits: (B, Q, h, w).
        index: Bins of the true colour, (B, K, h, w) int64.
        share: Its share of each, (B, K, h, w).
    """
    chance = logits.float().log_softmax(dim=1)
    return -(chance.gather(1, index) * share).sum(dim=1)
