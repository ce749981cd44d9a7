"""Changes that each patch of an image undergoes by itself, so that its neighbours do not give it
away."""

import math
from typing import Any

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from augment.frozen import Frozen
from augment.ops import Fraction, Probability
from augment.rng import state, uniform_of

# per side of a patch, where an elastic displacement is drawn; between them it is interpolated
_KNOTS = 3


class PatchChanges(Frozen):
    """What may happen to a patch, in the order of the fields; the defaults leave it as it is."""

    subcrop: Fraction = Field(
        default=1.0,
        description=(
            "side of the crop, placed at random, that is moved to the middle; the rest is blank"
        ),
    )
    flip: Probability = Field(
        default=0.0, description="probability of a mirror image, left to right"
    )
    channel_drop: Probability = Field(
        default=0.0, description="probability that two of the three channels are blanked"
    )
    warp: Probability = Field(
        default=0.0, description="probability of rotation, shear and elastic together"
    )
    degrees: float = Field(
        default=15.0, ge=0, le=180, description="warp: angle drawn from [-d, d], degrees"
    )
    shear: float = Field(
        default=10.0, ge=0, lt=90, description="warp: shear along x drawn from [-s, s], degrees"
    )
    elastic: float = Field(
        default=0.1,
        ge=0,
        le=0.5,
        description="warp: displacements drawn from [-e, e] at 3 x 3 knots, in sides",
    )

    def idle(self) -> dict[str, str]:
        """Return what a warp that never happens has no use for."""
        return {} if self.warp else dict.fromkeys(("degrees", "shear", "elastic"), "warp")


def sample_patches(
    changes: PatchChanges,
    num_patches: int,
    *,
    seed: int,
    epoch: Tensor,
    sample_id: Tensor,
    view: int = 0,
) -> dict[str, Tensor]:
    """Draw the changes of every patch: a function of (seed, epoch, sample, view, patch) and of
    nothing else.

    Args:
        changes: What may happen.
        num_patches: Patches N of an image, in any order that is always the same.
        seed: The run's seed.
        epoch: (B,) int64.
        sample_id: (B,) int64.
        view: Index of the view that is cut, among all views of the sample.

    Returns:
        `place` (B * N, 2) in [0, 1), where the subcrop is taken, row and column; `flip` (B * N,)
        bool; `keep` (B * N, 3) bool, of channels; `degrees`, `shear` (B * N,); `displacement` (B *
        N, 2, 3, 3) in sides, of x and y. On sample_id's device.
    """

    def draw(op: str, num: int) -> Tensor:
        key = state(seed=seed, epoch=epoch, sample_id=sample_id, view=view, op=f"patch.{op}")
        u: Tensor = (
            uniform_of(key, num_patches * num).unflatten(1, (num_patches, num)).flatten(0, 1)
        )
        return u  # (B * N, num)

    kept = draw("channel_drop", 4)
    warp = draw("warp", 3 + 2 * _KNOTS**2)
    amount = torch.where(
        warp[:, :1] < changes.warp, 2 * warp[:, 1:] - 1, torch.zeros_like(warp[:, 1:])
    )
    return {
        "place": draw("subcrop", 2),
        "flip": draw("flip", 1)[:, 0] < changes.flip,
        "keep": (
            (kept[:, :1] >= changes.channel_drop) | (kept[:, 1:].argsort(dim=1, stable=True) == 0)
        ),
        "degrees": changes.degrees * amount[:, 0],
        "shear": changes.shear * amount[:, 1],
        "displacement": changes.elastic * amount[:, 2:].unflatten(1, (2, _KNOTS, _KNOTS)),
    }


def change_patches(patches: Tensor, changes: PatchChanges, **keys: Any) -> Tensor:
    """Draw and apply changes to the patches of images.

    Args:
        patches: (B, R, C, 3, p, p) float, normalised: blank is 0, the mean colour. Left as they
            are.
        changes: What may happen.
        keys: `seed`, `epoch`, `sample_id` and `view` of `sample_patches`.

    Returns:
        Patches changed, of the same shape.
    """
    if changes == PatchChanges():
        return patches
    shape = patches.shape
    draws = sample_patches(changes, shape[1] * shape[2], **keys)
    x = patches.flatten(0, 2)  # (N, 3, p, p)
    if changes.subcrop < 1:
        x = _recrop(x, max(1, round(changes.subcrop * shape[-1])), draws["place"])
    if changes.flip > 0:
        x = torch.where(draws["flip"][:, None, None, None], x.flip(-1), x)
    if changes.warp > 0:
        x = _warp(x, draws["degrees"], draws["shear"], draws["displacement"])
    if changes.channel_drop > 0:
        x = x * draws["keep"][:, :, None, None]
    return x.reshape(shape)


def _recrop(x: Tensor, side: int, place: Tensor) -> Tensor:
    """Move a crop of `side` px, taken at `place` (N, 2), to the middle of a blank patch."""
    patch_size = x.shape[-1]
    margin = patch_size - side
    first = (place * (margin + 1)).long()  # (N, 2)
    target = torch.arange(patch_size, device=x.device)
    inside = (target >= margin // 2) & (target < margin // 2 + side)
    source = (target - margin // 2 + first[:, :, None]).clamp(0, patch_size - 1)  # (N, 2, p)
    rows, columns = (
        index.expand_as(x) for index in (source[:, 0, None, :, None], source[:, 1, None, None, :])
    )
    return x.gather(2, rows).gather(3, columns) * (inside[:, None] & inside)


def _warp(x: Tensor, degrees: Tensor, shear: Tensor, displacement: Tensor) -> Tensor:
    """Sample each patch once, where rotation, shear and a smooth displacement together point;
    borders are repeated."""
    angle, slant = (value * (math.pi / 180) for value in (degrees, shear))
    cos = angle.cos()
    sin = angle.sin()
    zero = torch.zeros_like(angle)
    rows = [
        torch.stack([cos, cos * slant.tan() - sin, zero], 1),
        torch.stack([sin, sin * slant.tan() + cos, zero], 1),
    ]
    grid = functional.affine_grid(
        torch.stack(rows, dim=1), list(x.shape), align_corners=False
    )  # (N, p, p, 2)
    smooth = functional.interpolate(
        displacement, size=x.shape[-2:], mode="bicubic", align_corners=True
    )
    grid = grid + 2 * smooth.permute(0, 2, 3, 1)  # the side is 2 in the grid's units
    warped: Tensor = functional.grid_sample(
        x.float(), grid.float(), padding_mode="border", align_corners=False
    )
    return warped.to(x.dtype)
