"""The demo's corpus: what lies in it, that no test pixel is trained on, and that making it is
repeatable."""

import hashlib
import itertools
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jobs.setup import demo_corpus
from jobs.setup.demo_corpus import (
    PHOTOGRAPHS,
    PRETRAIN_SIDE_PX,
    PROBE_SIDE_PX,
    draw_box,
    make_corpus,
    read_photograph,
    relevelled,
    strips,
)
from jobs.setup.failures import InputError

COUNTS = {"num_pretrain": 4, "num_probe_train": 2, "num_probe_test": 2}
GAP_PX = 11  # more than a JPEG block of the photographs that are JPEG files


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("demo") / "corpus"
    assert make_corpus(root, **COUNTS)["made"]
    return root


def _digests(root: Path) -> dict[str, tuple[str, int]]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {
        str(path.relative_to(root)): (
            hashlib.sha256(path.read_bytes()).hexdigest(),
            path.stat().st_size,
        )
        for path in files
    }


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_train_and_test_crops_are_a_gap_apart(name: str) -> None:
    size = read_photograph(name).size
    rng = np.random.default_rng(0)
    columns = {split: np.zeros(size[0], dtype=bool) for split in ("train", "test")}
    for split, seen in columns.items():
        for _ in range(300):
            left, top, right, bottom = draw_box(
                size, split, (PROBE_SIDE_PX[0], PRETRAIN_SIDE_PX[1]), rng
            )
            assert 0 <= left < right <= size[0]
            assert 0 <= top < bottom <= size[1]
            assert any(first <= left and right <= end for first, end in strips(size[0], split))
            seen[left:right] = True
        reached = [seen[first:end].mean() for first, end in strips(size[0], split)]
        assert min(reached) > 0.9, f"{split} crops should fill every strip"
    near_test = np.convolve(columns["test"], np.ones(2 * GAP_PX - 1), mode="same") > 0
    assert not (near_test & columns["train"]).any()


def test_each_scene_appears_once() -> None:
    def likeness(one: str, other: str) -> float:
        a, b = (
            np.asarray(read_photograph(name).convert("L").resize((24, 24)), float).ravel()
            for name in (one, other)
        )
        return float(np.corrcoef(a, b)[0, 1])

    assert likeness("motorcycle_left.png", "motorcycle_right.png") > 0.7, (
        "the measure must see a stereo pair"
    )
    assert max(likeness(*pair) for pair in itertools.combinations(PHOTOGRAPHS, 2)) < 0.7


def test_pretraining_images_are_colour_files_in_one_folder(corpus: Path) -> None:
    entries = list((corpus / "pretrain").iterdir())
    assert len(entries) == 4 * len(PHOTOGRAPHS)
    assert all(path.is_file() for path in entries)
    pixels = np.asarray(Image.open(corpus / "pretrain" / "coffee-0000.jpg"), dtype=int)
    assert np.abs(pixels[..., 0] - pixels[..., 2]).mean() > 20


@pytest.mark.parametrize("split", ["train", "test"])
def test_probe_images_are_grey_and_a_folder_a_photograph(corpus: Path, split: str) -> None:
    folders = sorted((corpus / "probe" / split).iterdir())
    assert [folder.name for folder in folders] == sorted(Path(name).stem for name in PHOTOGRAPHS)
    for folder in folders:
        images = [Image.open(path) for path in folder.iterdir()]
        assert len(images) == 2
        for image in images:
            assert image.format == "JPEG"
            assert np.ptp(np.asarray(image.convert("RGB"), dtype=int), axis=-1).max() == 0


def test_crops_vary_in_size_and_none_is_blank(corpus: Path) -> None:
    images = [Image.open(path) for path in corpus.rglob("*.jpg")]
    sizes = {image.size for image in images}
    assert len(sizes) > 0.8 * len(images)
    assert {PROBE_SIDE_PX[0] <= side <= PRETRAIN_SIDE_PX[1] for size in sizes for side in size} == {
        True
    }
    # JPEG may take a little of the contrast that was there when the crop was chosen.
    least = 0.7 * demo_corpus.MIN_DETAIL / demo_corpus.PROBE_GAIN
    assert min(np.asarray(image.convert("L")).std() for image in images) > least


def test_brightness_does_not_tell_the_photograph_and_contrast_hardly() -> None:
    texture = np.random.default_rng(0).normal(size=(64, 64, 3))
    dark, bright = (
        (texture * std + mean).clip(0, 255).astype(np.uint8) for mean, std in ((60, 12), (200, 24))
    )
    pairs = [
        [
            np.asarray(relevelled(Image.fromarray(image), np.random.default_rng(seed)), float)
            for image in (dark, bright)
        ]
        for seed in range(100)
    ]
    assert max(abs(one.mean() - other.mean()) for one, other in pairs) < 4
    assert np.ptp([one.mean() for one, _ in pairs]) > 80
    ones, others = ([image.std() for image in images] for images in zip(*pairs, strict=True))
    assert max(ones) / min(ones) > 4
    assert np.median(others) < max(ones), "contrasts twice apart should overlap"


def test_the_same_corpus_comes_out_again_down_to_the_byte_and_the_time(
    corpus: Path, tmp_path: Path
) -> None:
    make_corpus(tmp_path / "again", **COUNTS)
    assert _digests(tmp_path / "again") == _digests(corpus)
    times = {path.stat().st_mtime_ns for path in (tmp_path / "again" / "pretrain").iterdir()}
    assert times == {demo_corpus.MTIME_S * 10**9}


def test_another_seed_makes_other_crops(corpus: Path, tmp_path: Path) -> None:
    make_corpus(tmp_path / "other", **COUNTS, seed=1)
    name = "pretrain/coffee-0000.jpg"
    assert (tmp_path / "other" / name).read_bytes() != (corpus / name).read_bytes()


def test_a_second_call_writes_nothing(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        demo_corpus, "read_photograph", lambda name: pytest.fail("read a photograph again")
    )
    assert not make_corpus(corpus, **COUNTS)["made"]


def test_an_interrupted_corpus_is_not_taken_for_a_whole_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "corpus"
    with monkeypatch.context() as patched:
        patched.setattr(demo_corpus, "PHOTOGRAPHS", ("coffee.png", "missing.png"))
        with pytest.raises(FileNotFoundError):
            make_corpus(root, **COUNTS)
    assert not root.exists()
    assert make_corpus(root, **COUNTS)["made"]


def test_a_corpus_made_with_other_settings_is_refused(corpus: Path) -> None:
    with pytest.raises(InputError, match="other settings: choose another out"):
        make_corpus(corpus, **{**COUNTS, "num_pretrain": 5})


def test_a_folder_that_is_no_corpus_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(InputError, match="is not the demo's corpus"):
        make_corpus(tmp_path, **COUNTS)
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_a_missing_scikit_image_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_corpus, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install"):
        read_photograph("coffee.png")
