"""Tokens of texts: stretches drawn by key, of a fixed length."""

import numpy as np
import pyarrow as pa
import pytest

from augment.texts.special_tokens import END, PAD, START
from augment.texts.text_views import TextGroup, TextViews
from models.texts.tokenizer import decode, learn
from pipelines import schema
from pipelines.media.contract import BadSample, Limits
from pipelines.media.decoder import Decoder
from pipelines.texts.text_places import TextPlace
from pipelines.texts.text_tokens import Stretches, TextTokens

WORDS = [f"w{chr(97 + n // 26)}{chr(97 + n % 26)}" for n in range(300)]


@pytest.fixture(scope="module")
def tokenizer() -> str:
    pytest.importorskip("tokenizers")
    return learn([" ".join(WORDS)] * 3, 2000)


def rows(ids: list[int], epoch: int = 0) -> pa.Table:
    return pa.table(
        {
            schema.MEMBER: ["line 1"] * len(ids),
            schema.EPOCH: [epoch] * len(ids),
            schema.SAMPLE_ID: ids,
        }
    )


def test_a_stretch_of_a_long_text_is_drawn_by_the_sample_and_its_epoch(tokenizer: str) -> None:
    views = TextViews(
        size=12, groups={"text": TextGroup(count=2), "whole": TextGroup(window="first")}
    )
    series = TextTokens.of_views(tokenizer, views, seed=4)
    text = " ".join(WORDS).encode()
    begun = set()
    for sample in range(20):
        (wanted,) = series.wanted(rows([sample]))
        tokens = series.read(text, wanted, Decoder(Limits()))
        assert tokens.shape == (3, 12) and tokens.dtype == np.int32
        assert (tokens[:, 0] == START).all() and (tokens[:, -1] == END).all()
        assert decode(tokenizer, tokens[2]).split()[:9] == WORDS[:9]
        said = decode(tokenizer, tokens[0])
        assert said.replace(" ", "") in "".join(WORDS)
        begun.add(said)
        assert series.wanted(rows([7, sample]))[1] == wanted
        assert series.wanted(rows([sample], epoch=1))[0] != wanted
    assert len(begun) > 15


def test_a_short_text_is_padded_and_is_the_same_wherever_its_stretch_lies(tokenizer: str) -> None:
    series = TextTokens(tokenizer, 12)
    for position in (0.0, 0.999):
        (tokens,) = series.read(
            b" waa\twab ", Stretches(TextPlace("line", 1), (position,)), Decoder(Limits())
        )
        assert decode(tokenizer, tokens) == "waa wab"
        assert tokens[0] == START and END in tokens and (tokens == PAD).sum() >= 6


@pytest.mark.parametrize(
    ("data", "form", "reason"),
    [
        (b"\xff\xfe", "line", "encoding"),
        (b" \t ", "line", "empty"),
        (b'{"text": " "}', "object", "empty"),
        (b"{", "object", "field"),
        (b"[" * 100_000, "object", "field"),
        (b'""', "row", "empty"),
    ],
)
def test_what_is_no_text_has_a_reason(tokenizer: str, data: bytes, form: str, reason: str) -> None:
    place = TextPlace(form, 1)  # type: ignore[arg-type]
    with pytest.raises(BadSample) as caught:
        TextTokens(tokenizer, 8).read(data, Stretches(place, (0.0,)), Decoder(Limits()))
    assert caught.value.reason == reason
