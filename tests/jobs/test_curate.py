"""jobs.curate: what is planted goes, with its reason; the rest stays; undo brings all back; and
training sees nothing twice over all of these versions."""

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageOps

from jobs.curate import curate
from jobs.curating import curate_page
from jobs.curating.curate_sections import CurateConfig
from jobs.export import export
from jobs.exporting.export_sections import ExportConfig
from jobs.index import IndexConfig, index
from jobs.setup.failures import InputError
from models import artifact
from pipelines import schema
from pipelines.corpus.manifest import Manifest, open_manifest
from pipelines.stream.ledger import Ledger, Span
from pipelines.stream.plan import Plan
from tests.captioned import TEXTS, save_captioned

ORIGINALS = 80
PLANTED = 12  # copies of each kind
KINDS = ("same", "encoded", "resized", "cropped", "mirrored")


def plant(original: Path, kind: str, out: Path) -> None:
    """Write a copy of a photograph."""
    image = Image.open(original).convert("RGB")
    width, height = image.size
    if kind == "same":
        shutil.copy(original, out)
    elif kind == "encoded":
        image.save(out, quality=40)
    elif kind == "resized":
        image.resize((width * 7 // 10, height * 7 // 10), Image.Resampling.BICUBIC).save(out)
    elif kind == "cropped":  # 5 % of each side, off one corner
        image.crop((width // 20, height // 20, width, height)).save(out)
    else:
        ImageOps.mirror(image).save(out)


@pytest.fixture(scope="module")
def corpus(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs' crops `07.jpg`, and copies of some, `07-mirrored.jpg`."""
    root = tmp_path_factory.mktemp("corpus")
    for number, path in enumerate(sorted(image_folder.rglob("*.jpg"))[::2][:ORIGINALS]):
        shutil.copy(path, root / f"{number:02d}.jpg")
    for number in range(PLANTED * len(KINDS)):
        kind = KINDS[number % len(KINDS)]
        plant(root / f"{number:02d}.jpg", kind, root / f"{number:02d}-{kind}.jpg")
    return root


@pytest.fixture(scope="module")
def even_handed(small_artifact: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An untrained encoder that does not tell left from right, as training with flips makes one."""
    uri = str(tmp_path_factory.mktemp("even"))
    encoder = artifact.load(small_artifact).encoder
    for value in encoder.parameters():
        if value.ndim == 4:
            value.data = (value.data + value.data.flip(-1)) / 2
    told = json.loads((Path(small_artifact) / "artifact.json").read_text())
    artifact.save(uri, encoder, config=told["config"], preprocess=told["preprocess"], provenance={})
    return uri


def config(manifest: Path, **more: Any) -> CurateConfig:
    values = {"source": {"uri": str(manifest)}, "out": str(manifest)}
    return CurateConfig.model_validate(values | more)


def rows(manifest: Manifest) -> dict[int, int]:
    """Return each sample's row."""
    tables = [manifest.read_row_group(part, group) for part, group, _ in manifest.row_groups()]
    table = pa.concat_tables(tables)
    return dict(
        zip(table[schema.SAMPLE_ID].to_pylist(), table[schema.ROW].to_pylist(), strict=True)
    )


def check_what_went(went: list[dict[str, Any]], whole: Manifest) -> None:
    """Precision and recall, and that what stays for a copy is of the same original."""
    table = pa.concat_tables(whole.places())
    ids = table[schema.SAMPLE_ID].to_pylist()
    names = [Path(uri).stem for uri in table[schema.URI].to_pylist()]
    name_of = dict(zip(ids, names, strict=True))
    gone = [name_of[row[schema.SAMPLE_ID]] for row in went]
    kept = [name_of[row["kept"]] for row in went]
    assert not set(gone) & set(kept)
    right = [a.partition("-")[0] == b.partition("-")[0] for a, b in zip(gone, kept, strict=True)]
    assert sum(right) >= 0.95 * len(gone)
    planted = {name for name in names if "-" in name}
    found = {name for name in (*gone, *kept) if "-" in name}  # of a pair, either may go
    assert len(found) >= 0.95 * len(planted), sorted(planted - found)
    assert not [name for name in gone if name.partition("-")[0] + "-resized" in kept]
    reasons = {name_of[row[schema.SAMPLE_ID]]: row[schema.REASON] for row in went}
    assert Counter(reasons.values())["exact duplicate"] == PLANTED


def check_nothing_is_shown_twice(uri: str) -> None:
    """Read an epoch that begins with all samples, goes on without those that went, then with
    all."""
    spans = tuple(Span(20 * number, version, 1) for number, version in enumerate((1, 2, 3)))
    plan = Plan.open(uri, Ledger(40, spans), seed=3)
    shown = pa.concat_tables(plan.rows(0, plan.positions(1)))
    assert max(Counter(shown[schema.SAMPLE_ID].to_pylist()).values()) == 1
    assert shown.num_rows > ORIGINALS


@pytest.mark.long
def test_planted_copies_go_with_their_reasons_and_undo_brings_them_back(
    corpus: Path,
    even_handed: str,
    tmp_path: Path,
    ray_session: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def dies(*_: object) -> bytes:
        raise KeyboardInterrupt

    place = tmp_path / "m"
    listing = IndexConfig.model_validate({"source": {"uri": str(corpus)}, "out": str(place)})
    index(listing)
    words = {"artifact": even_handed, "source": {"uri": str(place)}, "part_rows": 64}
    exporting = ExportConfig.model_validate(words | {"out": str(tmp_path / "e")})
    export(exporting)
    embeddings = str(tmp_path / "e")
    before = open_manifest(str(place))

    with monkeypatch.context() as patched:
        patched.setattr(curate_page, "draw", dies)
        with pytest.raises(KeyboardInterrupt):
            curate(config(place, embeddings=embeddings))
    assert open_manifest(str(place)).version == 2 and list((place / "curated").glob("work-*"))
    told = curate(config(place, embeddings=embeddings))  # finishes what is there
    assert told["unchanged"]
    curated = open_manifest(str(place))
    check_what_went(pq.read_table(told["reasons"]).to_pylist(), before)
    assert curated.version == 2 and curated.num_rows == told["rows"] == curated.media["image"]
    assert Path(told["page"]).read_bytes().count(b"data:image/") == 3
    assert not list((place / "curated").glob("work-*"))

    assert curate(config(place, embeddings=embeddings))["unchanged"]
    assert index(listing)["version"] == 2  # what went stays out when the source is listed anew
    assert export(exporting)["gone"] == before.num_rows - curated.num_rows

    assert curate(config(place, undo=True))["version"] == 3
    back = open_manifest(str(place))
    assert rows(back) == rows(before) and back.taken_out is None
    assert curate(config(place, undo=True))["unchanged"]
    assert export(exporting)["samples"] > 0  # of parts without what is back, written anew
    assert pq.read_table(tmp_path / "e" / "embeddings").num_rows == before.num_rows
    check_nothing_is_shown_twice(str(place))

    few = {"duplicates": {"min_cosine": None}, "balance": {"num_samples": 40, "clusters": 5}}
    other = {"source": {"uri": str(place)}, "out": str(tmp_path / "other")}
    even = curate(config(place, embeddings=embeddings, **few, **other))
    assert even["rows"] == 40 and even["taken_out"] == {"balance": before.num_rows - 40}
    assert even["evenness_after"] > even["evenness_before"]
    assert even["largest_cluster_after"] < even["largest_cluster_before"]
    assert open_manifest(str(place)).version == 3
    assert rows(open_manifest(str(tmp_path / "other"), 3)) == rows(before)

    shutil.copy(corpus / "00.jpg", corpus / "new.jpg")
    index(listing)
    with pytest.raises(InputError, match=r"of version 3, and .* lists other samples: run the same"):
        curate(config(place, embeddings=embeddings))


@pytest.mark.slow
def test_captions_that_do_not_fit_go_and_the_page_says_what_they_say(
    corpus: Path, tmp_path: Path, ray_session: None
) -> None:
    place = tmp_path / "m"
    index(IndexConfig.model_validate({"source": {"uri": str(corpus)}, "out": str(place)}))
    encoder = str(tmp_path / "pairs")
    save_captioned(encoder)
    words = {"artifact": encoder, "source": {"uri": str(place)}, "form": "joint"}
    export(ExportConfig.model_validate(words | {"out": str(tmp_path / "e")}))
    table = tmp_path / "captions.csv"
    names = sorted(path.name for path in corpus.iterdir())
    lines = [f"{name},{TEXTS[index % len(TEXTS)]}" for index, name in enumerate(names[:-5])]
    table.write_text("\n".join(["file,caption", *lines]))
    source = {"uri": str(place), "captions": str(table)}
    asked = {
        "embeddings": str(tmp_path / "e"),
        "source": source,
        "duplicates": {"min_cosine": None},
        "captions": {"keep_fraction": 0.75},
    }
    told = curate(config(place, **asked))
    gone = told["taken_out"]["caption does not fit"]
    assert told["captioned"] == len(names) - 5
    assert gone == pytest.approx(0.25 * (len(names) - 5), abs=3)
    assert told["rows"] == len(names) - gone
    went = pq.read_table(told["reasons"]).to_pylist()
    assert max(row["cosine"] for row in went) <= told["least_caption_cosine"] + 1e-3
    page = Path(told["page"]).read_text()
    assert "How well captions fit" in page and TEXTS[0] in page
    assert curate(config(place, **asked))["unchanged"]
    with pytest.raises(InputError, match=r"need source\.captions"):
        curate(config(place, **asked | {"source": {"uri": str(place)}}))
    with pytest.raises(InputError, match=r"source\.captions .* has no effect here without"):
        curate(config(place, **asked | {"captions": {}}))
