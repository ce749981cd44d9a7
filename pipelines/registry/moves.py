"""Moves of aliases, each by a compare-and-swap, with its entry in an append-only ledger.

The ledger is the truth. An entry is a file that is created under the number after the last one,
only if there is none, by a writer that has read that last one; and it holds where every alias
stands after it. So creating the entry is the move itself: of two writers that start from the same
state one creates the file, and the other reads again. There is no moment at which a move is
recorded and not made, or made and not recorded, and the order of the numbers is that of the moves.

An alias's own file comes after, and names the entry that it follows. Who is killed between the two
leaves a file that is behind the ledger; as nobody here decides by it, that changes nothing, and the
next move brings it up to date. In the other order an alias could stand where no entry put it.
Nothing else but `If-None-Match` is asked of the store. The alias's file is replaced by its etag
(`If-Match`) where the store can do that; elsewhere it is written and the ledger looked at again.

A rollback goes to where the alias stood before the version that it leaves was promoted, so several
in a row go further back, and a promotion after one goes on from there.
"""

import json
import sys
import uuid
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal

from pipelines.registry import alias_files, model_versions
from pipelines.registry.registered_model import ALIAS, RegisteredModel
from pipelines.registry.signature import Signature, without_secrets
from pipelines.registry.standing import Standing
from pipelines.storage import uris
from pipelines.storage.small_files import side_by_side

Action = Literal["promote", "rollback"]


@dataclass(frozen=True)
class Move:
    """An entry of the ledger.

    Attributes:
        number: From 1 on, in the order of the moves.
        action: What moved the alias.
        alias: Which.
        before: The version that it left; None: it is new.
        after: The version that it came to.
        reason: Why, in the words of who did it.
        by: Who.
        aliases: Where every alias stands after it.
    """

    number: int
    action: Action
    alias: str
    before: int | None
    after: int
    reason: str
    by: Signature
    aliases: Mapping[str, Standing]

    def as_dict(self) -> dict[str, Any]:
        """Return the move as people read it."""
        return {
            "entry": self.number,
            **asdict(self.by),
            "action": self.action,
            "alias": self.alias,
            "from": self.before,
            "to": self.after,
            "reason": self.reason,
        }

    def as_bytes(self) -> bytes:
        """Return the content of the entry's file; no two are equal."""
        standings = {alias: asdict(standing) for alias, standing in self.aliases.items()}
        record = {**self.as_dict(), "aliases": standings, "id": uuid.uuid4().hex}
        return json.dumps(record, indent=2).encode()

    def __str__(self) -> str:
        why = f": {self.reason}" if self.reason else ""
        return f"{self.action} by {self.by}{why}"


def promote(
    model: RegisteredModel,
    alias: str,
    version: int,
    *,
    by: Signature,
    reason: str = "",
    expect: int | None = None,
) -> Move | None:
    """Move an alias to a version, on top of whatever others do meanwhile.

    Args:
        model: Whose alias.
        alias: Its name; a new one is made.
        version: Where to.
        by: Who does it.
        reason: Why.
        expect: The version that it must stand at, 0 for none; None: any.

    Returns:
        The entry; None where it stands there already.

    Raises:
        ValueError: no such version, or the alias stands elsewhere than expected.
    """
    check_alias(alias)
    model_versions.read(model, version)

    def decide(last: Move | None, number: int) -> Standing | None:
        now = last.aliases.get(alias) if last else None
        _check_expected(model, alias, now, expect)
        if now and now.version == version:
            return None
        return Standing(version, number, now.entry if now else None)

    return _move(model, "promote", alias, decide, by, reason)


