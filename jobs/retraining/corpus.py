"""The corpus of a cycle: listed anew, beside what the champion has seen of it."""

from dataclasses import dataclass
from typing import Any

from jobs.retraining.retrain_sections import RetrainConfig
from jobs.setup.inputs import make_manifest
from pipelines.corpus.manifest import Manifest, open_manifest, versions
from pipelines.registry.model_versions import Version
from pipelines.retraining.mixture import Ages
from pipelines.storage import uris

FOLDER = "manifest"
LINEAGE = "retraining"  # what a version's lineage says of its cycle


@dataclass(frozen=True)
class Corpus:
    """What a cycle works on.

    Attributes:
        ages: The version of the manifest, and which of its samples the champion knows.
        since: The version that the champion was trained on; None: nobody knows, and all is new.
    """

    ages: Ages
    since: int | None

    @property
    def manifest(self) -> Manifest:
        """Return the version."""
        return self.ages.manifest


def place_of(source: str, out: str) -> str:
    """Return where the manifest lies: the source itself where it is one."""
    return source if versions(source) else uris.join(out, FOLDER)


def list_anew(
    config: RetrainConfig, source: str, out: str, champion: Version | None
) -> dict[str, Any]:
    """List the corpus, and count what is new to the champion; a manifest is taken as it is.

    Returns:
        What the record of the cycle says of it.
    """
    place = place_of(source, out)
    if place == source:
        manifest = open_manifest(source)
    else:
        manifest = make_manifest(
            config.source.model_copy(update={"uri": source}),
            place,
            config.clip.per_video,
            max_gone_fraction=config.retrain.max_gone_fraction,
        )
    since = _trained_on(champion, manifest)
    corpus = _opened(manifest, since)
    told: dict[str, Any] = {
        "manifest": manifest.uri,
        "version": manifest.version,
        "rows": manifest.num_rows,
        "left_out": manifest.left_out,
        "champion": champion.number if champion else None,
        "since": since,
        "new": corpus.ages.num_new,
        "gone": 0,
    }
    if since is not None:
        before = open_manifest(manifest.uri, since)
        told["gone"] = before.num_rows - corpus.ages.num_old
    return told


def reopen(told: dict[str, Any]) -> Corpus:
    """Open the corpus that a record tells of."""
    return _opened(open_manifest(told["manifest"], told["version"]), told["since"])


def _opened(manifest: Manifest, since: int | None) -> Corpus:
    before = open_manifest(manifest.uri, since) if since is not None else None
    return Corpus(Ages.since(manifest, before), since)


def _trained_on(champion: Version | None, manifest: Manifest) -> int | None:
    """Return the version of this manifest that the champion was trained on."""
    if champion is None:
        return None
    lineage = champion.lineage
    own = lineage.get(LINEAGE)
    if own is not None:
        known, version = own["manifest"], own["version"]
    else:
        known, version = lineage.get("source"), max(lineage["manifest_versions"], default=None)
    there = version in versions(manifest.uri)
    return version if known == manifest.uri and there else None
