"""Where an alias of a registered model stands."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Standing:
    """Where an alias stands.

    Attributes:
        version: At which version.
        entry: Number of the ledger's entry that put it there.
        below: Number of the entry after which it stood where a rollback leads; None: nowhere.
    """

    version: int
    entry: int
    below: int | None