def rollback(
    model: RegisteredModel,
    alias: str,
    *,
    by: Signature,
    reason: str = "",
    expect: int | None = None,
) -> Move:
    """Move an alias back to the version that it stood at before.

    Args:
        model: Whose alias.
        alias: Its name.
        by: Who does it.
        reason: Why.
        expect: The version that it must stand at; None: any.

    Raises:
        ValueError: there is nothing to go back to, the alias stands elsewhere than expected, or
            somebody else moved it meanwhile, perhaps back as well.
    """
    start = standing(model, alias)

    def decide(last: Move | None, number: int) -> Standing:
        now = last.aliases[alias] if last else start
        _check_expected(model, alias, now, expect)
        if now != start:
            raise ValueError(
                f"alias {alias} of {model.uri} was moved meanwhile, from version {start.version} to"
                f" {now.version} ({read(model, now.entry)}): nothing was rolled back"
            )
        if now.below is None:
            raise ValueError(
                f"alias {alias} of {model.uri} has stood at no version before {now.version}:"
                " nothing was rolled back; promote another version"
            )
        below = read(model, now.below).aliases[alias]
        return Standing(below.version, number, below.below)

    moved = _move(model, "rollback", alias, decide, by, reason)
    assert moved is not None
    return moved


def check_alias(alias: str) -> None:
    """Refuse what cannot be an alias.

    Raises:
        ValueError: it is a number, or holds what file names do not.
    """
    if not ALIAS.fullmatch(alias):
        raise ValueError(
            f"alias {alias!r} cannot be one: give letters, digits, '.', '_' and '-', a letter first"
        )


def _check_expected(
    model: RegisteredModel, alias: str, now: Standing | None, expect: int | None
) -> None:
    found = now.version if now else 0
    if expect is None or found == expect:
        return
    at = f"stands at version {found} ({read(model, now.entry)})" if now else "is not there"
    raise ValueError(
        f"alias {alias} of {model.uri} {at}, not at expect={expect}: nothing was moved"
    )


def _move(
    model: RegisteredModel,
    action: Action,
    alias: str,
    decide: Callable[[Move | None, int], Standing | None],
    by: Signature,
    reason: str,
) -> Move | None:
    """Create the next entry, as often as somebody else is first; then bring aliases' files up to
    date.

    Args:
        model: Whose alias.
        action: For the entry.
        alias: Which.
        decide: Gives, for the last entry and the number of the next, where the alias shall stand;
            None: where it stands.
        by: For the entry.
        reason: For the entry.
    """
    model.prepare()
    while True:
        last = newest(model)
        number = last.number + 1 if last else 1
        standings = dict(last.aliases) if last else {}
        wanted = decide(last, number)
        moved = None
        if wanted is not None:
            before = standings[alias].version if alias in standings else None
            after = {**standings, alias: wanted}
            why = without_secrets(reason)
            moved = Move(number, action, alias, before, wanted.version, why, by, after)
            if not uris.create(model.move(number), moved.as_bytes()):
                _tell_overtaken(read(model, number), alias)
                continue
        alias_files.bring_up_to_date(model, partial(standings_of, model))
        return moved


def _tell_overtaken(other: Move, alias: str) -> None:
    """Say that somebody else moved the same alias first."""
    if other.alias == alias:
        print(
            f"alias {alias} was moved to version {other.after} meanwhile ({other}): looking again",
            file=sys.stderr,
        )


def newest(model: RegisteredModel) -> Move | None:
    """Read the last entry of the ledger; None where there is none."""
    numbers = model.moves()
    return read(model, numbers[-1]) if numbers else None


def standings_of(model: RegisteredModel) -> Mapping[str, Standing]:
    """Return where every alias stands."""
    last = newest(model)
    return last.aliases if last else {}


def standing(model: RegisteredModel, alias: str) -> Standing:
    """Return where an alias stands.

    Raises:
        ValueError: there is none of this name; the message says which there are.
    """
    there = standings_of(model)
    if alias not in there:
        named = f"there are {', '.join(sorted(there))}" if there else "there is none yet"
        raise ValueError(
            f"alias {alias} is none of {model.uri}: {named}; promote a version to make it"
        )
    return there[alias]


def read(model: RegisteredModel, number: int) -> Move:
    """Read an entry that is there."""
    values = json.loads(uris.read_bytes(model.move(number)))
    signed = {name: values[name] for name in ("time", "user", "host", "command")}
    return Move(
        number,
        values["action"],
        values["alias"],
        before=values["from"],
        after=values["to"],
        reason=values["reason"],
        by=Signature(**signed),
        aliases={alias: Standing(**found) for alias, found in values["aliases"].items()},
    )


def history(model: RegisteredModel) -> list[Move]:
    """Read the whole ledger, in order."""
    return list(side_by_side(partial(read, model), model.moves()))
