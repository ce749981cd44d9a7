"""How a job names an artifact of a registry: `REGISTRY/NAME@ALIAS` or `REGISTRY/NAME@VERSION`."""

from dataclasses import dataclass

from pipelines.registry import model_versions, moves
from pipelines.registry.model_versions import Version
from pipelines.registry.registered_model import ALIAS, NAME, NUMBER, RegisteredModel
from pipelines.storage import uris


@dataclass(frozen=True)
class Reference:
    """A version of a registered model, by its number or by an alias.

    Attributes:
        model: Whose.
        wanted: The number or the alias.
    """

    model: RegisteredModel
    wanted: str

    def __str__(self) -> str:
        return f"{self.model.uri}@{self.wanted}"

    @property
    def is_alias(self) -> bool:
        """Tell whether it may mean another version tomorrow."""
        return not NUMBER.fullmatch(self.wanted)

    def resolve(self) -> Version:
        """Read the version that it means now.

        Raises:
            ValueError: there is no such version or alias.
        """
        if not self.is_alias:
            return model_versions.read(self.model, int(self.wanted))
        return model_versions.read(self.model, moves.standing(self.model, self.wanted).version)


def split(uri: str) -> Reference | None:
    """Read a reference; None where the URI is spelled as none.

    Args:
        uri: Absolute; nothing is looked up.
    """
    registry, _, last = uri.rstrip("/").rpartition("/")
    name, sign, wanted = last.rpartition("@")
    if not sign or not registry or registry.endswith("/"):  # nothing or a scheme alone before it
        return None
    if not NAME.fullmatch(name) or not (NUMBER.fullmatch(wanted) or ALIAS.fullmatch(wanted)):
        return None
    return Reference(RegisteredModel(registry, name), wanted)


def place_of(uri: str) -> str:
    """Return where the artifact lies that a URI names: itself, or a registered version's.

    Raises:
        ValueError: the registry has no such version or alias.
    """
    wanted = split(uris.absolute(uri))
    if wanted is None or uris.exists(uri) or not wanted.model.is_there():
        return uri
    return wanted.resolve().artifact


def of_place(place: str) -> Reference | None:
    """Read a reference to the version whose artifact lies at a place; None where that is none."""
    model, _, rest = place.rstrip("/").rpartition("/versions/")
    registry, _, name = model.rpartition("/")
    number, _, folder = rest.partition("/")
    if not registry or not NAME.fullmatch(name) or not number.isdecimal() or folder != "artifact":
        return None
    return Reference(RegisteredModel(registry, name), str(int(number)))
