"""What every encoder is to the methods, the probes and the artifact."""

from torch import nn


class Encoder(nn.Module):
    """A network from normalised images (B, 3, S, S) to one embedding per image (B, D).

    Attributes:
        embed_dim: D, the length of an embedding.
    """

    embed_dim: int
