"""The record of a cycle: which steps are done, and what each told; written after every step, so
that the same command goes on where it was stopped."""

import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from jobs.setup.claims import differing
from jobs.setup.failures import InputError
from models.json_values import finite
from pipelines.storage import uris
from pipelines.storage.lease import Fence
from pipelines.storage.small_files import side_by_side

SLOTS = "slots"
RECORD = "cycle.json"

Told = dict[str, Any]


@dataclass(frozen=True)
class Cycle:
    """A cycle of retraining.

    Attributes:
        uri: Its folder.
        slot: Which.
        asked: What was asked for.
        begun: When, in ISO format.
        steps: What each finished step told, in their order.
        decision: How it ended: promoted, kept or stopped; None: it has not.
        why: The reasons, in words.
    """

    uri: str
    slot: str
    asked: Told
    begun: str
    steps: dict[str, Told] = field(default_factory=dict)
    decision: str | None = None
    why: tuple[str, ...] = ()

    def path(self, *names: str) -> str:
        """Return the URI of something in its folder."""
        return uris.join(self.uri, *names)

    def write(self, fence: Fence) -> None:
        """Write the record, if the lease is still held."""
        fence.check()
        record = {
            "slot": self.slot,
            "begun": self.begun,
            "asked": self.asked,
            "steps": self.steps,
            "decision": self.decision,
            "why": list(self.why),
        }
        uris.write_bytes(self.path(RECORD), json.dumps(finite(record), indent=2).encode())

    def step(self, name: str, fence: Fence, do: Callable[[], Told]) -> Told:
        """Do a step, unless it is done, and record what it told."""
        if name not in self.steps:
            begun = time.monotonic()
            told = do()
            self.steps[name] = told | {"seconds": round(time.monotonic() - begun, 1)}
            self.write(fence)
        return self.steps[name]


def order_of(slot: str) -> list[tuple[int, int, str]]:
    """Return what slots are compared by: numbers in them by their value, all else as text."""
    parts = re.findall(r"\d+|\D+", slot)
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts]


def open_cycle(out: str, slot: str, asked: Told) -> Cycle:
    """Open the cycle of a slot, or begin it; nothing is written.

    Raises:
        InputError: it was begun with other settings.
    """
    asked = json.loads(json.dumps(finite(asked)))
    place = uris.join(out, SLOTS, slot)
    found = read(place)
    if found is None:
        return Cycle(place, slot, asked, datetime.now(UTC).isoformat(timespec="seconds"))
    if different := differing(found.asked, asked):
        raise InputError(
            f"slot {slot} was begun with other settings: {', '.join(different)}; give the same"
            " ones, or another slot"
        )
    return found


def read(place: str) -> Cycle | None:
    """Read the cycle in a folder; None where there is none."""
    try:
        told = json.loads(uris.read_bytes(uris.join(place, RECORD)))
    except FileNotFoundError:
        return None
    return Cycle(
        place,
        told["slot"],
        told["asked"],
        told["begun"],
        told["steps"],
        told["decision"],
        tuple(told["why"]),
    )


def all_of(out: str) -> list[Cycle]:
    """Read all cycles, the oldest slot first."""
    folder = uris.join(out, SLOTS)
    places = [uris.join(folder, name) for name in uris.list_folders(folder)]
    found = [cycle for cycle in side_by_side(read, places) if cycle is not None]
    return sorted(found, key=lambda cycle: order_of(cycle.slot))
