"""Take duplicates, outliers, captions that do not fit and what is too frequent out of a corpus: a
new version of its manifest, with a reason for every sample that went.

The embeddings that jobs.export wrote say what is alike. Whatever reads a manifest reads the new
version as any other; undo=true brings everything back.
"""

import hashlib
import io
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from jobs.cluster import launch
from jobs.curating import curate_page
from jobs.curating.curate_sections import CurateConfig
from jobs.curating.judged import belongs, fit_of, open_embeddings, own_manifest
from jobs.setup.claims import check_writable, differing, held
from jobs.setup.command_line import main
from jobs.setup.failures import InputError
from pipelines import schema
from pipelines.corpus.curated_version import Counts, counted, stay, whole, write_curated
from pipelines.corpus.manifest import Manifest, open_manifest, versions
from pipelines.curation.assigned import Assignment, assign, learn_centres, num_buckets
from pipelines.curation.balance import at_top, evenness
from pipelines.curation.caption_fit import CaptionFit
from pipelines.curation.centres import Centres
from pipelines.curation.decisions import Decisions, Rules
from pipelines.curation.duplicates import Gone, Looking, NearPairs, find, nothing_gone
from pipelines.curation.near_pairs import find_pairs
from pipelines.embeddings.stored import Stored
from pipelines.embeddings.stored_rows import digest_of
from pipelines.motion.curve_files import carry
from pipelines.storage import uris
from pipelines.storage.lease import Held

FOLDER = "curated"
WORK = "work-"
CENTRES = "centres.npz"


def curate(config: CurateConfig) -> dict[str, Any]:
    """Write the version without what goes, or the one with everything back.

    Returns:
        `rows`, `version`, `unchanged`, `taken_out` by reason, `reasons` (the table), and where a
        version was made what was measured and its `page`.

    Raises:
        InputError: the source is no manifest, or the embeddings are not of it.
    """
    out = launch.absolute_out(config.out)
    source = launch.user_uri("source.uri", config.source.uri)
    launch.check_reachable("source.uri", source)
    check_writable("out", out)
    if config.source.value_range == "percentiles":
        raise InputError("source.value_range percentiles is not measured here: give [LOW,HIGH]")
    stored = open_embeddings(config)
    paths = (out, source, *(() if stored is None else (stored.uri,)))
    with held("curate", uris.join(out, FOLDER)) as mine:
        before = own_manifest(source, out)
        if stored is None:
            return _undone(before)
        belongs(stored, before)
        job = _Curation(config, before, stored, mine, fit_of(config, before, stored))
        if before.curation == job.record:
            begun = _one_before(before)
            if begun is None or begun.curation == job.record:  # handed on by a listing
                return _told(before, _reasons(before), unchanged=True)
            job = replace(job, before=begun, fit=fit_of(config, begun, stored))
            if job.is_finished(before):
                return _told(before, _reasons(before), unchanged=True)
            print(f"version {before.version} is there: finishing its page", file=sys.stderr)
            with launch.session(config.cluster, work="tasks", paths=paths):
                return job.finish(before)
        with launch.session(config.cluster, work="tasks", paths=paths):
            return job.run()


def _undone(before: Manifest) -> dict[str, Any]:
    """Bring back all that curation took out."""
    if before.taken_out is None:
        if (begun := _one_before(before)) is not None:
            carry(before.uri, begun.version, before.version)
        return _told(before, {}, unchanged=True)
    made, counts = _written(before, map(stay, before.read_taken_out()), {})
    return _told(made, counts.reasons, unchanged=False, back=made.diff.added)


def _one_before(made: Manifest) -> Manifest | None:
    """Open the version before, where the same is listed in it."""
    if made.version - 1 not in versions(made.uri):
        return None
    begun = open_manifest(made.uri, made.version - 1)
    same = [part.path for part in begun.parts] == [part.path for part in made.parts]
    return begun if same else None


def _page_of(made: Manifest) -> str | None:
    """Return the place of a version's page; None where nothing is taken out."""
    if made.taken_out is None:
        return None
    return uris.join(made.uri, made.taken_out.removesuffix(".parquet") + ".html")


def _written(
    before: Manifest, decided: Iterable[pa.Table], record: dict[str, Any]
) -> tuple[Manifest, Counts]:
    """Write the next version, whose videos are known as those of the one before are."""
    made, counts = write_curated(before, decided, record)
    carry(made.uri, before.version, made.version)
    return made, counts


def _reasons(manifest: Manifest) -> dict[str, int]:
    """Count what is out of a version, by reason."""
    counts = Counter[str]()
    for table in manifest.read_taken_out():
        counts.update(table[schema.REASON].to_pylist())
    return dict(counts)


def _told(
    made: Manifest, reasons: dict[str, int], *, unchanged: bool, **more: Any
) -> dict[str, Any]:
    shown = ", ".join(f"{count:,} x {reason}" for reason, count in sorted(reasons.items()))
    what = f"without {shown}" if shown else "nothing is taken out"
    return {
        "rows": made.num_rows,
        "version": made.version,
        "unchanged": unchanged,
        "taken_out": reasons,
        "reasons": made.taken_out and uris.join(made.uri, made.taken_out),
        **more,
        "result": (
            f"{made.num_rows:,} samples, version {made.version}"
            f" ({'unchanged, ' if unchanged else ''}{what}): {made.uri}"
        ),
    }


