"""The corpus of a cycle: listed anew, beside what the champion has seen of it."""

from typing import Any

from jobs.corpora.video_survey import survey
from jobs.retraining.retrain_sections import RetrainConfig
from jobs.setup.claims import one_spelling
from jobs.setup.inputs import check_version, make_manifest
from jobs.training.run_dir import MANIFEST
from pipelines import schema
from pipelines.corpus.manifest import Manifest, open_manifest, versions
from pipelines.curation.adopted import adopt
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
    seen = _trained_on(champion)
    if there := versions(source):
        check_version(config.source, there)
        manifest = open_manifest(source, config.source.version)
    else:
        place = uris.join(out, FOLDER)
        if seen is not None and one_spelling(seen.source) == one_spelling(source):
            adopt(seen, place)  # unless there is a manifest: the first goes on from what was seen
        manifest = make_manifest(
            config.source.model_copy(update={"uri": source}),
            place,
            config.clip.per_video,
            medium=config.medium,
            max_gone_fraction=config.retrain.max_gone_fraction,
            gone_key="retrain.max_gone_fraction",
        )
        if config.clip.looked_at and schema.VIDEO in manifest.media:
            survey(config.source, manifest, config.clip.rule.flow)
    config.clip.check(manifest)
    known = seen is not None and _is_version_of(seen, manifest)
    before = seen if known else None
    ages = Ages.since(manifest, before)
    return {
        "manifest": manifest.uri,
        "version": manifest.version,
        "rows": manifest.num_rows,
        "left_out": manifest.left_out,
        "champion": champion.number if champion else None,
        "since": before.version if before else None,
        "unknown": _unknown(champion, seen, manifest) if champion and not known else None,
        "new": ages.num_new,
        "gone": before.num_rows - ages.num_old if before else 0,
    }


def reopen(told: dict[str, Any]) -> Ages:
    """Open the corpus that a record tells of; what no version of the champion's is known of counts
    as new."""
    uri, since = told["manifest"], told["since"]
    before = open_manifest(uri, since) if since is not None else None
    return Ages.since(open_manifest(uri, told["version"]), before)


def _trained_on(champion: Version | None) -> Manifest | None:
    """Open the version of a manifest that the champion was trained on: the one that its cycle or
    its source names, or the one of its run; None where none is there."""
    if champion is None:
        return None
    lineage = champion.lineage
    if (own := lineage.get(LINEAGE)) is not None:
        version, places = own["version"], [own["manifest"]]
    else:
        version = max(lineage.get("manifest_versions") or [0])
        run = lineage.get("run")
        beside = [uris.join(run, MANIFEST)] if run else []
        places = [*beside, *([lineage["source"]] if lineage.get("source") else [])]
    there = [place for place in places if version in versions(place)]
    return open_manifest(there[0], version) if there else None


def _paths(manifest: Manifest) -> list[str]:
    return [part.path for part in manifest.parts]


def _is_version_of(seen: Manifest, manifest: Manifest) -> bool:
    """Tell whether a manifest has this version, perhaps as a copy."""
    if seen.version not in versions(manifest.uri):
        return False
    return _paths(open_manifest(manifest.uri, seen.version)) == _paths(seen)


def _unknown(champion: Version, seen: Manifest | None, manifest: Manifest) -> str:
    """Say why it cannot be told which samples the champion was trained on."""
    number = champion.number
    if seen is None:
        return f"no manifest is there that version {number} was trained on"
    return (
        f"version {number} was trained on version {seen.version} of {seen.uri}, which"
        f" {manifest.uri} does not have"
    )
