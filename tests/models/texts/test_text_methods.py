"""Methods of texts: losses as written out by a loop, and what they are at chance."""

import math

import pytest
import torch

from augment.masking import MaskKey
from augment.texts.masked_words import mask_words
from augment.texts.segments import segments
from models.encoders.encoder import Hidden
from models.texts.mlm import MLM
from models.texts.sentence_order import SentenceOrder
from models.texts.simcse import SimCSE
from models.texts.skipgram import SkipGram, negative_sampling
from models.texts.token_counts import TokenCounts
from tests.models.texts.small_texts import ENCODERS, LENGTH, VOCAB, batch_of, build, texts


def test_skipgrams_loss_is_that_of_a_loop_over_pairs() -> None:
    method, batch = build("skipgram"), batch_of(texts(5))
    assert isinstance(method, SkipGram)
    method(batch)
    method.after_step(1, 2)
    batch["valid"][1] = False
    tokens = method.texts(batch)
    pairs, noise = method.drawn(tokens, MaskKey(0, batch["epoch"], batch["sample_id"]))
    words, near = method.encoder.state_dict()["words.weight"], method.near.weight.detach()
    losses = []
    for row in (0, 2, 3, 4):
        of_text = []
        for pair in range(noise.shape[1]):
            if not pairs.counts[row, pair]:
                continue
            word = words[tokens[row, pairs.middle[row, pair]]]
            true = tokens[row, pairs.near[row, pair]]
            loss = math.log1p(math.exp(-float(word @ near[true])))
            for other in noise[row, pair]:
                loss += math.log1p(math.exp(float(word @ near[other]))) * (other != true).item()
            of_text.append(loss)
        losses.append(sum(of_text) / len(of_text))
    expected = sum(losses) / len(losses)
    assert method(batch)["loss"].item() == pytest.approx(expected, rel=1e-5)


def test_skipgram_at_chance_is_a_bit_a_word_and_its_sides_change_places() -> None:
    zeros = torch.zeros(3), torch.zeros(3, 5)
    same = torch.zeros(3, 5, dtype=torch.bool)
    assert negative_sampling(*zeros, same).tolist() == pytest.approx([6 * math.log(2)] * 3)
    # one word of noise: to take it for the true one, and the true one for it, costs the same
    first, second = torch.tensor([1.5]), torch.tensor([[-0.7]])
    there = negative_sampling(first, second, same[:1, :1])
    back = negative_sampling(-second[0], -first[None], same[:1, :1])
    torch.testing.assert_close(there, back)
    same[0] = True
    assert negative_sampling(*zeros, same)[0].item() == pytest.approx(math.log(2))


def test_noise_is_drawn_by_the_share_of_words_to_the_power_of_three_quarters() -> None:
    seen = TokenCounts(512)
    tokens = torch.tensor([[1, 3, 3, 3, 3, 3, 3, 3, 3, 4, 2, 0]])
    seen.see(tokens, torch.tensor([True]))
    seen.see(tokens, torch.tensor([False]))
    seen.after_step()
    assert seen.counts.sum() == 9 and seen.counts[3] == 8 and not seen.fresh.any()
    draws = (torch.arange(100_000) + 0.5) / 100_000
    found = torch.bincount(seen.noise(draws, 0.75), minlength=512)
    assert not found[:3].any()
    assert found[3] / found[4] == pytest.approx(8**0.75, rel=0.01)
    alike = torch.bincount(seen.noise(draws, 0.0), minlength=512)[3:]
    assert alike.min() > 0.97 * alike.max()


def test_masked_words_loss_is_that_of_a_loop_over_words() -> None:
    method, batch = build("mlm"), batch_of(texts(5))
    assert isinstance(method, MLM)
    method.eval()  # no dropout
    batch["valid"][2] = False
    tokens = method.texts(batch)
    key = MaskKey(0, batch["epoch"], batch["sample_id"])
    masked = mask_words(tokens, method.mask_ratio, VOCAB, key)
    seen = method.encoder.tokens(masked.tokens, hidden=Hidden(masked.hidden, method.mask_token))
    losses, right, most, nats = [], [], [], []
    method(batch)
    method.after_step(1, 2)
    share = method.seen.counts.double() / method.seen.counts.sum()
    for row in (0, 1, 3, 4):
        of_text = []
        for place, asked in zip(masked.places[row], masked.asked[row], strict=True):
            if not asked:
                continue
            scores = method.predict(seen.patches[row, place]).double()
            word = tokens[row, place]
            of_text.append(-(scores - scores.exp().sum().log())[word].item())
            right.append((scores.argmax() == word).item())
            most.append((share.argmax() == word).item())
            nats.append(-math.log(share[word]))
        losses.append(sum(of_text) / len(of_text))
    out = method(batch)
    assert out["loss"].item() == pytest.approx(sum(losses) / 4, rel=1e-4)
    assert out["masked_top1"].item() == pytest.approx(sum(right) / len(right))
    assert out["unigram_top1"].item() == pytest.approx(sum(most) / len(most))
    assert out["unigram_nats"].item() == pytest.approx(sum(nats) / len(nats), rel=0.05)


