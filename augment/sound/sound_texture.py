"""What a sound is like as a whole: time-averaged statistics of its cochleagram, by which wind is
told from speech though no two winds are alike (McDermott & Simoncelli 2011; as Owens 2016,
arXiv:1608.07017, section 3, takes them)."""

import math
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

NUM_BANDS = 32
_LOWEST_HZ = 50.0
_ENVELOPE_HZ = 400  # samples a second of the cochleagram
_COMPRESSION = 0.3  # the ear's
_MODULATIONS_HZ = (0.5, 200.0)
_NUM_MODULATIONS = 10
_APART = (1, 2, 3, 5)  # bands that are compared
_TINY = 1e-4  # of the deviation of an envelope: what varies less says nothing of how it varies

NUM_CORRELATIONS = sum(NUM_BANDS - apart for apart in _APART)
GROUPS = (NUM_BANDS, NUM_BANDS, NUM_BANDS * _NUM_MODULATIONS, NUM_CORRELATIONS, 1)
"""How many statistics there are of each kind: means, deviations, modulations, correlations,
loudness."""
NUM_STATISTICS = sum(GROUPS)


def cochleagram(windows: Tensor, rate: int) -> Tensor:
    """Return how loud each band of pitches is, moment by moment.

    Bands lie evenly on the scale of the ear (ERB); each is a half-cosine that meets its
    neighbours' middles, so that the squares of all of them sum to 1. A band's envelope is the
    magnitude of its analytic signal, whose few frequencies alone are transformed back.

    Args:
        windows: (B, L) float, full scale is 1.
        rate: Samples a second.

    Returns:
        (B, NUM_BANDS, E) float32, 400 moments a second; amplitudes, raised to the power 0.3.
    """
    length = windows.shape[1]
    moments = max(2, round(length / rate * _ENVELOPE_HZ))
    spectrum = torch.fft.rfft(windows.float())  # (B, F)
    envelopes = list[Tensor]()
    for first, gains in bands_of(length, rate):
        own = spectrum[:, first : first + len(gains)] * gains.to(windows.device)
        size = 1 << math.ceil(math.log2(max(len(gains), moments)))
        # the analytic signal, moved down to frequency 0: its magnitude is the same
        analytic = torch.fft.ifft(own, n=size) * (2 * size / length)
        envelope = analytic.abs().pow(_COMPRESSION)
        envelopes.append(functional.adaptive_avg_pool1d(envelope, moments))
    return torch.stack(envelopes, dim=1)


def texture(windows: Tensor, rate: int) -> Tensor:
    """Return the statistics of sounds: of each band its mean, its deviation and how much of that is
    at each rate of modulation, the correlations of bands near each other, and the loudness.

    Args:
        windows: (B, L) float, full scale is 1.
        rate: Samples a second.

    Returns:
        (B, NUM_STATISTICS) float32, in the order of `GROUPS`.
    """
    heard = cochleagram(windows, rate)
    mean = heard.mean(dim=2)
    deviation = heard.std(dim=2, correction=0)
    varies = (deviation > _TINY).unsqueeze(2)
    scale = deviation.unsqueeze(2).clamp(min=_TINY)
    unit = ((heard - mean.unsqueeze(2)) / scale).where(varies, 0.0)  # (B, M, E)
    pairs = [(unit[:, apart:] * unit[:, :-apart]).mean(dim=2) for apart in _APART]
    loudness = heard.mean(dim=1).median(dim=1, keepdim=True).values
    groups = (mean, deviation, _modulations(unit).flatten(1), torch.cat(pairs, dim=1), loudness)
    return torch.cat(groups, dim=1)


def _modulations(unit: Tensor) -> Tensor:
    """Return the deviation of envelopes (B, M, E) within bands of modulation rates, (B, M, N)."""
    moments = unit.shape[2]
    power = torch.fft.rfft(unit).abs().square() * (2 / moments**2)  # sums to the variance
    rates = torch.fft.rfftfreq(moments, 1 / _ENVELOPE_HZ, device=unit.device).clamp(min=1e-3)
    slowest, fastest = _MODULATIONS_HZ
    steps = (rates / slowest).log() / math.log(fastest / slowest) * (_NUM_MODULATIONS - 1)
    gains = _half_cosines(steps, _NUM_MODULATIONS)  # (N, E / 2 + 1)
    within: Tensor = power @ gains.square().T.to(power)  # (B, M, N)
    return within.sqrt()


@lru_cache(maxsize=8)
def bands_of(length: int, rate: int) -> tuple[tuple[int, Tensor], ...]:
    """Return of each band its first frequency, an index, and its gains from there on."""
    hertz = torch.fft.rfftfreq(length, 1 / rate, dtype=torch.float64)
    low, high = (_erb(torch.tensor(x, dtype=torch.float64)) for x in (_LOWEST_HZ, rate / 2))
    steps = (_erb(hertz) - low) / (high - low) * (NUM_BANDS + 1) - 1
    bands = list[tuple[int, Tensor]]()
    for gains in _half_cosines(steps, NUM_BANDS).float():
        inside = gains.nonzero()
        # a window too short to tell the band from its neighbours has no frequency in it
        first = int(inside[0]) if len(inside) else 0
        last = int(inside[-1]) if len(inside) else 0
        bands.append((first, gains[first : last + 1].clone()))
    return tuple(bands)


def _half_cosines(steps: Tensor, count: int) -> Tensor:
    """Return gains (count, F) that peak at steps 0, 1, ... and are 0 from the next step on."""
    away = (steps - torch.arange(count, device=steps.device).unsqueeze(1)).clamp(-1, 1)
    gains = (away * math.pi / 2).cos()
    return gains.where(away.abs() < 1, 0.0)


def _erb(hertz: Tensor) -> Tensor:
    """Return pitches on the scale of equivalent rectangular bandwidths (Glasberg & Moore 1990)."""
    return 9.265 * (1 + hertz / (24.7 * 9.265)).log()
