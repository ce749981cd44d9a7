"""A name in a registry of models, and where its parts lie; plain files in any storage that creates
a file only if there is none.

REGISTRY/NAME/registry.json                    format; also where the storage is tried
REGISTRY/NAME/versions/0000001/claim.json      who copies what, from the moment the number is taken
REGISTRY/NAME/versions/0000001/artifact/       the copy
REGISTRY/NAME/versions/0000001/version.json    written last: with it the version is there
REGISTRY/NAME/registered/DIGEST.json           which version holds this artifact with this lineage
REGISTRY/NAME/ledger/0000001.json              moves of aliases, one a file
REGISTRY/NAME/aliases/champion.json            where an alias stands, for whoever reads it by hand

Everything but the aliases is created once and never changed.
"""

import json
import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.storage import uris
from pipelines.storage.retries import StorageError
from pipelines.storage.small_files import side_by_side

NAME = re.compile(r"[A-Za-z0-9][\w.-]*")
ALIAS = re.compile(r"[A-Za-z][\w.-]*")
NUMBER = re.compile(r"[1-9]\d{0,6}")
_DIGITS = 7
_FORMAT = 1


@dataclass(frozen=True)
class RegisteredModel:
    """A name in a registry.

    Attributes:
        registry: URI of the registry, absolute.
        name: Of the model.
    """

    registry: str
    name: str

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise ValueError(
                f"name {self.name!r} cannot be one of a registry: give letters, digits, '.', '_'"
                " and '-', a letter or digit first"
            )

    @property
    def uri(self) -> str:
        """Return the folder of the model."""
        return uris.join(self.registry, self.name)

    def version(self, number: int, *names: str) -> str:
        """Return the place of a version, or of something in it."""
        return uris.join(self.uri, "versions", padded(number), *names)

    def registered(self, identity: str) -> str:
        """Return the place that says which version holds an artifact with a lineage."""
        return uris.join(self.uri, "registered", f"{identity}.json")

    def move(self, number: int) -> str:
        """Return the place of an entry of the ledger."""
        return uris.join(self.uri, "ledger", f"{padded(number)}.json")

    def alias(self, alias: str) -> str:
        """Return the place of an alias's file."""
        return uris.join(self.uri, "aliases", f"{alias}.json")

    def is_there(self) -> bool:
        """Tell whether something was registered under the name, or is about to be."""
        return uris.exists(self._format)

    def version_folders(self) -> list[int]:
        """List the numbers that were taken, ascending; those of versions, and of copies."""
        return _numbers(uris.list_folders(uris.join(self.uri, "versions")))

    def moves(self) -> list[int]:
        """List the entries of the ledger, ascending: one request for a thousand of them."""
        names = uris.list_names(uris.join(self.uri, "ledger"))
        return _numbers([name.removesuffix(".json") for name in names])

    def prepare(self) -> None:
        """Make the registry ready to be written, and try its storage.

        Raises:
            StorageError: it overwrites what was to be created only if there is none, so that of two
                who move an alias at once neither would be told.
        """
        record = {"format": _FORMAT}
        uris.create(self._format, json.dumps(record).encode())
        tried = json.dumps(record | {"tried": uuid.uuid4().hex}).encode()
        if uris.create(self._format, tried):
            raise StorageError(
                self.uri,
                "a registry needs a store with conditional writes (If-None-Match), and this one"
                " overwrites what is there: keep the registry in another store",
            )

    @property
    def _format(self) -> str:
        return uris.join(self.uri, "registry.json")


def padded(number: int) -> str:
    """Return a number as file names have it, so that names sort as numbers do."""
    return f"{number:0{_DIGITS}d}"


def _numbers(names: Sequence[str]) -> list[int]:
    return sorted(int(name) for name in names if name.isdecimal())


def model_names(registry: str) -> list[str]:
    """List the names in a registry."""
    folders = [name for name in uris.list_folders(registry) if NAME.fullmatch(name)]
    models = [RegisteredModel(registry, name) for name in folders]
    there = side_by_side(RegisteredModel.is_there, models)
    return [model.name for model, is_there in zip(models, there, strict=True) if is_there]
