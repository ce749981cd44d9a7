"""The base of every configuration object of the project."""

from typing import Any

from pydantic import BaseModel, ConfigDict


def other_of(pair: tuple[str, str], key: str, values: dict[str, Any]) -> tuple[str, ...]:
    """Return the other one of two keys that exclude each other, where `key` gives one a value."""
    if key not in pair or values.get(key) is None:
        return ()
    return tuple(name for name in pair if name != key)


class Frozen(BaseModel):
    """An immutable, strictly keyed record: unknown keys are errors, fields cannot be reassigned."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def voided_by(cls, key: str, values: dict[str, Any]) -> tuple[str, ...]:
        """Return the keys of this record that mean nothing, or are refused, beside a given one.

        Where a recipe sets them and the command line sets `key`, they are dropped from the recipe.

        Args:
            key: A dotted key of this record that was given.
            values: All that is given for this record, defaults left out.
        """
        return ()

    def idle(self) -> dict[str, str]:
        """Return the keys that have no effect beside the value of another: key to that other key.

        The command line may not set them; a recipe may, as another word may bring them into use.
        """
        return {}
