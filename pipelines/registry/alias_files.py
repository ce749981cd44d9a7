"""A file for each alias of a registered model, for people and programs that know nothing of the
ledger. It names the ledger's entry that it follows, and never goes back to an earlier one."""

import json
from collections.abc import Callable, Mapping

from pipelines.registry.registered_model import RegisteredModel, padded
from pipelines.registry.standing import Standing
from pipelines.storage import uris
from pipelines.storage.conditional import CannotReplace

Standings = Mapping[str, Standing]


def bring_up_to_date(model: RegisteredModel, standings: Callable[[], Standings]) -> None:
    """Write the files of aliases that are behind the ledger.

    Args:
        model: Whose aliases.
        standings: Reads the ledger.
    """
    before = None
    now = standings()
    while now != before:
        sure = [_follow(model, alias, standing) for alias, standing in now.items()]
        if all(sure):
            return
        # A file was written over whatever was there: perhaps over one of a later entry.
        before = now
        now = standings()


def _follow(model: RegisteredModel, alias: str, standing: Standing) -> bool:
    """Write the file of an alias, where it is missing or behind.

    Returns:
        False where the store cannot make sure that it was not written meanwhile.
    """
    place = model.alias(alias)
    record = {
        "version": standing.version,
        "artifact": f"versions/{padded(standing.version)}/artifact",
        "entry": standing.entry,
    }
    data = json.dumps(record).encode()
    while True:
        try:
            found, etag = uris.read_tagged(place)
        except FileNotFoundError:
            if uris.create(place, data):
                return True
            continue
        if json.loads(found)["entry"] >= standing.entry:
            return True
        try:
            if uris.replace_if(place, data, etag):
                return True
        except CannotReplace:
            uris.write_bytes(place, data)
            return False
