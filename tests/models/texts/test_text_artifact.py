"""An artifact of an encoder of texts: it brings its tokenizer."""

from pathlib import Path
from typing import Any

import pytest
import torch

from models import artifact
from models.encoders.factory import EncoderConfig, build_encoder
from models.texts.tokenizer import encode, learn

TEXTS = ["a man plays a flute", "a woman is dancing", "two dogs run", ""]
CONFIG = EncoderConfig.model_validate(
    {"name": "text_transformer", "text": {"vocab_size": 512, "width": 16, "depth": 1}}
)


@pytest.fixture
def saved(tmp_path: Path) -> tuple[str, str]:
    pytest.importorskip("tokenizers")
    tokenizer = learn(TEXTS[:3] * 3, 400)
    torch.manual_seed(5)
    encoder = build_encoder(CONFIG, 12)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    config: dict[str, Any] = {"encoder": CONFIG.model_dump(mode="json"), "seed": 5}
    preprocess = {"image_size": 12, "tokenizer": tokenizer}
    uri = str(tmp_path / "artifact")
    artifact.save(uri, encoder, config=config, preprocess=preprocess, provenance={})
    return uri, tokenizer


def test_it_embeds_texts_by_itself(saved: tuple[str, str]) -> None:
    uri, tokenizer = saved
    made = artifact.load(uri)
    assert made.of_texts is not None and made.of_texts.tokenizer == tokenizer
    found = made.embed_texts(TEXTS)
    assert found.shape == (4, 16)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(4))
    tokens = torch.from_numpy(encode(tokenizer, TEXTS, 12))
    embedded = torch.nn.functional.normalize(made(made.preprocess(tokens)), dim=1)
    torch.testing.assert_close(found, embedded)
    before = artifact.untrained(uri)
    assert before.of_texts is not None and before.of_texts.tokenizer == tokenizer
    assert not torch.allclose(before.embed_texts(TEXTS), found, atol=0.01)


def test_another_tokenizer_makes_another_artifact(saved: tuple[str, str], tmp_path: Path) -> None:
    uri, tokenizer = saved
    made = artifact.load(uri)
    preprocess = {"image_size": 12, "tokenizer": tokenizer.replace("flute", "flutes") + " "}
    other = artifact.save(
        str(tmp_path / "other"),
        made.encoder,
        config=made.config,
        preprocess=preprocess,
        provenance={},
    )
    assert other != made.digest
