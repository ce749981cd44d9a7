"""The corpus of a cycle: listed anew, beside what the champion has seen of it."""

from typing import Any

from jobs.corpora.video_survey import survey
from jobs.retraining.retrain_sections import RetrainConfig
from jobs.setup.inputs import make_manifest
from pipelines import schema
from pipelines.corpus.manifest import Manifest, open_manifest, versions
from pipelines.registry.model_versions import Version
from pipelines.retraining.mixture import Ages
from pipelines.storage import uris

FOLDER = "manifest"
LINEAGE = "retraining"  # what a version's lineage says of its cycle


def list_anew(
    config: RetrainConfig, source: str, out: str, champion: Version | None
) -> dict[str, Any]:
    """List the corpus, have its new videos looked at where clips are drawn by that, and count what
    is new to the champion; a manifest is taken as it is.

    Returns:
        What the record of the cycle says of it.
    """
    if versions(source):
        manifest = open_manifest(source)
    else:
        manifest = make_manifest(
            config.source.model_copy(update={"uri": source}),
            uris.join(out, FOLDER),
            config.clip.per_video,
            medium=config.medium,
            max_gone_fraction=config.retrain.max_gone_fraction,
        )
        if config.clip.looked_at and schema.VIDEO in manifest.media:
            survey(config.source, manifest, config.clip.rule.flow)
    config.clip.check(manifest)
    since = _trained_on(champion, manifest)
    before = open_manifest(manifest.uri, since) if since is not None else None
    ages = Ages.since(manifest, before)
    return {
        "manifest": manifest.uri,
        "version": manifest.version,
        "rows": manifest.num_rows,
        "left_out": manifest.left_out,
        "champion": champion.number if champion else None,
        "since": since,
        "new": ages.num_new,
        "gone": before.num_rows - ages.num_old if before else 0,
    }


def reopen(told: dict[str, Any]) -> Ages:
    """Open the corpus that a record tells of; what no version of the champion's is known of counts
    as new."""
    uri, since = told["manifest"], told["since"]
    before = open_manifest(uri, since) if since is not None else None
    return Ages.since(open_manifest(uri, told["version"]), before)


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
