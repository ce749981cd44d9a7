"""wav2vec 2.0's loss against a loop, at chance, and what its code books do."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from models.audio.sound_method import plain_windows
from models.audio.wav2vec2 import Wav2Vec2, Wav2Vec2Config
from models.encoders.encoder import Hidden
from models.encoders.factory import EncoderConfig
from models.registry import build_method
from tests.small_methods import make_batch

TRANSFORMER = EncoderConfig(name="wave_transformer_small", width=4)

TEMPERATURE = 0.1


def built(**settings: object) -> Wav2Vec2:
    config = Wav2Vec2.small.model_copy(update=settings)
    method = build_method(config, TRANSFORMER, plain_windows(4_000), 0)
    assert isinstance(method, Wav2Vec2)
    return method


def test_the_contrastive_loss_equals_a_loop_over_hidden_moments() -> None:
    method = built(temperature=TEMPERATURE).eval()
    batch = make_batch("wav2vec2")
    batch["valid"][0] = False
    with torch.no_grad():
        found = method(batch)["contrastive"]
        mask = method._mask(batch)
        z = method.encoder.latents(batch["views"]["windows"][0])
        predicted = method.prediction_head(
            method.encoder.contextual(z, Hidden(mask, method.mask_token))
        )
        targets = method.target_projection(method._quantised(z, batch)[0])
        moments = mask.shape[1]
        u = method._draw(batch, "wav2vec2.distractors", moments * 10).view(-1, moments, 10)
        means = []
        for b in range(1, len(z)):
            places = mask[b].nonzero()[:, 0].tolist()
            losses = [_loss(b, t, places, predicted, targets, u) for t in places]
            means.append(sum(losses) / len(losses))
    assert found.item() == pytest.approx(sum(means) / len(means), abs=1e-4)


def _loss(
    b: int, t: int, places: list[int], predicted: Tensor, targets: Tensor, u: Tensor
) -> float:
    drawn = [places[int(x * len(places))] for x in u[b, t].tolist()]
    others = [s for s in drawn if not torch.allclose(targets[b, s], targets[b, t], atol=1e-6)]
    scores = torch.stack(
        [functional.cosine_similarity(predicted[b, t], targets[b, s], dim=0) for s in (t, *others)]
    )
    return functional.cross_entropy(scores / TEMPERATURE, torch.tensor(0)).item()


def test_spans_are_hidden_in_every_window_and_drawn_by_key() -> None:
    method = built(mask_prob=0.001)
    batch = make_batch("wav2vec2")
    mask = method._mask(batch)
    assert (mask.sum(dim=1) >= 3).all() and mask.float().mean() < 0.3
    assert torch.equal(mask, method._mask(batch))
    assert not torch.equal(mask, method._mask(make_batch("wav2vec2", epoch=1)))


def test_the_diversity_loss_is_0_where_all_entries_are_used_and_most_where_one_is() -> None:
    method = built()
    even = torch.full((2, 5, 2, 8), 1 / 8)
    one = functional.one_hot(torch.zeros(2, 5, 2, dtype=torch.int64), 8).float()
    weight = torch.ones(2, 5)
    assert method._diversity(even, weight)[0].item() == pytest.approx(0, abs=1e-4)
    loss, perplexity = method._diversity(one, weight)
    assert (loss.item(), perplexity.item()) == pytest.approx((1 - 1 / 8, 1), abs=1e-4)


def test_what_is_heard_chooses_entries_from_the_start_and_not_noise_alone() -> None:
    method = built()
    latents = method.encoder.latents(make_batch("wav2vec2")["views"]["windows"][0])
    shares = method._quantised(latents, make_batch("wav2vec2"))[1]
    even = math.log(shares.shape[-1])
    assert torch.special.entr(shares).sum(-1).mean().item() < 0.8 * even


def test_at_chance_the_loss_is_the_logarithm_of_the_candidates() -> None:
    method = built(temperature=1e6).eval()
    out = method(make_batch("wav2vec2"))
    assert 0 < out["contrastive"].item() <= math.log(11) + 1e-4


def test_encoders_and_windows_that_do_not_suit_are_refused() -> None:
    config = EncoderConfig(name="wave_gru", width=4)
    with pytest.raises(ValueError, match=r"wave_gru reads in order alone"):
        build_method(Wav2Vec2Config(), config, plain_windows(8_000), 0)
    with pytest.raises(ValueError, match=r"views\.size=800 gives 5 moments"):
        build_method(Wav2Vec2Config(), TRANSFORMER, plain_windows(800), 0)
    with pytest.raises(ValueError, match=r"method\.code_dim=9 must be a multiple"):
        build_method(Wav2Vec2Config(code_dim=9), TRANSFORMER, plain_windows(8_000), 0)
