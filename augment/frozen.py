"""The base of every configuration object of the project."""

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """An immutable, strictly keyed record: unknown keys are errors, fields cannot be reassigned."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
