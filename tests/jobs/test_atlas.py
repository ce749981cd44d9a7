"""jobs.atlas: the table and the page of a small export, and the page in a real browser."""

import importlib.util
import io
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from jobs.atlas import atlas
from jobs.export import export
from jobs.exporting.export_sections import ExportConfig
from jobs.index import IndexConfig, index
from jobs.mapping.atlas_sections import AtlasConfig
from jobs.setup.command_line import main
from pipelines import schema
from tests.object_store import ObjectStore

# found, not imported: it would set how many threads every later test has
pytestmark = [
    pytest.mark.skipif(not importlib.util.find_spec("pacmap"), reason="pacmap is missing"),
    pytest.mark.long,
]
HOSTILE = '<img src=x onerror="document.title=1">.jpg'
FOLDER = "<i id=pwned>"
GONE = "scene0-03.jpg"
K = 4


@pytest.fixture(scope="module")
def exported(
    image_folder: Path,
    small_artifact: str,
    tmp_path_factory: pytest.TempPathFactory,
    ray_session: None,
) -> Path:
    """An export of a manifest of two versions, a name of which is markup; one file is gone."""
    root = tmp_path_factory.mktemp("atlas")
    manifest = {"source": {"uri": str(root / "corpus")}, "out": str(root / "m")}
    for version, scenes in ((1, ("scene0", "scene3")), (2, ("scene6",))):
        for scene in scenes:
            folder = root / "corpus" / scene
            folder.mkdir(parents=True)
            for path in sorted((image_folder / scene).glob("*.jpg")):
                shutil.copy(path, folder / f"{scene}-{path.name}")
        if version == 2:
            (root / "corpus" / FOLDER).mkdir()
            shutil.copy(image_folder / "scene1" / "01.jpg", root / "corpus" / FOLDER / HOSTILE)
        assert index(IndexConfig.model_validate(manifest))["version"] == version
    words = {"artifact": small_artifact, "source": {"uri": str(root / "m")}, "part_rows": 32}
    export(ExportConfig.model_validate(words | {"out": str(root / "e")}))
    (root / "corpus" / "scene0" / GONE).unlink()
    return root


def config(exported: Path, **more: Any) -> AtlasConfig:
    values = {"embeddings": str(exported / "e"), "out": str(exported / "a")}
    map_of = {"landmarks": 40, "clusters": 5, "neighbours": K}
    return AtlasConfig.model_validate(values | {"atlas": map_of} | more)


@pytest.fixture(scope="module")
def made(exported: Path) -> dict[str, Any]:
    return atlas(config(exported))


