"""How far an export is: which version of the manifest its parts shall hold, and which they do."""

import json
import sys
from dataclasses import asdict, dataclass, replace

from jobs.setup.failures import InputError
from jobs.setup.inputs import check_not_older
from pipelines.corpus.manifest import Manifest, open_manifest, versions
from pipelines.embeddings import upkeep
from pipelines.embeddings.part_files import PartFiles
from pipelines.embeddings.parts import LiveRows, Range, changed, returned, uncovered
from pipelines.embeddings.stored import PROGRESS
from pipelines.storage import uris
from pipelines.storage.lease import Fence


@dataclass(frozen=True)
class Progress:
    """What `out/progress.json` holds.

    Attributes:
        manifest_version: That the parts shall hold.
        listed: When that version was listed: another manifest at the same place is told by it.
        ranges: Stored rows that no part answered for when work on the version began; they are cut
            into parts alike in every run.
        complete: The version that all parts are known to hold; None: none yet.
    """

    manifest_version: int
    listed: str
    ranges: tuple[Range, ...]
    complete: int | None = None

    @property
    def is_complete(self) -> bool:
        """Tell whether nothing is left to do."""
        return self.complete == self.manifest_version

    def write(self, out: str, fence: Fence) -> None:
        """Write it, if the lease is still held."""
        fence.check()
        uris.write_bytes(uris.join(out, PROGRESS), json.dumps(asdict(self)).encode())

    def completed(self) -> "Progress":
        """Return what it is once all parts hold its version."""
        return replace(self, complete=self.manifest_version)


def begin(out: str, manifest: Manifest, files: PartFiles, fence: Fence) -> Progress:
    """Take up an export: where the manifest has a newer version, plan what that asks for.

    Raises:
        InputError: the manifest is not the one that was embedded, or an earlier version of it.
    """
    place = uris.join(out, PROGRESS)
    before = _read(place) if uris.exists(place) else None
    if before is not None:
        _check_continues(out, before, manifest)
        if before.manifest_version == manifest.version:
            return before
    for rows in _returned(before, files, manifest):
        fence.check()
        files.remove(rows)
    ranges = tuple(uncovered((0, manifest.num_stored), files.there()))
    progress = Progress(
        manifest.version, manifest.listed, ranges, before.complete if before else None
    )
    if before is not None:
        _tell(before, manifest, ranges)
    progress.write(out, fence)
    return progress


def _read(place: str) -> Progress:
    told = json.loads(uris.read_bytes(place))
    ranges = tuple((int(start), int(stop)) for start, stop in told.pop("ranges"))
    return Progress(ranges=ranges, **told)


def _returned(before: Progress | None, files: PartFiles, manifest: Manifest) -> list[Range]:
    """List the parts that may lack samples which curation took out and that are back."""
    told = {before.manifest_version, before.complete} if before else set()
    known = [one for one in versions(manifest.uri) if one in told and one < manifest.version]
    lacking = set[Range]()
    for version in known:
        lacking.update(returned(files.there(), manifest, open_manifest(manifest.uri, version)))
    return sorted(lacking)


def _check_continues(out: str, before: Progress, manifest: Manifest) -> None:
    held = before.manifest_version
    check_not_older(out, held, manifest)
    if held > manifest.version or (held == manifest.version and before.listed != manifest.listed):
        raise InputError(
            f"out {out} holds version {held} of another manifest than"
            f" {manifest.uri}, which has version {manifest.version}: choose another out"
        )


def _tell(before: Progress, manifest: Manifest, ranges: tuple[Range, ...]) -> None:
    live = LiveRows(manifest)
    number = sum(live.before(stop) - live.before(start) for start, stop in ranges)
    print(
        f"manifest version {manifest.version}, after version {before.manifest_version}:"
        f" {number:,} samples to embed",
        file=sys.stderr,
    )


def drop_gone(progress: Progress, files: PartFiles, manifest: Manifest, fence: Fence) -> int:
    """Take out of the parts what is gone since the version that they are known to hold; returns
    how many samples went."""
    known = None
    if progress.complete is not None and progress.complete in versions(manifest.uri):
        known = open_manifest(manifest.uri, progress.complete)
    touched = changed(files.there(), manifest, known)
    return upkeep.drop_gone(upkeep.Upkeep(files, manifest, fence), touched)