def test_masked_words_at_chance_are_the_log_of_the_vocabulary() -> None:
    method = build("mlm")
    assert isinstance(method, MLM)
    torch.nn.init.zeros_(method.predict[3].weight)
    torch.nn.init.zeros_(method.predict[3].bias)
    assert method(batch_of(texts(6)))["loss"].item() == pytest.approx(math.log(VOCAB), rel=1e-5)


def test_segments_loss_is_that_of_a_loop_and_symmetric_in_its_answers() -> None:
    method, batch = build("sentence_order"), batch_of(texts(8))
    assert isinstance(method, SentenceOrder)
    method.eval()
    batch["valid"][3] = False
    key = MaskKey(0, batch["epoch"], batch["sample_id"])
    cut = segments(method.texts(batch), 1, key)
    scores = method.tell(method.encoder(cut.tokens)).double()
    losses = [
        -(scores[row] - scores[row].exp().sum().log())[cut.swapped[row]].item()
        for row in range(8)
        if row != 3 and cut.asked[row]
    ]
    found = method(batch)["loss"].item()
    assert found == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    with torch.no_grad():
        method.tell.weight.copy_(method.tell.weight.flip(0))
        method.tell.bias.copy_(method.tell.bias.flip(0))
    assert method(batch)["loss"].item() != pytest.approx(found, rel=1e-3)
    torch.nn.init.zeros_(method.tell.weight)
    torch.nn.init.zeros_(method.tell.bias)
    assert method(batch)["loss"].item() == pytest.approx(math.log(2))


def test_simcses_loss_is_that_of_a_loop_over_texts() -> None:
    method, batch = build("simcse"), batch_of(texts(6))
    assert isinstance(method, SimCSE)
    batch["valid"][[0, 4]] = False
    method.encoder.token_key = (0, batch["epoch"], batch["sample_id"])
    passes = method.projection_head(method.encoder(method.texts(batch).repeat(2, 1)))
    first, second = torch.nn.functional.normalize(passes, dim=1).chunk(2)
    rows = [1, 2, 3, 5]
    losses = []
    for row in rows:
        scaled = [math.exp((first[row] @ second[other]).item() / 0.05) for other in rows]
        losses.append(-math.log(scaled[rows.index(row)] / sum(scaled)))
    assert method(batch)["loss"].item() == pytest.approx(sum(losses) / 4, rel=1e-4)


def test_simcse_at_chance_is_the_log_of_the_number_of_texts() -> None:
    method = build("simcse")
    assert isinstance(method, SimCSE)
    torch.nn.init.zeros_(method.projection_head[0].weight)
    out = method(batch_of(texts(6)))
    assert out["loss"].item() == pytest.approx(math.log(6), abs=1e-5)


def test_simcse_without_dropout_is_refused() -> None:
    encoder = ENCODERS[""].model_copy(
        update={"text": ENCODERS[""].text.model_copy(update={"dropout": 0.0})}
    )
    with pytest.raises(ValueError, match=r"encoder.text.dropout=0 makes both passes"):
        SimCSE(SimCSE.small, encoder, SimCSE.default_views(LENGTH), 0)


@pytest.mark.parametrize(
    ("name", "told", "by"),
    [("mlm", "masked_top1", 0.2), ("sentence_order", "order_top1", 0.9)],
)
def test_what_texts_say_is_learnt(name: str, told: str, by: float) -> None:
    method = build(name)
    optimizer = torch.optim.AdamW(method.parameters(), lr=5e-3)
    for step in range(80):
        optimizer.zero_grad()
        method(batch_of(texts(48, step), step))["loss"].backward()
        optimizer.step()
        method.after_step(step + 1, 80)
    out = method(batch_of(texts(48, 999), 999))
    assert out[told] > by
    if name == "mlm":
        assert out["masked_top1"] > 3 * out["unigram_top1"]
        assert out["loss"] < out["unigram_nats"] < math.log(48) + 0.1


def test_word_vectors_of_one_topic_come_to_lie_together() -> None:
    method = build("skipgram", pairs=32)
    optimizer = torch.optim.AdamW(method.parameters(), lr=2e-2)
    for step in range(80):
        optimizer.zero_grad()
        method(batch_of(texts(32, step), step))["loss"].backward()
        optimizer.step()
        method.after_step(step + 1, 80)
    vectors = torch.nn.functional.normalize(method.encoder.state_dict()["words.weight"], dim=1)
    words = torch.cat([vectors[3 + 20 * topic : 15 + 20 * topic] for topic in range(4)])
    alike = words @ words.T
    same = torch.arange(48)[:, None] // 12 == torch.arange(48) // 12
    assert alike[same].mean() > alike[~same].mean() + 0.5
