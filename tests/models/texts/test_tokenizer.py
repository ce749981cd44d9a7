"""Byte-pair tokens: whatever is written can be told, in as many tokens as there is room for."""

import sys

import numpy as np
import pytest

from models.texts.tokenizer import END, PAD, START, decode, encode, learn

TEXTS = ["A dog runs on the grass .", "Two dogs run on green grass ."] * 20


@pytest.fixture(scope="module")
def tokenizer() -> str:
    return learn(TEXTS, vocab_size=300)


def test_a_text_is_told_back_and_common_words_are_one_token(tokenizer: str) -> None:
    tokens = encode(tokenizer, ["a dog runs on the grass .", "Zażółć 日本 🐕"], 40)
    assert tokens.shape == (2, 40) and tokens.dtype == np.int32
    assert decode(tokenizer, tokens[0]) == "a dog runs on the grass ."
    assert decode(tokenizer, tokens[1]) == "zażółć 日本 🐕"
    assert (tokens[0] != PAD).sum() <= 9  # seven words between start and end
    assert tokens.max() < 300


def test_case_is_no_matter_and_padding_ends_the_row(tokenizer: str) -> None:
    tokens = encode(tokenizer, ["A DOG", "a dog", ""], 8)
    np.testing.assert_array_equal(tokens[0], tokens[1])
    assert tokens[2].tolist() == [START, END] + [PAD] * 6
    ends = (tokens == END).argmax(axis=1)
    assert all((row[end + 1 :] == PAD).all() for row, end in zip(tokens, ends, strict=True))


def test_what_is_too_long_is_cut_off_and_still_ends(tokenizer: str) -> None:
    (tokens,) = encode(tokenizer, ["dog grass " * 50], 6)
    assert tokens[0] == START and tokens[-1] == END and PAD not in tokens


def test_the_same_texts_give_the_same_tokens(tokenizer: str) -> None:
    assert learn(TEXTS, vocab_size=300) == tokenizer


def test_without_the_library_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ValueError, match=r"pip install 'afield\[text\]'"):
        learn(TEXTS, vocab_size=300)
