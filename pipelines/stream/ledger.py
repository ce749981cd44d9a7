"""The coverage ledger: which positions of the plan the weights have seen, of which versions of the
manifest."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Span:
    """From which position on a run reads which manifest version, how many row groups at a time."""

    position: int
    version: int
    interleave: int


@dataclass(frozen=True)
class Ledger:
    """What the weights of a checkpoint have seen: every sample at a position below `position`,
    once.

    Attributes:
        position: First position not consumed.
        spans: How positions become samples, in order of position; the first begins at 0.
    """

    position: int
    spans: tuple[Span, ...]

    def onto(self, version: int, interleave: int) -> "Ledger":
        """Read another manifest version, or otherwise interleaved, from this ledger's position
        on."""
        last = self.spans[-1] if self.spans else None
        if last and (last.version, last.interleave) == (version, interleave):
            return self
        kept = tuple(span for span in self.spans if span.position < self.position)
        if kept and (kept[-1].version, kept[-1].interleave) == (version, interleave):
            return Ledger(self.position, kept)
        return Ledger(self.position, (*kept, Span(self.position, version, interleave)))

    def at(self, position: int) -> "Ledger":
        """Return the same spans, consumed up to another position."""
        return Ledger(position, self.spans)

    def as_dict(self) -> dict[str, Any]:
        """Return the ledger as plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Ledger":
        """Read what `as_dict` gave."""
        return cls(values["position"], tuple(Span(**span) for span in values["spans"]))
