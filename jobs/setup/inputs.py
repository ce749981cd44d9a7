"""What a job is given: an artifact, a corpus and its manifest."""

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace

from jobs.setup.failures import InputError, as_one_line
from jobs.setup.help_page import command_of
from jobs.setup.sections import SourceConfig
from models import artifact
from models.artifact import Artifact
from models.method import MEDIA_WORDS, Media
from pipelines.corpus.entry import EVERYTHING, Selection
from pipelines.corpus.file_kinds import Medium, medium_of
from pipelines.corpus.freshness import changes_since
from pipelines.corpus.left_out import told
from pipelines.corpus.listing import list_source
from pipelines.corpus.manifest import Manifest, open_manifest, versions
from pipelines.corpus.manifest_writer import MostlyGone, write_manifest
from pipelines.schema import AUDIO, TEXT, VIDEO
from pipelines.storage import uris


def load_artifact(uri: str, key: str = "artifact") -> Artifact:
    """Load the artifact that a job was given by a key.

    Raises:
        InputError: there is none, or it is damaged.
    """
    try:
        return artifact.load(uri)
    except (ValueError, OSError) as error:
        raise InputError(f"{key} {uri} cannot be loaded: {str(error).splitlines()[0]}") from None


def make_manifest(
    source: SourceConfig | str,
    out: str,
    per_video: int | None = None,
    *,
    medium: Medium | None = None,
    max_gone_fraction: float = 1.0,
    gone_key: str = "max_gone_fraction",
) -> Manifest:
    """List a source into a manifest at an absolute URI; what is not given is as it was listed
    before.

    Args:
        source: What to list, or its URI alone.
        out: Where the manifest lies or shall lie.
        per_video: Samples of each video.
        medium: What is a sample where `source` does not say.
        max_gone_fraction: Of the samples of the version before, the most that may be gone.
        gone_key: What the command line calls that.

    Raises:
        InputError: the source is missing, refused or holds no samples, or somebody else wrote the
            version meanwhile.
    """
    source = _given(source)
    uri = uris.absolute(source.uri)
    check_version(source, [])  # a new one is made
    listed = open_manifest(out).selection if versions(out) else EVERYTHING
    selection = _selection(source, per_video, listed, medium)
    with as_one_line():
        tables = list_source(uri, selection)
        try:
            manifest = write_manifest(
                out, uri, tables, selection, max_gone_fraction=max_gone_fraction
            )
        except MostlyGone as error:
            raise InputError(f"{error}, or accept that with {gone_key}=1") from None
    left = told(manifest.left_out)
    print(
        f"indexed {manifest.num_rows} samples of {uri}{f'; left out: {left}' if left else ''}",
        file=sys.stderr,
    )
    return manifest


def _given(source: SourceConfig | str) -> SourceConfig:
    return SourceConfig(uri=source) if isinstance(source, str) else source


def _selection(
    source: SourceConfig, per_video: int | None, listed: Selection, medium: Medium | None
) -> Selection:
    """Return what is to be a sample: what is given, else what was listed before."""
    return Selection(
        per_video=listed.per_video if per_video is None else per_video,
        members=listed.members if source.members is None else source.members,
        any_name=listed.any_name if source.any_name is None else source.any_name,
        medium=source.media or medium or listed.medium,
        text_columns=listed.text_columns if source.text_columns is None else source.text_columns,
    )


def manifest_of(
    source: SourceConfig | str,
    fallback: str,
    per_video: int | None = None,
    medium: Medium | None = None,
) -> Manifest:
    """Open the manifest of a source: the source itself where it is one, else the one at `fallback`,
    made if missing.

    Raises:
        InputError: the source is missing, refused or holds no samples; or it was listed with other
            clips, members or names than asked for; or it has no such version.
    """
    source = _given(source)
    uri = uris.absolute(source.uri)
    there = versions(uri)
    check_version(source, there)
    place = uri if there else fallback
    if not versions(place):
        return make_manifest(source, fallback, per_video, medium=medium)
    manifest = open_manifest(place, source.version)
    _check_selection(manifest, source, per_video, medium)
    if place == fallback:
        _tell_changes(manifest)
    return manifest


def check_version(source: SourceConfig, there: Sequence[int]) -> None:
    """Refuse a version that a source does not have.

    Raises:
        InputError: with those that are there.
    """
    if source.version is None or source.version in there:
        return
    why = f"it has {', '.join(map(str, there))}" if there else "it is no manifest, leave it out"
    raise InputError(f"source.version {source.version} of {source.uri}: {why}")


