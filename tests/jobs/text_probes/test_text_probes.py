"""jobs.adapt with texts: classes told by their names, captions found, and what is refused."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jobs.adapt import compare_with_texts, complete
from jobs.reporting.adaptation_page import PAGE, RESULT
from jobs.setup.command_line import InputError
from jobs.text_probes.text_probe_sections import RetrieveCaptionsConfig, ZeroShotConfig
from jobs.text_probes.zero_shot_probe import names_of
from tests.captioned import COLOURS, save_captioned, save_trained_on_colours, square

pytestmark = pytest.mark.usefixtures("ray_session")
PER_CLASS = 6


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An artifact that knows colours by name."""
    uri = str(tmp_path_factory.mktemp("pairs") / "artifact")
    save_trained_on_colours(uri)
    return uri


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of squares for each colour, one file that is none, and a table of captions."""
    root = tmp_path_factory.mktemp("squares")
    generator = np.random.default_rng(7)
    with open(root / "captions.csv", "w") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "split", "caption"])
        for name in COLOURS:
            (root / "all" / name).mkdir(parents=True)
            for number in range(PER_CLASS):
                path = root / "all" / name / f"{number}.png"
                Image.fromarray(square(name, generator)).save(path)
                split = "train" if number < 3 else "test"
                colour = name.replace("_", " ")
                for text in (f"a photo of a {colour} thing", f"photo of the {colour} thing"):
                    writer.writerow([f"{name}/{number}.png", split, text])
    (root / "all" / "red" / "broken.png").write_bytes(b"nothing")
    return root


def zero_shot(uri: str, squares: Path, **more: Any) -> ZeroShotConfig:
    values: dict[str, Any] = {
        "artifact": uri,
        "test": {"uri": str(squares / "all")},
        "probe": {"name": "zero_shot"},
    }
    return ZeroShotConfig.model_validate(values | more)


def captions(uri: str, squares: Path, **more: Any) -> RetrieveCaptionsConfig:
    place = {"uri": str(squares / "all"), "captions": str(squares / "captions.csv")}
    values: dict[str, Any] = {
        "artifact": uri,
        "test": {**place, "split": "test"},
        "probe": {"name": "retrieve_captions", "recall_at": [1, 6]},
    }
    return RetrieveCaptionsConfig.model_validate(values | more)


@pytest.mark.long
def test_classes_are_told_by_their_names_beside_the_untrained_towers(
    trained: str, squares: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    told = compare_with_texts(zero_shot(trained, squares, out=str(out)))
    assert told["num_test"] == PER_CLASS * len(COLOURS) and told["num_classes"] == len(COLOURS)
    assert told["top1"] > 0.9 > told["untrained_top1"]
    assert told["ci95"][0] <= told["top1"] <= told["ci95"][1]
    assert told["chance_top1"] == 1 / len(COLOURS)
    assert told["names"]["dark_green"] == ["dark green"]
    assert set(told["first_template"]) == {"top1", "ci95"}
    assert "zero_shot top-1 of 4 classes: pretrained" in told["result"]
    assert json.loads((out / RESULT).read_bytes())["top1"] == told["top1"]
    assert "zero_shot" in (out / PAGE).read_text()


@pytest.mark.slow
def test_names_come_from_a_table_and_others_make_others_answers(
    trained: str, squares: Path, tmp_path: Path
) -> None:
    names = tmp_path / "names.csv"
    names.write_text("class,name\nred,blue\nblue,red\n")
    probe = {"name": "zero_shot", "class_names": str(names), "templates": "a photo of a {} thing"}
    told = compare_with_texts(zero_shot(trained, squares, probe=probe))
    assert told["per_class"]["red"] < 0.2 and told["per_class"]["blue"] < 0.2
    assert told["per_class"]["yellow"] > 0.8
    assert "first_template" not in told


def test_a_table_of_names_must_name_the_classes(tmp_path: Path) -> None:
    names = tmp_path / "names.csv"
    names.write_text("class,name\nred,scarlet\nred,crimson\n")
    assert names_of(("dark-blue", "red"), str(names)) == [("dark blue",), ("scarlet", "crimson")]
    names.write_text("class,name\nreed,red\n")
    with pytest.raises(InputError, match=r"names class reed, which test\.uri has not"):
        names_of(("blue", "red"), str(names))
    names.write_text("label,named\nred,red\n")
    with pytest.raises(InputError, match="must have the columns class and name"):
        names_of(("blue", "red"), str(names))


@pytest.mark.slow
def test_captions_are_found_beside_chance_and_words_told_by_colour(
    trained: str, squares: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    other = str(tmp_path / "other")
    save_captioned(other, seed=3)
    config = captions(
        trained,
        squares,
        train={"uri": str(squares / "all"), "split": "train"},
        compare=other,
        out=str(out),
    )
    told = compare_with_texts(config)
    # three of a colour have the same captions, so the first one found is of chance
    assert told["num_test"] == 3 * len(COLOURS) and told["num_captions"] == 6 * len(COLOURS)
    assert told["num_train"] == 3 * len(COLOURS)
    assert told["text_to_image"]["recall_at"]["6"] > 0.7
    chance = told["chance_text_to_image"]["recall_at"]
    assert chance == {"1": 1 / 12, "6": 0.5}
    assert told["words_mean_recall"] > told["chance_mean_recall"]
    assert told["mean_recall"] > told["untrained_mean_recall"]
    assert told["difference"] == pytest.approx(told["mean_recall"] - told["compared_mean_recall"])
    for kind in ("", "untrained_", "compared_", "words_"):
        for way in ("image_to_text", "text_to_image"):
            one = told[f"{kind}{way}"]
            for k, share in one["recall_at"].items():
                assert one["ci95"][k][0] <= share <= one["ci95"][k][1]
    # those of the other split have no caption here, and nor has the broken file
    assert told["left_out"]["test"] == {"caption": 3 * len(COLOURS) + 1}
    page = (out / PAGE).read_text()
    assert "Found among the first" in page and "words told by colour" in page
    assert "captions are most alike their own image" in page


def test_an_artifact_without_a_text_tower_is_refused_before_anything_is_read(
    small_artifact: str, squares: Path
) -> None:
    for config in (zero_shot(small_artifact, squares), captions(small_artifact, squares)):
        with pytest.raises(InputError, match=r"artifact .*: the artifact has no text tower"):
            compare_with_texts(config)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        pytest.param(
            {"train": {"uri": "all", "split": "test"}},
            "its images are those of train.uri",
            marks=pytest.mark.slow,
        ),
        ({"train": {"uri": "all", "split": "nowhere"}}, "no image has a caption"),
    ],
)
def test_sets_that_cannot_be_judged_are_one_line(
    more: dict[str, Any], message: str, trained: str, squares: Path
) -> None:
    more["train"] |= {"uri": str(squares / "all")}
    with pytest.raises(InputError, match=message):
        compare_with_texts(captions(trained, squares, **more))


def test_the_probe_chooses_its_configuration_and_templates_have_a_place() -> None:
    assert complete({"probe": {"name": "zero_shot"}})[0] is ZeroShotConfig
    assert complete({"probe": {"name": "retrieve_captions"}})[0] is RetrieveCaptionsConfig
    with pytest.raises(ValueError, match=r"must hold \{\} once"):
        zero_shot("a", Path("b"), probe={"name": "zero_shot", "templates": ["a photo"]})
