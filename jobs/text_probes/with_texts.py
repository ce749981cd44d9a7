"""What the probes with texts have in common: artifacts that hold a text tower, and the features of
images that texts are compared with."""

from dataclasses import dataclass
from typing import Any

import torch

from jobs.cluster import launch
from jobs.probing.frozen_features import COMPARED, Judged, encoders_of, judged_of, passes
from jobs.setup.failures import InputError
from jobs.text_probes.text_probe_sections import ComparedConfig
from models import artifact
from models.artifact import Artifact
from pipelines.embeddings.features import Features, Kind

JOINT: tuple[Kind, ...] = ("pretrained", "untrained")


@dataclass(frozen=True, eq=False)
class Towers:
    """The artifacts of a probe.

    Attributes:
        uri: Of the one that is judged.
        encoders: Of each kind of features that texts are compared with, the artifact.
        judged: What is judged.
        compared: What it is compared with; None: nothing.
    """

    uri: str
    encoders: dict[str, Artifact]
    judged: Judged
    compared: Judged | None

    @property
    def places(self) -> tuple[str, ...]:
        """Return where they lie."""
        return (self.uri, *([self.compared.uri] if self.compared else []))

    def passes(self, *, colour: bool) -> list[tuple[dict[str, Features], list[Artifact]]]:
        """Return the columns of features by kind, in as few passes over the pixels as may be.

        Args:
            colour: Whether statistics of colour are taken too.
        """
        own = {kind: Features(self.uri, kind, form="joint") for kind in JOINT}
        if colour:
            own["colour"] = Features(self.uri, "colour")
        other = self.encoders.get(COMPARED)
        theirs = {COMPARED: Features(self.compared.uri, form="joint")} if self.compared else {}
        return passes(
            {str(kind): one for kind, one in own.items()},
            self.encoders["pretrained"],
            theirs,
            other,
        )

    def told(self) -> dict[str, Any]:
        """Return what is said of them."""
        result: dict[str, Any] = {
            "artifact_digest": self.judged.digest,
            "baseline": self.judged.baseline,
            "parameters": {"trained": 0, "frozen": self.judged.parameters},
        }
        if self.compared:
            result |= {"compared": self.compared.uri, "compared_digest": self.compared.digest}
        return result


def towers_of(config: ComparedConfig) -> Towers:
    """Load the artifact, what it was before training, and the one to compare it with.

    Raises:
        InputError: one is not there or holds no text tower, or both are the same.
    """
    uri, encoder, other_uri, other = encoders_of(config)
    found = {"pretrained": encoder, "untrained": artifact.untrained(uri)}
    if other is not None:
        found[COMPARED] = other
    for key, one in (("artifact", encoder), ("compare", other)):
        try:
            if one is not None:
                one.require_text()
        except ValueError as error:
            raise InputError(f"{key} {getattr(config, key)}: {error}") from None
    compared = judged_of(other_uri, other) if other is not None else None
    return Towers(uri, found, judged_of(uri, encoder), compared)


def embed_texts(encoder: Artifact, texts: list[str]) -> torch.Tensor:
    """Embed texts, (N, P) of length 1.

    Raises:
        InputError: a package is missing.
    """
    try:
        return encoder.embed_texts(texts)
    except ValueError as error:
        raise InputError(str(error)) from None


def absolute(key: str, uri: str) -> str:
    """Make a place that the user gave absolute, and see that it is there.

    Raises:
        InputError: it is not, or cannot be reached.
    """
    found = launch.user_uri(key, uri)
    launch.check_reachable(key, found)
    return found