def check_not_older(out: str, held: int, manifest: Manifest) -> None:
    """Refuse to go back to an earlier version of a manifest than `out` holds.

    Raises:
        InputError: only source.version can have asked for that.
    """
    if held > manifest.version and held in versions(manifest.uri):
        raise InputError(
            f"out {out} holds version {held} of {manifest.uri}, and source.version"
            f" {manifest.version} is older: leave it out, or choose another out"
        )


def _tell_changes(manifest: Manifest) -> None:
    """Say in one line that a source changed since it was listed, and how to take that in."""
    try:
        changed = changes_since(manifest)
    except OSError:  # whoever reads from the source next says what is wrong with it
        return
    if changed:
        print(
            f"{manifest.source} changed since it was listed ({changed}): to take that in, "
            f"{index_command(manifest)}, then this command line again",
            file=sys.stderr,
        )


def _check_selection(
    manifest: Manifest, source: SourceConfig, per_video: int | None, medium: Medium | None
) -> None:
    listed = manifest.selection
    wanted = _selection(source, per_video, listed, medium)
    if VIDEO not in manifest.media and listed.per_video:  # no video to take another number of
        wanted = replace(wanted, per_video=listed.per_video)
    if wanted == listed:
        return
    shown = {
        "clip.per_video": (wanted.per_video, listed.per_video),
        "source.members": tuple(",".join(one.members) or "null" for one in (wanted, listed)),
        "source.any_name": (wanted.any_name, listed.any_name),
        "source.media": (wanted.medium, listed.medium),
        "source.text_columns": (
            f"[{','.join(wanted.text_columns)}]",
            f"[{','.join(listed.text_columns)}]",
        ),
    }
    key, now, then = next((key, *pair) for key, pair in shown.items() if pair[0] != pair[1])
    command = index_command(manifest, f"{key}={now}")
    raise InputError(
        f"{key} {now}, but {manifest.uri} was listed with {then}: leave it out, or list anew with"
        f" {command}"
    )


def index_command(manifest: Manifest, *more: str) -> str:
    """Return the command line that adds a version to a manifest."""
    words = [f"source.uri={manifest.source}", *more, f"out={manifest.uri}"]
    return f"{command_of('index')} {shlex.join(words)}"


def listed_already(source: str, fallback: str) -> Manifest | None:
    """Open the newest listing of a source, as it is; None where there is none yet.

    Raises:
        InputError: it is of an earlier format.
    """
    for place in (source, fallback):
        if versions(place):
            try:
                return open_manifest(place)
            except ValueError as error:
                raise InputError(str(error)) from None
    return None


def check_media(
    manifest: Manifest, *, as_frames: bool, name: str, media: Media, columns: Mapping[str, str]
) -> None:
    """Refuse a corpus whose samples are not what a method eats, or lack what it needs of them.

    Args:
        manifest: The corpus.
        as_frames: Whether videos give single frames.
        name: The method.
        media: What it eats.
        columns: Which columns it needs, and where each comes from.

    Raises:
        InputError: with what helps.
    """
    for kind, count in manifest.media.items():
        given = (
            kind
            if kind in (AUDIO, TEXT)
            else "clip"
            if kind == VIDEO and not as_frames
            else "image"
        )
        if given == media or (as_frames and media == "clip"):  # a clip in which nothing moves
            continue
        holds = f"{count} {_HELD.get(kind, f'{kind}s')}"
        raise InputError(
            f"source.uri {manifest.source} holds {holds}, and method.name={name} takes "
            f"{MEDIA_WORDS[media]}: {_REMEDIES.get((given, media), 'give it another source')}"
        )
    for column, origin in columns.items():
        if column not in manifest.columns:
            raise InputError(
                f"source.uri {manifest.source} has no column {column}, which method.name={name} "
                f"needs ({origin}): list a source that has it"
            )


def check_comparable(encoder: Artifact, other: Artifact, artifact: str, compare: str) -> None:
    """Refuse to compare an artifact with itself, or with one that sees another medium.

    Args:
        encoder: What is judged.
        other: What it would be compared with.
        artifact: What the first was given as.
        compare: What the other was given as.

    Raises:
        InputError: with what helps.
    """
    if other.digest == encoder.digest:
        raise InputError(f"compare {compare} is the encoder of artifact {artifact}: give another")
    media = (encoder.encoder.media, other.encoder.media)
    if len(set(map(medium_of, media))) > 1:
        raise InputError(
            f"compare {compare} was trained on {MEDIA_WORDS[media[1]]} and artifact {artifact} on"
            f" {MEDIA_WORDS[media[0]]}: compare encoders that see the same"
        )


_HELD = {VIDEO: "clips of videos", AUDIO: "sounds"}
_REMEDIES = {
    ("clip", "image"): "set clip.as_frames=true, or leave videos out with clip.per_video=0",
    ("image", "clip"): "list videos alone, or set clip.as_frames=true for clips of one still frame",
}
