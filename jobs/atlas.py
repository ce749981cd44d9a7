"""Draw a map of exported embeddings: one folder with a page that opens from disk, and a table that
other programs read.

The page needs no network: zoom, thumbnails under the pointer, colours by cluster, class, time or
version, and the nearest samples of any sample.
"""

import hashlib
import json
import sys
import tempfile
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

from jobs.cluster import launch
from jobs.cluster.cores import own_cores
from jobs.cluster.stream_progress import StreamProgress
from jobs.mapping import atlas_page, map_colours
from jobs.mapping.atlas_sections import AtlasConfig
from jobs.mapping.laid_out import PLACES, LaidOut, lay_out
from jobs.setup.claims import check_writable, claim, held, recorded
from jobs.setup.command_line import main
from jobs.setup.failures import InputError
from jobs.setup.inputs import listed_already
from jobs.setup.persistence import persist
from pipelines.atlas import near_points, projection, script_files, thumbnails
from pipelines.atlas.chosen import Chosen, choose
from pipelines.atlas.colours import Colour
from pipelines.atlas.near_points import Near
from pipelines.atlas.point_rows import Drawn, PointRows
from pipelines.atlas.thumbnails import Thumbnails
from pipelines.corpus.manifest import Manifest, open_manifest, versions
from pipelines.embeddings.stored import RECORD as EXPORT
from pipelines.embeddings.stored import Stored, open_stored
from pipelines.embeddings.stored_rows import digest_of
from pipelines.media.contract import Limits
from pipelines.storage import uris
from pipelines.storage.lease import Held

RECORD = "atlas.json"
MADE = "made.json"
PAGE = "index.html"
TABLE = "atlas.parquet"
DATA = "data"
OPENS = "embedding-atlas atlas.parquet --x x --y y --image image --neighbors neighbors"


def atlas(config: AtlasConfig) -> dict[str, Any]:
    """Write the page and the table.

    Returns:
        `rows` of the export, `points` on the map, `landmarks`, `unusable` rows left out, `colours`
        with their classes, `thumbnails`, `without_picture`, `recall` of the neighbours,
        `unchanged`, `page` and `table`.

    Raises:
        InputError: there are no embeddings of one encoder and one vector a sample, no manifest
            for thumbnails, no such column, or an `out` that holds something else.
    """
    projection.check_library()
    out = launch.absolute_out(config.out)
    place = launch.user_uri("embeddings", config.embeddings)
    launch.check_reachable("embeddings", place)
    stored = open_stored(place, config.column)
    stored.check_one_vector("an atlas shows", frames=False)
    map_colours.check(config.colour, stored)
    manifest = _manifest(config, stored)
    check_writable("out", out)
    with held("atlas", out) as mine:
        record = {
            "format": 1,
            "embeddings": stored.uri,
            "artifact_digest": stored.column.artifact_digest,
            **config.asked(),
        }
        claim("atlas", out, RECORD, record)
        job = _Atlas(config, stored, manifest, mine)
        if (made := job.made_before()) is not None:
            return _told(made, out, unchanged=True)
        return _told(job.run(), out, unchanged=False)


def _told(made: dict[str, Any], out: str, *, unchanged: bool) -> dict[str, Any]:
    page = uris.join(out, PAGE)
    before = "unchanged, " if unchanged else ""
    without = made["without_picture"]
    greyed = f" ({without:,} without a picture)" if without else ""
    shown = f"{made['points']:,} points, {made['thumbnails']:,} thumbnails{greyed}"
    return {
        **{name: value for name, value in made.items() if name != "digest"},
        "unchanged": unchanged,
        "page": page,
        "table": uris.join(out, TABLE),
        "result": f"{before}{shown}: {page}",
    }


def _manifest(config: AtlasConfig, stored: Stored) -> Manifest | None:
    """Open the listing of the samples; None where nobody needs it.

    Raises:
        InputError: there is none where it is looked for.
    """
    if config.manifest is not None:
        place = launch.user_uri("manifest", config.manifest)
        launch.check_reachable("manifest", place)
        if not versions(place):
            raise InputError(f"manifest {place} is none: give the out of jobs.index")
        return open_manifest(place)
    export = stored.uri.rpartition("/")[0]
    beside = uris.join(export, "manifest")
    found = listed_already(recorded(export, EXPORT, "manifest") or beside, beside)
    if found is None and config.thumbnails.most:
        raise InputError(
            f"embeddings {stored.uri} are of {stored.provenance.source}, whose manifest is gone,"
            f" and there is none at {beside}: give manifest=URI, or thumbnails.most=0"
        )
    return found


