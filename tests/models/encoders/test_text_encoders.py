"""Encoders of texts: what they see, and what dropout leaves out."""

import pytest
import torch

from augment.texts.special_tokens import END, PAD, START
from models.encoders.encoder import Hidden
from models.encoders.factory import EncoderConfig, build_encoder
from models.encoders.texts.text_settings import TextSettings

SMALL = TextSettings(vocab_size=512, width=16, depth=2, num_heads=2, dropout=0.3)
TEXT = torch.tensor([[START, 7, 8, 9, END, PAD, PAD, PAD], [START, 5, END, *[PAD] * 5]])


def config(name: str, **settings: object) -> EncoderConfig:
    return EncoderConfig.model_validate({"name": name, "text": SMALL, **settings})


def test_word_vectors_embed_a_text_as_the_mean_of_its_words() -> None:
    encoder = build_encoder(config("word_vectors"), 8)
    table = encoder.state_dict()["words.weight"]
    found = encoder(TEXT)
    torch.testing.assert_close(found[0], table[7:10].mean(dim=0))
    torch.testing.assert_close(found[1], table[5])
    assert not encoder(torch.full((1, 8), PAD)).any()
    assert encoder.supports("words") and not encoder.supports("tokens")


@pytest.mark.parametrize("pooling", ["auto", "class"])
def test_padding_changes_nothing_and_the_order_of_words_does(pooling: str) -> None:
    torch.manual_seed(0)
    encoder = build_encoder(config("text_transformer", pooling=pooling), 8).eval()
    told = encoder(TEXT)
    torch.testing.assert_close(encoder(TEXT[:, :5]), told)
    turned = TEXT.clone()
    turned[0, 1:4] = TEXT[0, 1:4].flip(0)
    assert (encoder(turned) - told)[0].abs().max() > 1e-3
    assert encoder(torch.full((1, 8), PAD)).isfinite().all()


def test_a_hidden_word_is_not_seen() -> None:
    torch.manual_seed(0)
    encoder = build_encoder(config("text_transformer"), 8).eval()
    other = TEXT.clone()
    other[0, 2] = 100
    mask = torch.zeros_like(TEXT, dtype=torch.bool)
    mask[0, 2] = True
    hidden = Hidden(mask, torch.ones(16))
    first, second = (encoder.tokens(text, hidden=hidden).patches for text in (TEXT, other))
    assert torch.equal(first, second)
    assert not torch.equal(first, encoder.tokens(TEXT).patches)
    assert not first[0, 5:].any() and not first[1, 3:].any()


def test_dropout_is_a_matter_of_the_sample_and_its_view_and_not_of_the_batch() -> None:
    encoder = build_encoder(config("text_transformer"), 8)
    epoch, sample_id = torch.tensor([4, 4]), torch.tensor([11, 12])
    encoder.token_key = (0, epoch, sample_id)
    both = encoder(TEXT.repeat(2, 1))
    assert torch.equal(both, encoder(TEXT.repeat(2, 1)))
    assert not torch.allclose(both[:2], both[2:])  # two views
    encoder.token_key = (0, epoch[1:], sample_id[1:])
    torch.testing.assert_close(encoder(TEXT[1:].repeat(2, 1)), both[1::2])
    encoder.token_key = (0, epoch + 1, sample_id)
    assert not torch.allclose(encoder(TEXT.repeat(2, 1)), both)
    encoder.eval()
    assert torch.equal(*encoder(TEXT.repeat(2, 1)).chunk(2))


def test_dropout_keeps_the_mean() -> None:
    from models.encoders.texts.keyed_dropout import KeyedDropout

    drop = KeyedDropout(0.3, "here")
    drop.key = (0, torch.zeros(50, dtype=torch.int64), torch.arange(50))
    found = drop(torch.ones(50, 10, 40))
    assert found.unique().tolist() == pytest.approx([0, 1 / 0.7])
    assert found.mean().item() == pytest.approx(1, abs=0.02)


def test_settings_of_images_are_refused_and_those_of_texts_are_idle_elsewhere() -> None:
    with pytest.raises(ValueError, match=r"encoder.drop_path=0.1 has no effect on .*word_vectors"):
        config("word_vectors", drop_path=0.1)
    wrong = config("text_transformer", text=SMALL.model_copy(update={"num_heads": 3}))
    with pytest.raises(ValueError, match=r"encoder.text.num_heads 3 does not divide .* 16"):
        build_encoder(wrong, 8)
    assert "text.depth" in EncoderConfig().idle()
    assert "text.depth" in config("word_vectors").idle()
    assert "text.width" not in config("word_vectors").idle()
