"""CPC of sound; its InfoNCE is that of images' CPC, held against a loop in test_cpc."""

import math

import pytest
import torch

from models.audio.cpc_audio import CPCAudio, CPCAudioConfig
from models.audio.sound_method import plain_windows
from models.encoders.factory import EncoderConfig
from models.registry import build_method
from tests.small_methods import make_batch

GRU = EncoderConfig(name="wave_gru", width=4)


def test_the_loss_equals_a_loop_over_predictions() -> None:
    method = build_method(CPCAudioConfig(num_ahead=2), GRU, plain_windows(1_600), 0)
    assert isinstance(method, CPCAudio)
    batch = make_batch("cpc_audio")
    batch["views"] = {"windows": batch["views"]["windows"][..., :1_600]}
    batch["valid"][0] = False
    with torch.no_grad():
        loss = method(batch)["loss"]
        z = method.encoder.latents(batch["views"]["windows"][0])
        c = method.encoder.contextual(z)
        candidates = z[1:].reshape(-1, z.shape[-1])
        terms = []
        for b in range(1, len(z)):
            for k, weight in enumerate(method.prediction.weights, start=1):
                for t in range(z.shape[1] - k):
                    scores = candidates @ weight(c[b, t])
                    terms.append(scores.logsumexp(0) - z[b, t + k] @ weight(c[b, t]))
    assert loss.item() == pytest.approx(torch.stack(terms).mean().item(), abs=1e-4)


def test_at_chance_the_loss_is_the_logarithm_of_the_moments() -> None:
    method = build_method(CPCAudioConfig(), GRU, plain_windows(4_000), 0)
    assert isinstance(method, CPCAudio)
    for weight in method.prediction.weights:
        torch.nn.init.zeros_(weight.weight)
    batch = make_batch("cpc_audio")
    out = method(batch)
    assert out["loss"].item() == pytest.approx(math.log(12 * 25), abs=1e-5)
    assert out["info_nce_bound"].item() == pytest.approx(0, abs=1e-5)


def test_what_would_cheat_or_cannot_predict_is_refused() -> None:
    both_ways = EncoderConfig(name="wave_transformer_small", width=4)
    with pytest.raises(ValueError, match=r"reads each moment beside later ones.*wave_gru"):
        build_method(CPCAudioConfig(), both_ways, plain_windows(4_000), 0)
    with pytest.raises(ValueError, match=r"views\.size=400 gives 2 moments"):
        build_method(CPCAudioConfig(skip=1), GRU, plain_windows(400), 0)
    with pytest.raises(ValueError, match=r"sees images, and method\.name=cpc_audio takes sound"):
        build_method(CPCAudioConfig(), EncoderConfig(), plain_windows(4_000), 0)
