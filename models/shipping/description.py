"""What an artifact says of itself: its description, its parts beside the encoder, its digest."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from pydantic import ValidationError
from torch import nn

from models.encoders.factory import EncoderConfig
from models.json_values import finite
from models.multimodal.text_tower import TextTower, TextTowerConfig
from models.preprocess import AnyPreprocess, Preprocess, SoundPreprocess, TextPreprocess
from models.shipping import artifact_files as files
from models.supervised.head import Head, HeadConfig

WEIGHTS = "encoder.safetensors"
DESCRIPTION = "artifact.json"
HEAD = "head.safetensors"
START = "start.safetensors"
TEXT = "text.safetensors"
TOKENIZER = "tokenizer.json"
FORMAT = 1


class Part(NamedTuple):
    """What an artifact holds beside its encoder: the description's key, what it says there, and
    files."""

    name: str
    told: dict[str, Any]
    files: dict[str, bytes]


PARTS = {"head": (HEAD,), "text": (TEXT, TOKENIZER)}


def head_parts(head: nn.Module | None) -> list[Part]:
    """Return the head as a part; nothing where there is none."""
    if head is None:
        return []
    assert isinstance(head, Head)
    told = head.config.model_dump(mode="json", exclude_defaults=True)
    return [Part("head", told, {HEAD: files.serialised(head)})]


def text_parts(text: TextTower | None) -> list[Part]:
    """Return the text tower and its tokenizer as a part; nothing where there is none."""
    if text is None:
        return []
    assert text.tokenizer is not None, "a text tower ships with its tokenizer"
    data = {TEXT: files.serialised(text), TOKENIZER: text.tokenizer.encode()}
    return [Part("text", text.config.model_dump(mode="json"), data)]


def text_config(told: Any, uri: str) -> TextTowerConfig:
    """Read what a description says of the text tower.

    Raises:
        ValueError: it describes none.
    """
    try:
        return TextTowerConfig.model_validate(told)
    except ValidationError as error:
        raise ValueError(f"{uri}: text does not describe a text tower: {error}") from error


def head_config(told: Any, uri: str) -> HeadConfig:
    """Read what a description says of the head.

    Raises:
        ValueError: it describes none.
    """
    try:
        return HeadConfig.model_validate(told)
    except ValidationError as error:
        raise ValueError(f"{uri}: head does not describe a head: {error}") from error


def encoder_config_of(config: dict[str, Any], uri: str) -> EncoderConfig:
    """Read the encoder of a run's configuration.

    Raises:
        ValueError: it describes none, or has no seed.
    """
    if not isinstance(config.get("seed"), int):
        raise ValueError(
            f"{uri}: config.seed must be the integer that the weights were initialised with"
        )
    try:
        found = EncoderConfig.model_validate(config.get("encoder"))
        return found.model_copy(update={"keep_tokens": 1.0})  # a matter of that training alone
    except ValidationError as error:
        raise ValueError(f"{uri}: config.encoder does not describe an encoder: {error}") from error


def preprocess_of(preprocess: dict[str, Any], uri: str) -> AnyPreprocess:
    """Read how a sample is prepared.

    Raises:
        ValueError: it does not say.
    """
    kind: type[AnyPreprocess] = SoundPreprocess if "rate" in preprocess else Preprocess
    kind = TextPreprocess if "tokenizer" in preprocess else kind
    try:
        return kind.model_validate(preprocess)
    except ValidationError as error:
        raise ValueError(
            f"{uri}: preprocess does not say how to prepare a sample: {error}"
        ) from error


def read_description(uri: str) -> dict[str, Any]:
    """Read the description of an artifact.

    Raises:
        FileNotFoundError: there is no artifact.
        ValueError: it is of another format.
    """
    description: dict[str, Any] = json.loads(files.read(uri, DESCRIPTION))
    if description.get("format") != FORMAT:
        raise ValueError(
            f"{uri}: {DESCRIPTION} has format {description.get('format')}, this code reads {FORMAT}"
        )
    return description


def described(
    digest: str,
    config: dict[str, Any],
    preprocess: dict[str, Any],
    parts: Sequence[Part],
    provenance: dict[str, Any],
) -> dict[str, Any]:
    """Put a description together."""
    return {
        "format": FORMAT,
        "digest": digest,
        "config": config,
        "preprocess": preprocess,
        **{part.name: part.told for part in parts},
        "provenance": finite(provenance),  # figures of a run
    }


def digest_of(
    weights: bytes,
    config: dict[str, Any],
    preprocess: dict[str, Any],
    parts: Sequence[Part] = (),
) -> str:
    """Hash what makes an artifact what it is: SHA-256 in hexadecimal digits."""
    signed: dict[str, Any] = {
        "config": config,
        "preprocess": preprocess,
        "weights": hashlib.sha256(weights).hexdigest(),
    }
    for part in parts:
        sums = [hashlib.sha256(data).hexdigest() for data in part.files.values()]
        signed[part.name] = [part.told, *sums]
    return hashlib.sha256(files.as_json(signed).encode()).hexdigest()
