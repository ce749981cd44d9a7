"""The log-mel spectrum of sounds: what is heard at each pitch, moment by moment."""

import math

import torch
from torch import Tensor
from torch.nn import functional

_FRAME_S = 0.025
_STEP_S = 0.010
_FLOOR = 1e-6  # of power at full scale 1: what is softer counts as silence
NUM_BANDS = 40


def log_mel(windows: Tensor, rate: int, num_bands: int = NUM_BANDS) -> Tensor:
    """Return the logarithm of the power in bands that lie evenly on the mel scale.

    Args:
        windows: (B, L) float, full scale is 1.
        rate: Samples a second.
        num_bands: M.

    Returns:
        (B, M, T) float32, a frame of 25 ms each 10 ms; natural logarithms.
    """
    length = max(16, round(_FRAME_S * rate))
    step = max(1, round(_STEP_S * rate))
    size = 2 ** math.ceil(math.log2(length))
    windows = windows.float()
    spectrum = torch.stft(
        windows,
        size,
        hop_length=step,
        win_length=length,
        window=torch.hann_window(length, dtype=windows.dtype, device=windows.device),
        center=True,
        pad_mode="constant",
        return_complex=True,
    )
    power = spectrum.abs().square() / length  # (B, size / 2 + 1, T)
    bands = _bands(num_bands, size, rate).to(windows)
    return (bands @ power).clamp(min=_FLOOR).log()


def statistics(windows: Tensor, rate: int) -> Tensor:
    """Return the mean and the deviation over time of each band, (B, 2 * NUM_BANDS): what any
    encoder of sounds must beat."""
    bands = log_mel(windows, rate)
    return torch.cat([bands.mean(dim=2), bands.std(dim=2, correction=0)], dim=1)


def _bands(num_bands: int, size: int, rate: int) -> Tensor:
    """Return triangles on the mel scale of O'Shaughnessy, (M, size / 2 + 1): each peaks at 1 where
    its neighbours end."""
    most = 2595 * math.log10(1 + rate / 2 / 700)
    edges = 700 * (10 ** (torch.linspace(0, most, num_bands + 2) / 2595) - 1)  # Hz
    pitches = torch.linspace(0, rate / 2, size // 2 + 1)
    low, peak, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising = (pitches - low) / (peak - low)
    falling = (high - pitches) / (high - peak)
    return torch.minimum(rising, falling).clamp(min=0)


def heat(values: Tensor, size: int) -> Tensor:
    """Draw maps (B, H, W) as squares (B, 3, S, S) RGB in [0, 1]: black is a map's least value,
    then red and yellow, and white its greatest."""
    least = values.amin(dim=(1, 2), keepdim=True)
    most = values.amax(dim=(1, 2), keepdim=True)
    unit = ((values - least) / (most - least).clamp(min=1e-6)).float()
    square = functional.interpolate(unit.unsqueeze(1), size=(size, size), mode="nearest")
    return torch.cat([(3 * square - shift).clamp(0, 1) for shift in range(3)], dim=1)


def mel_picture(windows: Tensor, rate: int, size: int) -> Tensor:
    """Draw windows (B, L) as their log-mel spectra, low pitches below: (B, 3, S, S) RGB in
    [0, 1]."""
    return heat(log_mel(windows, rate).flip(1), size)
