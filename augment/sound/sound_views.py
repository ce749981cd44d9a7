"""From windows of sounds to the views a method eats: gain, noise and masks, drawn by key."""

import torch
from torch import Tensor

from augment.rng import normal_of, state, uniform
from augment.sample import row_keys
from augment.sound.sound_recipe import Gain, SoundGroup, SoundViews, TimeMasks, WhiteNoise

FULL_SCALE = 32_768  # of int16
_QUIETEST = 1e-4  # of full scale: noise is no softer than that below even where there is silence


def scaled(windows: Tensor, std: float) -> Tensor:
    """Turn samples (..., L) int16 into an encoder's input, float32."""
    return windows.float() / (FULL_SCALE * std)


class SoundViewGenerator:
    """Makes the views of a recipe; a sample's come out the same in whatever batch and place.

    Args:
        views: The recipe.
        seed: The run's seed.
    """

    def __init__(self, views: SoundViews, seed: int) -> None:
        self.views = views
        self.seed = seed

    def __call__(
        self,
        rows: dict[str, Tensor],
        epoch: Tensor,
        sample_id: Tensor,
        *,
        photometric_done: bool = False,
    ) -> dict[str, Tensor]:
        """Change windows as drawn, unless that is done, and scale them.

        Args:
            rows: (B, V, L) int16 by group.
            epoch: (B,) int64, on the windows' device.
            sample_id: (B,) int64, on that device.
            photometric_done: Leave the windows as they are.

        Returns:
            (V, B, L) float32 by group, contiguous: samples in [-1, 1] divided by `views.std`.
        """
        views = {}
        for name, windows in rows.items():
            x = windows.float() / FULL_SCALE
            if not photometric_done:
                keys = row_keys(self.views, name, epoch, sample_id)
                changed = change(x.flatten(0, 1), self.views.groups[name], self.seed, *keys)
                x = changed.reshape(x.shape)
            views[name] = (x / self.views.std).transpose(0, 1).contiguous()  # (V, B, L)
        return views


def change(
    windows: Tensor, group: SoundGroup, seed: int, epoch: Tensor, sample_id: Tensor, view: Tensor
) -> Tensor:
    """Draw and apply a group's changes, in the order of its fields.

    Args:
        windows: (N, L) float32, full scale is 1.
        group: What is changed.
        seed: The run's seed.
        epoch: (N,) int64, as those that follow, on the windows' device.
        sample_id: (N,) int64.
        view: (N,) int64, the view's number among all of its sample.
    """

    def draw(op: str, num: int) -> Tensor:
        return uniform(num, seed=seed, epoch=epoch, sample_id=sample_id, view=view, op=op)

    if group.gain is not None:
        windows = _louder(windows, group.gain, draw("gain", 2))
    if group.noise is not None:
        key = state(seed=seed, epoch=epoch, sample_id=sample_id, view=view, op="white_noise.values")
        windows = _noisy(windows, group.noise, draw("white_noise", 2), key)
    if group.time_masks is not None:
        masks = group.time_masks
        windows = _masked(windows, masks, draw("time_masks", 1 + 2 * masks.count))
    return windows


def _louder(windows: Tensor, gain: Gain, u: Tensor) -> Tensor:
    factor = torch.pow(10.0, _between(gain.decibels, u[:, 1]) / 20)
    return windows * torch.where(u[:, 0] < gain.p, factor, 1.0).unsqueeze(1)


def _noisy(windows: Tensor, noise: WhiteNoise, u: Tensor, key: Tensor) -> Tensor:
    """Add noise of a drawn share of each window's own power."""
    size = windows.square().mean(dim=1).sqrt().clamp(min=_QUIETEST)  # (N,)
    deviation = size * torch.pow(10.0, -_between(noise.snr, u[:, 1]) / 20)
    deviation = torch.where(u[:, 0] < noise.p, deviation, 0.0)
    return windows + deviation.unsqueeze(1) * normal_of(key, windows.shape[1])


def _masked(windows: Tensor, masks: TimeMasks, u: Tensor) -> Tensor:
    """Silence stretches of drawn lengths at drawn places, which may overlap."""
    lengths = u[:, 1 : 1 + masks.count] * masks.longest  # (N, count), of the window
    starts = u[:, 1 + masks.count :] * (1 - lengths)
    at = (torch.arange(windows.shape[1], device=windows.device) + 0.5) / windows.shape[1]
    hidden = torch.zeros_like(windows, dtype=torch.bool)
    for start, length in zip(starts.unbind(1), lengths.unbind(1), strict=True):
        begins = start.unsqueeze(1)
        hidden |= (at >= begins) & (at < begins + length.unsqueeze(1))
    return windows.masked_fill(hidden & (u[:, :1] < masks.p), 0.0)


def _between(bounds: tuple[float, float], u: Tensor) -> Tensor:
    return bounds[0] + (bounds[1] - bounds[0]) * u