@dataclass(frozen=True)
class _Curation:
    config: CurateConfig
    before: Manifest
    stored: Stored
    mine: Held
    fit: CaptionFit | None

    @cached_property
    def record(self) -> dict[str, Any]:
        """Return what makes two curations the same."""
        parts = json.dumps([part.path for part in self.before.parts])
        listing = hashlib.sha256(parts.encode()).hexdigest()[:16]
        seen = {"embeddings": digest_of(self.stored), "listing": listing}
        asked: dict[str, Any] = json.loads(json.dumps(self.config.asked() | seen))
        return asked

    @cached_property
    def work(self) -> str:
        """Return the folder of what is not finished, below the manifest."""
        digest = hashlib.sha256(json.dumps(self.record, sort_keys=True).encode()).hexdigest()
        return f"{FOLDER}/{WORK}{digest[:12]}"

    def run(self) -> dict[str, Any]:
        self._tell_before()
        return self._made(
            lambda tables: _written(self.before, tables, self.record), unchanged=False
        )

    def is_finished(self, made: Manifest) -> bool:
        """Tell whether the version that this made has its page; do what else a killed command has
        left to do."""
        carry(made.uri, self.before.version, made.version)
        page = _page_of(made)
        if page is not None and not uris.exists(page):
            return False
        self._clear()
        return True

    def finish(self, made: Manifest) -> dict[str, Any]:
        """Draw the page of a version that is there."""
        return self._made(lambda tables: (made, counted(self.before, tables)), unchanged=True)

    def _made(
        self,
        write: Callable[[Iterable[pa.Table]], tuple[Manifest, Counts]],
        *,
        unchanged: bool,
    ) -> dict[str, Any]:
        """Decide, write the version, and draw its page."""
        self._clear(but=self.work.rpartition("/")[2])
        with tempfile.TemporaryDirectory(prefix="afield-curate-") as folder:
            work = self._assigned()
            gone = self._duplicates(work, folder)
            rules = Rules(
                self.config.outliers.max_distance,
                self.config.balance.num_samples,
                self.config.seed,
                self.config.captions.min_cosine,
                self.config.captions.keep_fraction,
            )
            decisions = Decisions(work, gone, rules, folder)
            self.mine.check()
            made, counts = write(decisions.tables())
        found = self._measured(work.centres, decisions, gone, counts)
        page = _page_of(made)
        if page is not None:
            told = found | {"taken_out": counts.reasons}
            drawn = curate_page.draw(made, self.before, decisions, self.record, told, self.fit)
            uris.write_bytes(page, drawn)
        self._clear()
        return _told(made, counts.reasons, unchanged=unchanged, **found, page=page)

    def _tell_before(self) -> None:
        """Say what is different from the curation before."""
        told = self.before.curation
        if told and (different := differing(told, self.record)):
            print(
                f"version {self.before.version} was curated otherwise: {', '.join(different)};"
                " the next one is made of all that is listed",
                file=sys.stderr,
            )

    def _clear(self, but: str = "") -> None:
        """Delete what curations that were stopped, or this one, have left."""
        folder = uris.join(self.before.uri, FOLDER)
        for name in uris.list_folders(folder):
            if name.startswith(WORK) and name != but:
                uris.remove(uris.join(folder, name))

    def _assigned(self) -> Assignment:
        """Learn clusters and put every sample into one, or go on with that."""
        work = uris.join(self.before.uri, self.work)
        least = self.config.duplicates.min_cosine
        centres = self._centres(uris.join(work, CENTRES))
        count = len(centres.lowest)
        buckets = num_buckets(self.stored.num_rows, self.stored.dim, count)
        made = Assignment(self.stored, centres, work, buckets, least or 1.0, self.fit)
        assign(made)
        return made

    def _centres(self, place: str) -> Centres:
        if uris.exists(place):
            with np.load(io.BytesIO(uris.read_bytes(place))) as kept:
                levels = [kept[name] for name in sorted(kept.files)]
            return Centres(levels[0], tuple(levels[1:]))
        centres = learn_centres(self.stored, self.config.balance.clusters, self.config.seed)
        levels = [centres.lowest, *centres.parents]
        buffer = io.BytesIO()
        np.savez(buffer, **{f"level{number:02d}": one for number, one in enumerate(levels)})
        uris.write_bytes(place, buffer.getvalue())
        return centres

    def _duplicates(self, work: Assignment, folder: str) -> Gone:
        wanted = self.config.duplicates
        if wanted.min_cosine is None:
            return nothing_gone()
        find_pairs(work)
        everything = whole(self.before, f"{self.work}/listed.parquet")
        looking = Looking(
            everything,
            self.config.source.limits(),
            wanted.min_alike,
            f"{self.work}/suspects.parquet",
            folder,
        )
        return find(NearPairs.read(work), looking)

    def _captions(self, decisions: Decisions) -> dict[str, Any]:
        """Say how many samples have captions, and below which cosine they do not fit."""
        if self.fit is None:
            return {}
        unfit = decisions.unfit
        return {
            "captioned": int(decisions.fits.sum()),
            "least_caption_cosine": None if unfit is None else round(unfit, 4),
        }

    def _measured(
        self, centres: Centres, decisions: Decisions, gone: Gone, counts: Counts
    ) -> dict[str, Any]:
        """Say what was found, in numbers."""
        return {
            "listed": counts.listed,
            "embedded": int(decisions.before.sum()),
            "without_embedding": counts.unjudged,
            "clusters": [len(centres.lowest), *(int(one.max()) + 1 for one in centres.parents)],
            "looked_at": gone.looked_at,
            "unreadable": gone.unreadable,
            **self._captions(decisions),
            "evenness_before": round(evenness(at_top(decisions.before, centres.parents)), 4),
            "evenness_after": round(evenness(at_top(decisions.after, centres.parents)), 4),
            "largest_cluster_before": int(decisions.before.max()),
            "largest_cluster_after": int(decisions.after.max()),
        }


if __name__ == "__main__":
    sys.exit(main("curate", __doc__ or "", lambda values: (CurateConfig, values), curate))
