"""Versions of a registered model: a copy of an artifact with its metrics and its lineage.

A version appears at once and whole. Whoever registers takes the next number by creating its
`claim.json`, copies the artifact beside it and loads the copy. Then it creates
`registered/IDENTITY.json`, which names its number; the identity is a hash of the artifact's digest
and its lineage, so of several who register the same at once one is first, and the others return its
version and delete their copies. Last comes `version.json`, without which no version is listed.

A process that is killed on the way leaves a folder that nobody lists, and its number stays free.
Only if it dies after naming its number as that of the identity is the copy whole: whoever registers
the same again then writes the missing `version.json`.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

from models import artifact
from models.json_values import finite
from pipelines.registry.registered_model import RegisteredModel
from pipelines.registry.signature import Signature
from pipelines.storage import uris
from pipelines.storage.copies import copy_file
from pipelines.storage.small_files import side_by_side

_RECORD = "version.json"
_CLAIM = "claim.json"
_FOLDER = "artifact"


@dataclass(frozen=True)
class Version:
    """A version.

    Attributes:
        model: Whose.
        number: From 1 on.
        digest: Of the artifact.
        lineage: Where its weights come from.
        metrics: What was measured of it before it was registered.
        registered: By whom.
    """

    model: RegisteredModel
    number: int
    digest: str
    lineage: dict[str, Any]
    metrics: dict[str, Any]
    registered: Signature

    @property
    def artifact(self) -> str:
        """Return the place of its artifact."""
        return self.model.version(self.number, _FOLDER)

    def as_dict(self) -> dict[str, Any]:
        """Return the version as its file has it."""
        return {
            "version": self.number,
            "digest": self.digest,
            "lineage": self.lineage,
            "metrics": self.metrics,
            "registered": asdict(self.registered),
        }


def register(
    model: RegisteredModel,
    source: str,
    *,
    lineage: dict[str, Any],
    metrics: dict[str, Any],
    by: Signature,
) -> tuple[Version, bool]:
    """Make an artifact the next version, unless it is one already with this lineage.

    Args:
        model: Whose version.
        source: Place of the artifact.
        lineage: Where its weights come from; plain JSON.
        metrics: What was measured of it; plain JSON.
        by: Who does it.

    Returns:
        The version, and whether it is new.

    Raises:
        ValueError: the artifact cannot be loaded.
    """
    digest = artifact.load(source).digest
    model.prepare()
    lineage = finite(lineage)
    identity = _identity(digest, lineage)
    if (found := _finished(model, identity)) is not None:
        return found, False
    claimed = _claim(model, digest, lineage, finite(metrics), by)
    _copy(source, claimed)
    named = json.dumps({"version": claimed.number}).encode()
    is_first = uris.create(model.registered(identity), named)
    version = _finished(model, identity)
    assert version is not None, "the identity was just named"
    if not is_first:
        uris.remove(claimed.artifact)
    return version, is_first


def _identity(digest: str, lineage: dict[str, Any]) -> str:
    text = json.dumps([digest, lineage], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _finished(model: RegisteredModel, identity: str) -> Version | None:
    """Return the version that an identity names, whole; None where it names none."""
    try:
        named = json.loads(uris.read_bytes(model.registered(identity)))
    except FileNotFoundError:
        return None
    number = named["version"]
    claim = uris.read_bytes(model.version(number, _CLAIM))
    uris.create(model.version(number, _RECORD), claim)
    return read(model, number)


def _claim(
    model: RegisteredModel,
    digest: str,
    lineage: dict[str, Any],
    metrics: dict[str, Any],
    by: Signature,
) -> Version:
    """Take the next number; of two who want it one is first, and the other takes the next."""
    number = max(model.version_folders(), default=0)
    while True:
        number += 1
        version = Version(model, number, digest, lineage, metrics, by)
        data = json.dumps(version.as_dict(), indent=2).encode()
        if uris.create(model.version(number, _CLAIM), data):
            return version


def _copy(source: str, version: Version) -> None:
    """Copy an artifact to its version, and load the copy.

    Raises:
        ValueError: the artifact changed meanwhile.
    """
    there = uris.list_names(source)
    for name in (name for name in artifact.FILES if name in there):
        copy_file(uris.join(source, name), uris.join(version.artifact, name))
    if artifact.load(version.artifact).digest != version.digest:
        raise ValueError(f"artifact {source} changed while it was copied: register it again")


def read(model: RegisteredModel, number: int) -> Version:
    """Read a version.

    Raises:
        ValueError: there is none of this number; the message says which there are.
    """
    if (found := _read_if_there(model, number)) is None:
        there = [version.number for version in all_of(model)]
        raise ValueError(f"version {number} is none of {model.uri}: there {_told(there)}")
    return found


def _told(numbers: list[int]) -> str:
    """Say which versions there are, the last ones of many."""
    if not numbers:
        return "are none yet"
    shown = ", ".join(map(str, numbers[-10:]))
    return f"are {'..., ' if len(numbers) > 10 else ''}{shown}"


def _read_if_there(model: RegisteredModel, number: int) -> Version | None:
    """Read a version; None where there is none, or none yet."""
    try:
        values = json.loads(uris.read_bytes(model.version(number, _RECORD)))
    except FileNotFoundError:
        return None
    return Version(
        model,
        number,
        digest=values["digest"],
        lineage=values["lineage"],
        metrics=values["metrics"],
        registered=Signature(**values["registered"]),
    )


def all_of(model: RegisteredModel) -> list[Version]:
    """Read all versions, ascending."""
    numbers = model.version_folders()
    found = side_by_side(lambda number: _read_if_there(model, number), numbers)
    return [version for version in found if version is not None]
