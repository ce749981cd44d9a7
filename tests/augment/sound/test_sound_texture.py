"""Statistics of sounds against what is known of tones and of noise that swells."""

import math

import pytest
import torch
from torch import Tensor

from augment.sound.sound_texture import (
    GROUPS,
    NUM_BANDS,
    NUM_STATISTICS,
    cochleagram,
    texture,
)

RATE = 16_000


def tone(hertz: float, seconds: float = 1.0, size: float = 0.3) -> Tensor:
    t = torch.arange(int(seconds * RATE)) / RATE
    return (size * torch.sin(2 * math.pi * hertz * t)).unsqueeze(0)


def noise(seconds: float = 2.0, seed: int = 0) -> Tensor:
    return torch.randn(1, int(seconds * RATE), generator=torch.Generator().manual_seed(seed)) * 0.1


def groups(windows: Tensor) -> list[Tensor]:
    return list(texture(windows, RATE).split(GROUPS, dim=1))


def test_there_are_as_many_statistics_as_in_the_paper() -> None:
    assert NUM_STATISTICS == 502
    assert texture(noise(), RATE).shape == (1, 502)


def test_a_tone_is_heard_in_the_bands_of_its_pitch_at_its_amplitude() -> None:
    loudest = []
    for hertz in (100, 400, 1_600, 6_000):
        heard = cochleagram(tone(hertz), RATE)[0, :, 40:-40]  # without the ends
        # the squares of all bands' gains sum to 1
        amplitude = heard.pow(1 / 0.3).square().sum(0).sqrt()
        assert amplitude.mean().item() == pytest.approx(0.3, rel=0.02)
        loudest.append(int(heard.mean(1).argmax()))
    assert loudest == sorted(set(loudest)) and loudest[-1] < NUM_BANDS


def test_envelopes_equal_those_of_the_full_analytic_signal() -> None:
    sound = noise(0.5)
    heard = cochleagram(sound, RATE)[0]
    spectrum = torch.fft.fft(sound[0])
    length = sound.shape[1]
    hertz = torch.arange(length // 2 + 1) * RATE / length
    erb = 9.265 * torch.log(1 + hertz / (24.7 * 9.265))
    low, high = (9.265 * math.log(1 + edge / (24.7 * 9.265)) for edge in (50, RATE / 2))
    steps = (erb - low) / (high - low) * (NUM_BANDS + 1) - 1
    for band in (3, 15, 31):
        away = (steps - band).clamp(-1, 1)
        gains = torch.zeros(length)
        gains[: length // 2 + 1] = 2 * torch.cos(away * math.pi / 2) * (away.abs() < 1)
        envelope = torch.fft.ifft(spectrum * gains).abs().pow(0.3)
        assert heard[band].mean().item() == pytest.approx(envelope.mean().item(), rel=0.01)


def test_what_swells_four_times_a_second_is_told_by_its_modulation() -> None:
    t = torch.arange(2 * RATE) / RATE
    swelling = noise() * (1 + 0.9 * torch.sin(2 * math.pi * 4 * t))
    _, _, steady, _, _ = groups(noise())
    _, _, slow, _, _ = groups(swelling)
    more = (slow - steady).unflatten(1, (NUM_BANDS, -1)).mean(1)[0]
    rates = 0.5 * 400 ** (torch.arange(10) / 9)
    assert 2.5 < rates[more.argmax()].item() < 6


def test_bands_that_swell_together_are_correlated_and_those_of_noise_are_less() -> None:
    t = torch.arange(2 * RATE) / RATE
    together = noise() * (1 + 0.95 * torch.sin(2 * math.pi * 4 * t))
    assert groups(together)[3].mean() > groups(noise())[3].mean() + 0.3
    assert groups(noise())[3].abs().max() <= 1 + 1e-4


def test_a_louder_sound_is_louder_and_else_the_same() -> None:
    quiet, loud = groups(noise()), groups(noise() * 4)
    factor = 4**0.3
    for index in (0, 1, 4):
        torch.testing.assert_close(loud[index], quiet[index] * factor, rtol=1e-3, atol=1e-4)
    for index in (2, 3):
        torch.testing.assert_close(loud[index], quiet[index], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("length", [400, 1_600, 60_000])
def test_silence_and_short_windows_give_numbers(length: int) -> None:
    sounds = torch.cat([torch.zeros(1, length), noise(length / RATE)])
    found = texture(sounds, RATE)
    assert found.isfinite().all() and not found[0].any()
