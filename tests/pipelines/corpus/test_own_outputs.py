"""Folders that this project wrote into a source are one left-out entry each, wherever the source
lies."""

from pathlib import Path

import pytest

from pipelines.corpus import listing, local_files, object_keys
from pipelines.corpus.entry import EVERYTHING
from pipelines.corpus.listed_rows import rows_of
from pipelines.storage import uris
from tests.object_store import ObjectStore

RUN = ["config.yaml", "env.json", "report/loss.png", "checkpoints/checkpoint_000001/model.pt"]
PACK = ["pack.json", "plan.parquet", "shards/000000.tar", "done/000000.parquet", "manifest/x"]
EXPORT = ["export.json", "embeddings/part-0.parquet", "quarantine/0.parquet"]
MANIFEST = ["versions/000001.json", "parts/000001-abc-00000.parquet"]
OWN = {
    "a/run": "folder of a run (jobs.pretrain)",
    "a/deep/packed": "folder of a pack (jobs.pack)",
    "exported": "folder of an export (jobs.export)",
    "m": "manifest (jobs.index)",
}
# What looks a little like it and is a corpus.
ORDINARY = [
    *("a/1.jpg", "a/config.yaml.jpg", "report/2.png", "a/shards/3.jpg", "m2/versions/4.jpg"),
    *("m2/parts/5.jpg", "a/samples/6.jpg", "b/pack.json.png", "versions/7.jpg", "z/manifest/8.jpg"),
]


def names() -> list[str]:
    files = {"a/run": RUN, "a/deep/packed": PACK, "exported": EXPORT, "m": MANIFEST}
    own = [f"{folder}/{name}" for folder, below in files.items() for name in below]
    return [*own, *ORDINARY, "a/run/artifact/model.safetensors", "b/config.yaml"]


def told(uri: str) -> tuple[list[str], dict[str, str]]:
    """Samples, and what is left out with its reason; each once."""
    entries = [e for p in listing._places(uri, one_of_many=False) for e in listing._entries(p)]
    rows = list(rows_of(entries, EVERYTHING))
    assert len({row["uri"] for row in rows}) == len(rows)
    short = {row["uri"].removeprefix(uri).lstrip("/"): row["left_out"] for row in rows}
    return sorted(n for n, r in short.items() if r is None), {n: r for n, r in short.items() if r}


EXPECTED = (sorted(ORDINARY), OWN | {"b/config.yaml": "no image (.yaml)"})


@pytest.mark.parametrize("wanted_places", [1, 64])
def test_they_are_left_out_of_folders(
    wanted_places: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(local_files, "WANTED_PLACES", wanted_places)
    for name in names():
        uris.write_bytes(f"{tmp_path}/{name}", b"x")
    assert told(str(tmp_path)) == EXPECTED
    # What the user names is taken at its word.
    assert told(f"{tmp_path}/a/run")[0] == ["report/loss.png"]
    assert [place.root for place in listing._places(f"{tmp_path}/a/run", one_of_many=True)] == [
        len(f"{tmp_path}/a/run")
    ]


def test_they_are_left_out_of_buckets_however_those_are_cut(
    object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    object_store.make_bucket("own")
    fs = object_store.filesystem()
    fs.pipe(
        {f"own/in/{name}": b"x" for name in names() if name != "a/deep/packed/shards/000000.tar"}
    )
    fs.pipe_file("own/in/a/deep/packed/shards/000000.tar", b"\0" * 1024)
    assert told("s3://own/in") == EXPECTED
    assert told("s3://own/in/a/run")[0] == ["report/loss.png"]
    page = object_keys._page
    monkeypatch.setattr(
        object_keys, "_page", lambda *args, **options: page(*args, **{"MaxKeys": 3} | options)
    )
    places = listing._places("s3://own/in", one_of_many=False)
    assert len(places) > 5
    entries = [entry for place in places for entry in listing._entries(place)]
    assert sum(entry.problem in OWN.values() for entry in entries) == len(OWN)


def test_they_are_left_out_of_any_filesystem() -> None:
    for name in names():
        uris.write_bytes(f"memory://own/{name}", b"x")
    assert told("memory://own") == EXPECTED


def test_the_requests_do_not_grow_with_the_keys(
    object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    object_store.make_bucket("plain")
    fs = object_store.filesystem()
    fs.pipe({f"plain/in/report/{i}/{j}.jpg": b"x" for i in range(8) for j in range(8)})
    asked: list[str] = []
    page = object_keys._page

    def counted(fs: object, bucket: str, stem: str, **options: object) -> dict[str, object]:
        asked.append(stem)
        return page(fs, bucket, stem, **options)  # type: ignore[arg-type]

    (place,) = listing._places("s3://plain/in", one_of_many=False)
    monkeypatch.setattr(object_keys, "_page", counted)
    assert len(list(listing._entries(place))) == 64
    assert asked == ["in/"]  # the source itself is not judged, so nothing below it gave cause
