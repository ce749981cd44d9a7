import math

import numpy as np
import pytest
import torch
from torch import Tensor

from augment.generator import generator_of
from augment.sound.log_mel import NUM_BANDS, log_mel, mel_picture, statistics
from augment.sound.sound_recipe import Gain, SoundGroup, SoundViews, TimeMasks, WhiteNoise

RATE = 16_000


def tone(pitch: float, length: int = 4_000, size: float = 0.3) -> Tensor:
    t = torch.arange(length) / RATE
    return size * torch.sin(2 * math.pi * pitch * t)


def made(
    group: SoundGroup, windows: Tensor, epoch: int = 0, ids: list[int] | None = None
) -> Tensor:
    views = SoundViews(size=windows.shape[-1], rate=RATE, std=1.0, groups={"windows": group})
    rows = (windows * 32_767).round().to(torch.int16).unsqueeze(1).expand(-1, group.count, -1)
    keys = torch.full((len(rows),), epoch), torch.tensor(ids or list(range(len(rows))))
    return generator_of(views, seed=3)({"windows": rows}, *keys)["windows"]


def test_gain_is_within_its_range_and_keeps_the_form() -> None:
    windows = tone(440).expand(64, -1)
    views = made(SoundGroup(gain=Gain(decibels=(-6, 6))), windows)[0]
    ratio = views.norm(dim=1) / windows.norm(dim=1)
    assert ratio.min() >= 10 ** (-6 / 20) - 1e-3 and ratio.max() <= 10 ** (6 / 20) + 1e-3
    assert ratio.std() > 0.1
    torch.testing.assert_close(views / ratio[:, None], windows, atol=2e-4, rtol=0)


def test_noise_has_the_drawn_share_of_each_windows_power() -> None:
    windows = torch.stack([tone(440, size=0.01), tone(440, size=0.5)])
    noise = made(SoundGroup(noise=WhiteNoise(p=1, snr=(20, 20))), windows)[0] - windows
    found = 10 * torch.log10(windows.square().mean(1) / noise.square().mean(1))
    torch.testing.assert_close(found, torch.full((2,), 20.0), atol=0.5, rtol=0)


def test_time_masks_silence_at_most_their_share_and_leave_the_rest() -> None:
    windows = torch.full((64, 4_000), 0.5)
    views = made(SoundGroup(time_masks=TimeMasks(count=2, longest=0.1)), windows)[0]
    silent = (views == 0).float().mean(dim=1)
    assert silent.max() <= 0.2 + 1e-3 and 0.05 < silent.mean() < 0.15
    assert torch.isin(
        views, torch.tensor([0.0, windows[0, 0].mul(32_767).round().item() / 32_768])
    ).all()


def test_draws_depend_on_the_sample_the_epoch_and_the_view_alone() -> None:
    group = SoundGroup(count=2, gain=Gain(), noise=WhiteNoise(p=1), time_masks=TimeMasks())
    windows = torch.stack([tone(300), tone(500), tone(700)])
    together = made(group, windows, ids=[5, 6, 7])
    alone = made(group, windows[1:2], ids=[6])
    assert torch.equal(together[:, 1:2], alone)
    assert not torch.equal(together[0], together[1])
    assert not torch.equal(made(group, windows, epoch=1, ids=[5, 6, 7]), together)


def test_without_changes_a_view_is_the_window_scaled() -> None:
    rows = torch.randint(-32_768, 32_767, (3, 1, 500)).to(torch.int16)
    views = SoundViews(size=500, rate=RATE, std=0.5)
    keys = torch.zeros(3, dtype=torch.int64), torch.arange(3)
    found = generator_of(views, seed=0)({"windows": rows}, *keys)["windows"]
    assert torch.equal(found[0], rows[:, 0].float() / 32_768 / 0.5)


def test_more_than_a_row_can_hold_is_refused() -> None:
    with pytest.raises(ValueError, match=r"GiB\s+a sample"):
        SoundViews(size=2**27, groups={"windows": SoundGroup(count=9)})


def test_the_loudest_band_is_that_of_the_tone() -> None:
    bands = log_mel(torch.stack([tone(pitch, 8_000) for pitch in (300.0, 1_000.0, 4_000.0)]), RATE)
    assert bands.shape[1] == NUM_BANDS
    found = bands.mean(dim=2).argmax(dim=1)
    most = 2595 * math.log10(1 + RATE / 2 / 700)
    for band, pitch in zip(found.tolist(), (300, 1_000, 4_000), strict=True):
        expected = 2595 * math.log10(1 + pitch / 700) / most * (NUM_BANDS + 1) - 1
        assert band == pytest.approx(expected, abs=1)


def test_statistics_tell_loud_from_soft_and_steady_from_changing() -> None:
    steady = tone(500, 8_000)
    changing = steady * (torch.arange(8_000) % 4_000 < 2_000)
    found = statistics(torch.stack([steady, steady / 10, changing]), RATE)
    mean, deviation = found[:, :NUM_BANDS].amax(1), found[:, NUM_BANDS:].amax(1)
    assert mean[0] - mean[1] == pytest.approx(2 * math.log(10), abs=0.01)
    assert deviation[2] > 2 * deviation[0]


def test_pictures_are_rgb_in_0_to_1_and_high_pitches_lie_above() -> None:
    pictures = mel_picture(torch.stack([tone(200, 8_000), tone(6_000, 8_000)]), RATE, 64)
    assert pictures.shape == (2, 3, 64, 64) and pictures.min() >= 0 and pictures.max() <= 1
    brightest = pictures.sum(dim=(1, 3)).argmax(dim=1).numpy()
    assert np.all(np.diff(brightest) < 0)
