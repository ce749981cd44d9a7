"""The tokenizer of a run of texts: its own, that of the weights it starts from, or learnt now."""

import json

from jobs.setup.failures import InputError, as_one_line
from jobs.training.run_config import PretrainConfig
from pipelines.storage import uris
from pipelines.stream.plan import Plan
from pipelines.texts.learnt_tokens import learnt_tokens

_DESCRIPTIONS = ("artifact.json", "artifact/artifact.json")  # of an artifact, of a run


def tokenizer_of(config: PretrainConfig, plan: Plan, kept: str | None = None) -> str | None:
    """Return the tokenizer of a run; None where it is not of texts.

    Args:
        config: Of the run, its URIs absolute.
        plan: The run's order of samples, to learn from.
        kept: Where it is kept from the first time on; None: nowhere.

    Raises:
        InputError: there is no text to learn from, or the weights that training starts from have no
            tokenizer.
    """
    if config.media != "text":
        return None
    if kept is not None and uris.exists(kept):
        return uris.read_bytes(kept).decode()
    if config.encoder.weights is not None:
        tokenizer = _of_weights(config.encoder.weights)
    else:
        with as_one_line(source_key="source.uri"):
            tokenizer = learnt_tokens(plan, config.source.limits(), config.encoder.text.vocab_size)
    if kept is not None:
        uris.write_bytes(kept, tokenizer.encode())
    return tokenizer


def _of_weights(weights: str) -> str:
    """Read the tokenizer of the artifact that training starts from.

    Raises:
        InputError: it has none.
    """
    for name in _DESCRIPTIONS:
        place = uris.join(weights, name)
        if uris.exists(place):
            told = json.loads(uris.read_bytes(place)).get("preprocess", {})
            if isinstance(tokenizer := told.get("tokenizer"), str):
                return tokenizer
    raise InputError(
        f"encoder.weights {weights} has no tokenizer, without which its word vectors are of other"
        " words: give the artifact of a run of texts"
    )