def nearest(exported: Path) -> dict[int, list[int]]:
    """Return the ids of the samples nearest to each, by NumPy."""
    table = pq.read_table(exported / "e" / "embeddings")
    vectors = np.stack(table[schema.EMBEDDING].to_pylist()).astype(np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    ids = table[schema.SAMPLE_ID].to_numpy()
    cosine = vectors @ vectors.T
    np.fill_diagonal(cosine, -2)
    return dict(zip(ids.tolist(), ids[np.argsort(-cosine, axis=1)[:, :K]].tolist(), strict=True))


def test_the_table_tells_places_neighbours_clusters_versions_and_pictures(
    exported: Path, made: dict[str, Any]
) -> None:
    table = pq.read_table(made["table"])
    assert made["points"] == made["rows"] == table.num_rows == 61
    assert made["landmarks"] == 40 and made["recall"] == 1
    assert (made["thumbnails"], made["without_picture"]) == (60, 1)
    ids = table[schema.SAMPLE_ID].to_pylist()
    near = {
        each: [ids[row] for row in one["ids"]]
        for each, one in zip(ids, table["neighbors"].to_pylist(), strict=True)
    }
    assert near == nearest(exported)
    places = np.stack([table["x"].to_numpy(), table["y"].to_numpy()], axis=1)
    assert np.isfinite(places).all() and len(np.unique(places, axis=0)) > 50

    names = [Path(uri).name for uri in table[schema.URI].to_pylist()]
    versions = dict(zip(names, table["version"].to_pylist(), strict=True))
    assert versions[GONE] == "version 1" and versions[HOSTILE] == "version 2"
    images = dict(zip(names, table["image"].to_pylist(), strict=True))
    assert [name for name, image in images.items() if image is None] == [GONE]
    small = Image.open(io.BytesIO(images["scene6-01.jpg"]["bytes"]))
    whole = Image.open(exported / "corpus" / "scene6" / "scene6-01.jpg")
    assert max(small.size) == 64
    assert abs(np.asarray(small).mean() - np.asarray(whole.convert("RGB")).mean()) < 6

    counts = np.bincount(table["cluster"].to_numpy())[1:]
    assert len(counts) == 5 and (np.diff(counts) <= 0).all()
    told = {one["name"]: one for one in made["colours"]}
    assert [name for name, _ in told["folder"]["classes"]][:3] == ["scene0", "scene3", "scene6"]
    assert told["modified"]["kind"] == "time" and told["modified"]["missing"] == 0
    assert not list((exported / "a" / "data").glob("*/*.npz"))

    assert atlas(config(exported))["unchanged"]
    page = Path(made["page"]).read_text()
    assert page.count("<script>") == 1 and "&lt;i id=pwned" in page and "<i id=pwned" not in page


def test_an_atlas_in_a_bucket_of_some_samples_pictures_and_chosen_colours(
    exported: Path, object_store: ObjectStore
) -> None:
    out = f"{object_store.make_bucket('atlas')}/a"
    few = {"thumbnails": {"most": 7, "side": 32}, "colour": "folder"}
    whole = {"points": 50, "landmarks": 16, "neighbours": 0}
    told = atlas(config(exported, out=out, atlas=whole, **few))
    assert (told["rows"], told["points"], told["landmarks"]) == (61, 50, 16)
    assert told["thumbnails"] + told["without_picture"] == 7
    assert [one["name"] for one in told["colours"]] == ["cluster", "folder", "version", "modified"]
    folder, store = out.removeprefix("s3://"), object_store.filesystem()
    table = pq.read_table(io.BytesIO(store.cat_file(f"{folder}/atlas.parquet")))
    assert table.num_rows == 50 and table["image"].null_count == 50 - told["thumbnails"]
    assert not any(one["ids"] for one in table["neighbors"].to_pylist())
    (data,) = store.ls(f"{folder}/data")
    names = {path.rpartition("/")[2] for path in store.find(data)}
    assert names == {
        *("points.js", "pictured.js", "000000.js"),
        *(f"colour-{number:02d}.js" for number in range(4)),
    }
    assert atlas(config(exported, out=out, atlas=whole, **few))["unchanged"]


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Return the last line of stderr of a command that is refused."""
    code = main("atlas", "", lambda values: (AtlasConfig, values), atlas, list(words))
    assert code == 2, words
    return capsys.readouterr().err.strip().splitlines()[-1]


def test_what_cannot_be_drawn_is_one_line(
    exported: Path,
    made: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here, out = f"embeddings={exported / 'e'}", f"out={exported / 'a'}"
    cases = {
        (here, out, "seed=1"): "holds another atlas: it differs in",
        (here, f"out={exported / 'corpus'}"): "is no atlas and not empty",
        (f"embeddings={exported / 'corpus'}", out): "holds no embeddings: give the out of",
        (here, out, "colour=label"): "colour label is no column of",
        (here, f"out={exported / 'b'}", "colour=end_s"): "colour end_s cannot be shown in colours",
        (here, out, f"manifest={exported / 'e'}"): "is none: give the out of jobs.index",
        (here, out, "atlas.landmarks=2"): "atlas.landmarks: input should be greater than",
    }
    for words, line in cases.items():
        said = refused(capsys, *words)
        assert said.startswith("error: ") and line in said, (words, said)
    monkeypatch.setitem(sys.modules, "pacmap", None)
    assert "pip install 'afield[atlas]'" in refused(capsys, here, out)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium that is installed here."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    names = ("chromium", "chromium-browser", "google-chrome")
    if (found := next(filter(None, map(shutil.which, names)), None)) is None:
        pytest.skip("no Chromium is installed: the page is not tried")
    with sync_api.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield chromium
        chromium.close()


def pixels(page: Any) -> np.ndarray:
    """Return what is drawn on the canvas of the points."""
    element = page.query_selector("#map")
    return np.asarray(Image.open(io.BytesIO(element.screenshot())).convert("RGB")).astype(int)


def inked(picture: np.ndarray) -> int:
    """Count pixels with a strong colour."""
    return int((np.ptp(picture, axis=2) > 60).sum())


def test_the_page_works_from_disk_in_a_browser_and_asks_nobody(
    browser: Any, made: dict[str, Any]
) -> None:
    table = pq.read_table(made["table"])
    uris = table[schema.URI].to_pylist()
    hostile = next(row for row, uri in enumerate(uris) if uri.endswith(HOSTILE))
    page = browser.new_context(viewport={"width": 1000, "height": 700}).new_page()
    said = list[str]()
    asked = list[str]()
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(Path(made["page"]).as_uri())
    page.wait_for_selector("#marks[data-ready]")
    page.wait_for_selector("#points[data-drawn='61']")
    whole = pixels(page)
    assert inked(whole) > 61 * 4

    x, y = page.evaluate(f"atlas.screen({hostile})")
    page.mouse.move(x, y)
    page.wait_for_selector(f"#tip[data-point='{hostile}'] img")
    assert uris[hostile] in page.inner_text("#tip")
    assert page.query_selector("[onerror], #pwned") is None and page.title().startswith("Atlas of")

    page.mouse.click(x, y)
    page.wait_for_selector("#near li:nth-child(4) img")
    shown = [
        int(each.get_attribute("data-point")) for each in page.query_selector_all("#near li button")
    ]
    assert shown == table["neighbors"][hostile].as_py()["ids"]
    page.keyboard.press("Escape")
    page.mouse.move(1, 1)
    page.wait_for_selector("#tip", state="hidden")

    page.select_option("#by", label="folder")
    page.wait_for_selector("#legend button[title=scene3]")
    assert (pixels(page) != whole).any(axis=2).sum() > 61 * 4
    page.click("#legend button[title=scene3]")
    page.wait_for_selector("#points[data-drawn='41']")

    page.focus("#marks")
    before = page.get_attribute("#marks", "data-scale")
    page.keyboard.press("+")
    page.wait_for_selector(f"#marks:not([data-scale='{before}'])")
    closer = page.get_attribute("#marks", "data-scale")
    page.mouse.move(300, 400)
    page.mouse.wheel(0, -240)
    page.wait_for_selector(f"#marks:not([data-scale='{closer}'])")
    assert float(before) < float(closer) < float(page.get_attribute("#marks", "data-scale"))
    page.keyboard.press("0")
    page.wait_for_selector(f"#marks[data-scale='{before}']")

    gone = next(row for row, uri in enumerate(uris) if uri.endswith(GONE))
    page.mouse.move(*page.evaluate(f"atlas.screen({gone})"))
    page.wait_for_selector(f"#tip[data-point='{gone}']")
    assert "unreadable" in page.inner_text("#tip")
    assert not said, said
    assert {url.partition(":")[0] for url in asked} <= {"file", "data"}
