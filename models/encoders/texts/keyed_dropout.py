"""Features that are left out at random, by the key of their sample."""

import torch
from torch import Tensor, nn

from augment.rng import state, uniform_of

Key = tuple[int, Tensor, Tensor]
"""Seed, epochs (B,) and sample ids (B,), int64."""


class KeyedDropout(nn.Module):
    """Leave out a share of features in training, and raise the others to keep the mean.

    Which ones is a matter of seed, epoch, sample, view and place in the network: it depends neither
    on the batch nor on the worker, and a resumed run leaves out the same.

    Args:
        share: Of the features, in [0, 1).
        name: Of its place in the network.

    Attributes:
        key: Of the samples whose features come next, view by view; None: nothing is left out.
    """

    def __init__(self, share: float, name: str) -> None:
        super().__init__()
        self.share = share
        self.name = name
        self.key: Key | None = None

    def forward(self, features: Tensor) -> Tensor:
        """Leave out features of (V * B, ...)."""
        if not self.training or self.share == 0 or self.key is None:
            return features
        seed, epoch, sample_id = self.key
        num_views = len(features) // len(epoch)
        view = torch.arange(num_views, device=features.device).repeat_interleave(len(epoch))
        hashed = state(
            seed=seed,
            epoch=epoch.repeat(num_views),
            sample_id=sample_id.repeat(num_views),
            view=view,
            op=f"dropout {self.name}",
        )
        draws = uniform_of(hashed, features[0].numel()).view(features.shape)
        kept = (draws >= self.share).to(features.dtype)
        return features * kept / (1 - self.share)
