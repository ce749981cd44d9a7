import pytest
import torch

from models.encoders.encoder import Hidden
from models.encoders.factory import EncoderConfig, build_encoder
from models.encoders.sound.wave_encoder import WaveEncoder

NAMES = ("wave_gru", "wave_transformer_small")


def built(name: str) -> WaveEncoder:
    torch.manual_seed(0)
    encoder = build_encoder(EncoderConfig(name=name, width=4), 4_000)
    assert isinstance(encoder, WaveEncoder)
    return encoder.eval()


@pytest.mark.parametrize("name", NAMES)
def test_a_window_of_any_length_becomes_one_embedding(name: str) -> None:
    encoder = built(name)
    for length in (400, 4_000, 16_000):
        sounds = torch.randn(3, length)
        latents = encoder.latents(sounds)
        assert latents.shape == (3, length // 160, 32)
        expected = encoder.contextual(latents).mean(dim=1)
        torch.testing.assert_close(encoder(sounds), expected)


def test_no_moment_knows_of_what_lies_far_away_before_it_is_read() -> None:
    encoder = built("wave_gru")
    sounds = torch.randn(1, 4_000)
    other = sounds.clone()
    other[:, 2_400:] = torch.randn(1, 1_600)
    before, after = encoder.latents(sounds), encoder.latents(other)
    assert torch.equal(before[:, :13], after[:, :13]) and not torch.equal(before, after)


@pytest.mark.parametrize(("name", "in_order"), [("wave_gru", True), (NAMES[1], False)])
def test_the_recurrent_network_alone_reads_in_order(name: str, in_order: bool) -> None:
    encoder = built(name)
    latents = torch.randn(2, 10, 32)
    other = latents.clone()
    other[:, 6:] += 1
    same = torch.allclose(
        encoder.contextual(latents)[:, :6], encoder.contextual(other)[:, :6], atol=1e-6
    )
    assert same == in_order == encoder.supports("latents_in_order")


def test_what_is_hidden_is_not_read() -> None:
    encoder = built(NAMES[1])
    latents = torch.randn(2, 10, 32)
    other = latents.clone()
    other[:, 3:5] += 1
    mask = torch.zeros(2, 10, dtype=torch.bool)
    mask[:, 3:5] = True
    hidden = Hidden(mask, torch.randn(32))
    assert torch.equal(encoder.contextual(latents, hidden), encoder.contextual(other, hidden))


def test_settings_of_images_are_refused() -> None:
    with pytest.raises(ValueError, match=r"encoder\.time=frames has no effect on .*wave_gru"):
        EncoderConfig(name="wave_gru", time="frames")