@dataclass(frozen=True)
class _Atlas:
    config: AtlasConfig
    stored: Stored
    manifest: Manifest | None
    mine: Held

    @property
    def out(self) -> str:
        return self.mine.fence.uri

    @cached_property
    def digest(self) -> str:
        """Return what the embeddings and the listing are: with others, all is made anew."""
        listed = self.manifest and [self.manifest.uri, self.manifest.version]
        text = json.dumps([digest_of(self.stored), listed, self.config.asked()])
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def folder(self) -> str:
        """Return the folder of the page's data."""
        return uris.join(self.out, DATA, self.digest)

    def made_before(self) -> dict[str, Any] | None:
        """Return what was told of the same atlas when it was made; None where it is not there."""
        place = uris.join(self.out, MADE)
        if not uris.exists(place):
            return None
        made: dict[str, Any] = json.loads(uris.read_bytes(place))
        return made if made["digest"] == self.digest else None

    def run(self) -> dict[str, Any]:
        chosen = self._chosen()
        laid = lay_out(chosen, self.folder, self.config.seed, self.config.atlas.clusters)
        near = near_points.find(
            chosen,
            self.config.atlas.neighbours,
            seed=self.config.seed,
            num_threads=own_cores(),
            tell=partial(StreamProgress().look, "finding neighbours", len(chosen.rows)),
        ).renumbered(laid.order)
        colours = map_colours.gather(self.config.colour, chosen, laid, self.manifest)
        points = self._pictured(chosen, laid)
        self.mine.check()
        made = self._write(chosen, laid, near, colours, points)
        for name in uris.list_folders(uris.join(self.out, DATA)):
            if name != self.digest:
                uris.remove(uris.join(self.out, DATA, name))
        return made

    def _chosen(self) -> Chosen:
        wanted = self.config.atlas
        chosen = choose(
            self.stored, most=wanted.points, landmarks=wanted.landmarks, seed=self.config.seed
        )
        _say(
            f"{len(chosen.rows):,} of {self.stored.num_rows:,} embeddings, a map learnt from"
            f" {len(chosen.landmarks):,} of them, seed {self.config.seed}"
        )
        if chosen.unusable:
            _say(f"{chosen.unusable} rows are left out: not finite, or zero")
        return chosen

    def _pictured(self, chosen: Chosen, laid: LaidOut) -> Any:
        """Make thumbnails; returns the points that have one, ascending."""
        wanted = map_colours.spread(len(laid.order), self.config.thumbnails.most)
        if not len(wanted) or self.manifest is None:
            return wanted[:0]
        picked = uris.join(self.folder, "picked.parquet")
        there = thumbnails.pick(self.manifest, chosen.ids[laid.order[wanted]], picked)
        if not there.all():
            _say(f"{(~there).sum()} samples are not in {self.manifest.uri}: no thumbnails of them")
        work = Thumbnails(
            self.manifest,
            picked,
            int(there.sum()),
            uris.join(self.folder, "pictures"),
            self.config.thumbnails.side,
            Limits(),
        )
        if work.missing():
            paths = (self.out, self.stored.uri, self.manifest.source)
            with launch.session(self.config.cluster, work="tasks", paths=paths):
                persist(work.missing, partial(_write_pictures, work, self.mine))
        uris.remove(picked)
        return wanted[there]

    def _write(
        self, chosen: Chosen, laid: LaidOut, near: Near, colours: list[Colour], points: Any
    ) -> dict[str, Any]:
        """Write the table, the data and, last, the page."""
        pictures = uris.join(self.folder, "pictures")
        number = map_colours.numbered(len(laid.order), points)
        more = map_colours.table_columns(colours, laid)
        drawn = Drawn(laid.positions, laid.order, near, more, number, pictures)
        _say("writing the table and the page")
        with tempfile.TemporaryDirectory(prefix="afield-atlas-") as scratch:
            rows = PointRows(chosen, drawn, scratch)
            unreadable = rows.write(uris.join(self.out, TABLE), uris.join(self.folder, "rows"))
        script_files.write(
            uris.join(self.folder, "points.js"), "points", script_files.packed(laid.positions)
        )
        for index, colour in enumerate(colours):
            name = uris.join(self.folder, f"colour-{index:02d}.js")
            script_files.write(name, "colour", index, script_files.packed(colour.codes))
        script_files.write(
            uris.join(self.folder, "pictured.js"),
            "pictured",
            script_files.packed(points.astype("uint32")),
        )
        made = {
            "rows": self.stored.num_rows,
            "points": len(laid.order),
            "landmarks": len(chosen.landmarks),
            "unusable": chosen.unusable,
            "colours": [one.told() for one in colours],
            "thumbnails": len(points) - unreadable,
            "without_picture": unreadable,
            "neighbours": self.config.atlas.neighbours,
            "recall": round(near.recall, 4),
            "opens_in_embedding_atlas": OPENS,
            "digest": self.digest,
        }
        self.mine.fence.check()
        drawn_page = atlas_page.draw(self.stored, made, f"{DATA}/{self.digest}")
        uris.write_bytes(uris.join(self.out, PAGE), drawn_page)
        uris.write_bytes(uris.join(self.out, MADE), json.dumps(made).encode())
        uris.remove(uris.join(self.folder, PLACES))
        return made


def _write_pictures(work: Thumbnails, mine: Held, missing: list[int]) -> None:
    for _ in work.write(missing):
        mine.check()


def _say(line: str) -> None:
    print(line, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main("atlas", __doc__ or "", lambda values: (AtlasConfig, values), atlas))
