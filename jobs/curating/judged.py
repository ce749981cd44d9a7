"""What a curation is given: a manifest, and embeddings of its samples."""

import json
from dataclasses import replace

from jobs.cluster import launch
from jobs.curating.curate_sections import CurateConfig
from jobs.searching.made_by import Encoding
from jobs.setup.claims import one_spelling
from jobs.setup.failures import InputError
from pipelines.captions.caption_table import CaptionTable
from pipelines.corpus.manifest import Manifest, open_manifest, versions
from pipelines.curation.adopted import adopt
from pipelines.curation.caption_fit import CaptionFit
from pipelines.embeddings.stored import PROGRESS, Stored, open_stored
from pipelines.storage import uris


def open_embeddings(config: CurateConfig) -> Stored | None:
    """Open the embeddings; None where all is to be brought back.

    Raises:
        InputError: there are none, or not one vector a sample.
    """
    if config.undo:
        if config.embeddings is not None:
            raise InputError("embeddings has no effect with undo=true: leave it out")
        return None
    if config.embeddings is None:
        raise InputError("embeddings is missing: give the out of jobs.export, or undo=true")
    place = launch.user_uri("embeddings", config.embeddings)
    launch.check_reachable("embeddings", place)
    stored = open_stored(place, config.column)
    stored.check_one_vector("curation compares", frames=False)
    return stored


def own_manifest(source: str, out: str) -> Manifest:
    """Open the newest version of the manifest that gets another one.

    Raises:
        InputError: the source is no manifest, or `out` holds that of another listing.
    """
    if not versions(source):
        raise InputError(
            f"source.uri {source} is no manifest: list it with jobs.index, and export that"
        )
    manifest = open_manifest(source)
    if one_spelling(out) == one_spelling(source):
        return manifest
    mine = adopt(manifest, out)
    if [part.path for part in mine.parts] != [part.path for part in manifest.parts]:
        raise InputError(
            f"out {out} is of another listing than {source}: choose another out, or"
            f" out={source}, which gets a version more"
        )
    return mine


def belongs(stored: Stored, manifest: Manifest) -> None:
    """Refuse embeddings of another manifest, or of an earlier listing.

    Raises:
        InputError: with what helps.
    """
    there = stored.provenance.source
    if one_spelling(there) != one_spelling(manifest.source):
        raise InputError(
            f"embeddings {stored.uri} are of {there}, and source.uri lists {manifest.source}:"
            " export this manifest"
        )
    version = _version(stored)
    parts = None
    if version in versions(manifest.uri):
        parts = [part.path for part in open_manifest(manifest.uri, version).parts]
    if parts != [part.path for part in manifest.parts]:
        raise InputError(
            f"embeddings {stored.uri} are of version {version}, and {manifest.uri} is at version"
            f" {manifest.version}, which lists other samples: run the same jobs.export again on"
            " this manifest"
        )


def _version(stored: Stored) -> int:
    """Return which version of its manifest an export holds."""
    place = uris.join(stored.uri.rpartition("/")[0], PROGRESS)
    if uris.exists(place):
        return int(json.loads(uris.read_bytes(place))["complete"])
    return stored.provenance.manifest_version


def fit_of(config: CurateConfig, manifest: Manifest, stored: Stored) -> CaptionFit | None:
    """Say how captions are compared with samples; None where nobody asks.

    Raises:
        InputError: there are no captions, or the embeddings are none that texts are compared with.
    """
    place = config.source.captions_of(manifest)
    if not config.captions.wanted:
        if place is not None:
            raise InputError(
                f"source.captions {config.source.captions} has no effect here without"
                " captions.min_cosine or captions.keep_fraction: set one of them"
            )
        return None
    if place is None:
        raise InputError(
            "captions.min_cosine and captions.keep_fraction need source.captions: name the files,"
            " as ./{stem}.txt, or a table of them"
        )
    if isinstance(place, CaptionTable):
        place = replace(place, uri=launch.user_uri("source.captions", place.uri))
        launch.check_reachable("source.captions", place.uri)
    if stored.column.form != "joint":
        raise InputError(
            f"captions are compared with embeddings that were exported with form=joint, and"
            f" {stored.uri} holds form={stored.column.form}: export an artifact of images and"
            " captions so"
        )
    uri, _ = Encoding(stored, config.captions.artifact).encoder()
    return CaptionFit(place, uri, config.source.limits())
