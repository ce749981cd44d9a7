"""CPC over time against a plain loop, and its guards."""

import math

import pytest
import torch

from models.encoders.factory import EncoderConfig
from models.registry import build_method
from models.temporal.cpc_temporal import CPCTemporal, CPCTemporalConfig
from tests.small_methods import NUM_FRAMES, NUM_SAMPLES, make_batch

FRAMES = EncoderConfig(name="resnet18_small", width=8, norm="layer", time="frames")


def build(**settings: int) -> CPCTemporal:
    config = CPCTemporalConfig.model_validate({"context_dim": 16, **settings})
    made = build_method(config, FRAMES, CPCTemporal.default_views(16), 0)
    assert isinstance(made, CPCTemporal)
    return made


def test_the_loss_is_that_of_a_plain_loop_over_times() -> None:
    method, batch = build(num_ahead=2, skip=1), make_batch("cpc_temporal")
    batch["valid"][3] = False
    with torch.no_grad():
        frames = method.encoder.frames(batch["views"]["global_crops"][0])
        context, _ = method.context(frames)
        candidates = frames[batch["valid"]].flatten(0, 1)
        total, count = 0.0, 0
        for row in batch["valid"].nonzero().flatten().tolist():
            for ahead, weight in zip((2, 3), method.prediction.weights, strict=True):
                for time in range(NUM_FRAMES - ahead):
                    scores = candidates @ weight(context[row, time])
                    right = frames[row, time + ahead] @ weight(context[row, time])
                    total += (scores.logsumexp(0) - right).item()
                    count += 1
        out = method(batch)
    assert out["loss"].item() == pytest.approx(total / count, rel=1e-5)
    chance = math.log((NUM_SAMPLES - 1) * NUM_FRAMES)
    assert out["info_nce_bound"].item() == pytest.approx(chance - out["loss"].item(), rel=1e-4)


def test_a_context_knows_nothing_of_later_frames() -> None:
    method = build()
    clips = torch.randn(1, NUM_FRAMES, 3, 16, 16)
    changed = clips.clone()
    changed[:, 4:] = 0
    contexts = [method.context(method.encoder.frames(seen))[0] for seen in (clips, changed)]
    assert torch.equal(contexts[0][:, :4], contexts[1][:, :4])


def test_batch_norm_and_short_clips_are_refused() -> None:
    mixing = FRAMES.model_copy(update={"norm": "batch"})
    with pytest.raises(ValueError, match=r"has batch norm.*encoder\.norm=layer"):
        build_method(CPCTemporalConfig(), mixing, CPCTemporal.default_views(16), 0)
    with pytest.raises(ValueError, match=r"clip\.num_frames>=12"):
        build(num_ahead=10)(make_batch("cpc_temporal"))
