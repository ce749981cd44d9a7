"""What is drawn of texts: hidden words, pairs, segments."""

from collections import Counter

import pytest
import torch
from torch import Tensor

from augment.masking import MaskKey
from augment.texts.masked_words import mask_words, num_places
from augment.texts.segments import segments
from augment.texts.special_tokens import END, PAD, START, is_word
from augment.texts.word_pairs import near_words

VOCAB = 1000


def texts(lengths: list[int], size: int) -> Tensor:
    """Texts of so many words each, no word twice in a text."""
    rows = []
    for row, length in enumerate(lengths):
        words = [3 + (row * 37 + place) % (VOCAB - 3) for place in range(length)]
        rows.append([START, *words, END, *[PAD] * (size - length - 2)])
    return torch.tensor(rows)


def key_of(num: int, epoch: int = 0) -> MaskKey:
    sample_id = torch.arange(num) * 7919 + 13
    return MaskKey(3, torch.full_like(sample_id, epoch), sample_id)


def test_words_are_hidden_exchanged_and_kept_as_8_to_1_to_1_and_nothing_else_changes() -> None:
    tokens = texts([30] * 2000, 32)
    masked = mask_words(tokens, 0.15, VOCAB, key_of(2000))
    assert masked.asked.sum(dim=1).unique().tolist() == [4]  # of 30 words, 0.15: round(4.5)
    asked = torch.zeros(2000, 32).scatter(1, masked.places, masked.asked.float()).bool()
    assert is_word(tokens)[asked].all()
    assert torch.equal(masked.tokens[~asked], tokens[~asked])
    assert not (masked.hidden & ~asked).any()
    share = masked.hidden[asked].float().mean().item()
    exchanged = (masked.tokens != tokens)[asked].float().mean().item()
    assert share == pytest.approx(0.8, abs=0.02) and exchanged == pytest.approx(0.1, abs=0.02)
    assert is_word(masked.tokens)[asked].all()
    places = Counter(masked.places[masked.asked].tolist())  # each word as often as another
    assert set(places) == set(range(1, 31)) and max(places.values()) < 1.4 * min(places.values())


def test_short_texts_are_asked_for_one_word_and_empty_ones_for_none() -> None:
    masked = mask_words(texts([0, 1, 2, 14], 16), 0.15, VOCAB, key_of(4))
    assert masked.asked.sum(dim=1).tolist() == [0, 1, 1, 2]
    assert masked.places.shape[1] == num_places(16, 0.15) == 3


def test_draws_are_a_matter_of_the_sample_and_the_epoch_and_of_nothing_else() -> None:
    tokens = texts([14, 9, 12, 5], 16)
    order = torch.tensor([2, 0])
    for epoch in (0, 1):
        key = key_of(4, epoch)
        some = MaskKey(3, key.epoch[order], key.sample_id[order])
        for draw in (
            lambda t, k: mask_words(t, 0.3, VOCAB, k),
            lambda t, k: near_words(t, 20, 3, k),
            lambda t, k: segments(t, 1, k),
        ):
            for all_of, of_some in zip(draw(tokens, key), draw(tokens[order], some), strict=True):
                assert torch.equal(all_of[order], of_some)
    first, second = (mask_words(tokens, 0.3, VOCAB, key_of(4, epoch)) for epoch in (0, 1))
    assert not torch.equal(first.places, second.places)


def test_near_words_are_the_likelier_the_nearer_and_never_outside_the_text() -> None:
    tokens = texts([40] * 400, 48)
    pairs = near_words(tokens, 50, 4, key_of(400))
    away = (pairs.near - pairs.middle)[pairs.counts]
    assert pairs.middle.min() >= 1 and pairs.middle.max() <= 40
    assert is_word(tokens.gather(1, pairs.near))[pairs.counts].all()
    counts = Counter(away.tolist())
    total = sum(counts.values())
    for distance in range(1, 5):  # a window of 1 to 4, each as likely, taken whole
        for side in (-1, 1):
            expected = (5 - distance) / 20
            assert counts[side * distance] / total == pytest.approx(expected, rel=0.12)
    assert not near_words(texts([1, 0], 8), 9, 3, key_of(2)).counts.any()


def by_loop(words: list[int], first: int, trim: int, size: int, *, swapped: bool) -> list[int]:
    words = words[trim : len(words) - trim][: size - 3]
    halves = [words[:first], words[first:]]
    if swapped:
        halves.reverse()
    told = [START, *halves[0], END, *halves[1], END]
    return told + [PAD] * (size - len(told))


@pytest.mark.parametrize("trim", [0, 1, 2])
def test_segments_are_the_halves_of_a_text_in_either_order(trim: int) -> None:
    lengths = [14, 13, 9, 8, 10] * 40
    tokens = texts(lengths, 16)
    cut = segments(tokens, trim, key_of(len(lengths)))
    assert cut.asked.all()
    for row, length in enumerate(lengths):
        words = tokens[row, 1 : length + 1].tolist()
        swapped = bool(cut.swapped[row])
        told = cut.tokens[row].tolist()
        there = min(length - 2 * trim, 13)
        of_first = [by_loop(words, first, trim, 16, swapped=swapped) for first in range(1, there)]
        first = of_first.index(told) + 1
        assert (there + 3) // 4 <= first <= there - (there + 3) // 4
    assert 0.35 < cut.swapped.float().mean() < 0.65


def test_texts_of_too_few_words_are_not_asked_about() -> None:
    cut = segments(texts([0, 3, 5, 6], 10), 1, key_of(4))
    assert cut.asked.tolist() == [False, False, False, True]
    assert cut.tokens.shape == (4, 10) and (cut.tokens[:, 0] == START).all()
