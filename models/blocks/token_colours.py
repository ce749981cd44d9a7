"""Pictures of patch tokens."""

import torch
from torch import Tensor

_CLIPPED = 0.02  # share of the patches beyond the brightest and the darkest colour


@torch.no_grad()
def token_colours(patches: Tensor, grid: tuple[int, int], patch_size: int) -> Tensor:
    """Paint each patch by the three directions in which the tokens of the batch vary most.

    What is of one kind to the encoder has one colour, in all images of the batch.

    Args:
        patches: Tokens of B images, (B, N, D).
        grid: Rows and columns of patches, N of them.
        patch_size: Side of a patch, px.

    Returns:
        RGB in [0, 1], (B, 3, H, W).
    """
    tokens = patches.float().flatten(0, 1)  # (B * N, D)
    tokens = tokens - tokens.mean(0)
    # ascending: the last three are the largest
    directions = torch.linalg.eigh(tokens.T @ tokens).eigenvectors[:, -3:].flip(1)
    largest = directions.gather(0, directions.abs().argmax(0, keepdim=True))
    shares = tokens @ (directions * largest.sign())  # (B * N, 3), of a sign that does not flip
    edges = torch.tensor([_CLIPPED, 1 - _CLIPPED], device=shares.device)
    low, high = shares.quantile(edges, dim=0)
    colours = ((shares - low) / (high - low).clamp(min=1e-6)).clamp(0, 1)
    pixels = colours.view(len(patches), *grid, 3).permute(0, 3, 1, 2)
    painted: Tensor = pixels.repeat_interleave(patch_size, 2).repeat_interleave(patch_size, 3)
    return painted
