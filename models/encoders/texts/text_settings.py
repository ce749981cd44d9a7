"""How large an encoder of texts is."""

from typing import Any

from pydantic import Field

from augment.frozen import Frozen

TRANSFORMER = "text_transformer"
WORD_VECTORS = "word_vectors"
TEXT_ENCODERS = (TRANSFORMER, WORD_VECTORS)


class TextSettings(Frozen):
    """Size of an encoder of texts."""

    vocab_size: int = Field(
        8192,
        ge=512,
        le=1 << 20,
        description="tokens at most, learnt from the run's own texts before its first step",
    )
    width: int = Field(128, ge=4, description="features of a token, D")
    depth: int = Field(4, ge=1, description="text_transformer: blocks")
    num_heads: int = Field(
        4, ge=1, description="text_transformer: heads of a block's attention; they divide width"
    )
    dropout: float = Field(
        0.1,
        ge=0,
        lt=1,
        description=(
            "text_transformer: share of the features that training leaves out, behind the word"
            " embedding and each branch of a block"
        ),
    )

    def unused(self, name: str) -> tuple[str, ...]:
        """Return the keys that an encoder of this name has no use for."""
        if name == TRANSFORMER:
            return ()
        of_blocks = ("depth", "num_heads", "dropout")
        return of_blocks if name == WORD_VECTORS else ("vocab_size", "width", *of_blocks)


def check_text(given: dict[str, Any]) -> None:
    """Refuse settings of images for an encoder of texts.

    Args:
        given: All settings of the encoder that are not the default.

    Raises:
        ValueError: with key, value and remedy.
    """
    for key, value in given.items():
        if key not in ("name", "text", "pooling", "weights", "min_share"):
            raise ValueError(
                f"encoder.{key}={value} has no effect on encoder.name={given['name']}, which reads"
                " texts: leave it out"
            )
