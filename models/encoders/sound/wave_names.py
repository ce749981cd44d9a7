"""Encoders of sounds: their names and what may be set of them."""

from collections.abc import Mapping
from typing import Any

WAVE_BLOCKS = {"wave_gru": 0, "wave_transformer": 12, "wave_transformer_small": 4}
"""Name to the blocks of its transformer; 0: a recurrent network."""
SET_OF_SOUND = ("name", "width", "weights", "min_share")


def sees_sound(name: str) -> bool:
    """Tell whether an encoder of this name sees sounds."""
    return name in WAVE_BLOCKS


def check_sound(name: str, given: Mapping[str, Any]) -> None:
    """Refuse settings of images for an encoder of sounds.

    Args:
        name: Of the encoder.
        given: Settings that are not as they are by default.

    Raises:
        ValueError: with key, value and remedy.
    """
    for key, value in given.items():
        if key not in SET_OF_SOUND:
            raise ValueError(
                f"encoder.{key}={value} has no effect on encoder.name={name}, which hears sounds:"
                " leave it out"
            )
