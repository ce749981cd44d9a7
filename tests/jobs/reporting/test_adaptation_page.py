"""The page of an adaptation: whatever a result holds is drawn, and the run is told."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jobs.adaptation.sample_pictures import spread
from jobs.reporting import adaptation_figures as figures
from jobs.reporting import adaptation_page, box_sheet, film_strip, mask_sheet

RESULT: dict[str, Any] = {
    "probe": "few_label",
    "top1": 0.5,
    "ci95": [0.4, 0.6],
    "scratch_top1": 0.3,
    "scratch_ci95": [0.2, 0.4],
    "per_class": {"cat": 0.75, "d<g": 0.25, "none": float("nan")},
    "scratch_per_class": {"cat": 0.5, "d<g": 0.1},
    "classes": ["cat", "d<g"],
    "num_classes": 2,
    "confusion": [[3, 1], [3, 1]],
    "calibration": [{"confidence": 0.9, "right": 0.5, "images": 8}],
    "calibration_error": 0.4,
    "curve": [
        {"labels": 10, "top1": 0.2, "ci95": [0.1, 0.3], "scratch_top1": None},
        {"labels": 100, "top1": 0.5, "ci95": [0.4, 0.6], "scratch_top1": 0.3},
    ],
    "settings": [{"k": 5, "val_top1": 0.3}, {"k": 20, "val_top1": 0.4}],
    "chosen": {"k": 20},
    "num_train": 100,
    "num_test": 8,
    "artifact_digest": "ab" * 32,
    "result": "done",
}


def test_titles_state_what_is_drawn() -> None:
    drawn = [
        figures.per_class(RESULT),
        figures.confusion(RESULT),
        figures.calibration(RESULT),
        figures.few_labels(RESULT),
    ]
    assert [one and one.finding for one in drawn] == [
        "cat is told best (75%), d<g worst (25%)",
        "Most often d<g is told as cat (75% of its images)",
        "Answers are too sure: 90% confidence, 50% right (calibration error 40.0%)",
        "20% with 10 labels, 50% with 100",
    ]
    assert all(one and one.data.startswith(b"\x89PNG") for one in drawn)
    bins = [{"confidence": 0.6, "right": right, "images": 5} for right in (0.2, 1.0)]
    fits = figures.calibration({"calibration": bins, "calibration_error": 0.4})
    assert fits and fits.finding.startswith("Confidence fits on average alone: 60%, and 60% right")
    large = {**RESULT, "confusion": np.zeros((99, 99)).tolist()}
    assert figures.confusion(large) is None


def test_classes_of_pixels_are_told_for_each_other_by_pixels() -> None:
    counts = [[900_000, 100_000], [50_000, 50_000]]
    drawn = figures.confusion({"miou": 0.6, "classes": ["road", "car"], "confusion": counts})
    assert drawn and drawn.finding == "Most often road is told as car (10% of its pixels)"


def test_videos_are_drawn_one_by_one_beside_a_baseline() -> None:
    videos = {name: {"j_and_f": score, "j": 0.1} for name, score in (("dog", 0.7), ("cow", 0.2))}
    result = {
        "j_and_f": 0.45,
        "per_sequence": videos,
        "copy_per_sequence": {name: {"j_and_f": 0.3} for name in videos},
    }
    drawn = figures.per_class(result)
    assert drawn and drawn.finding == "dog is followed best (70%), cow worst (20%)"
    assert figures.by_name(result, "copy_") == {"dog": 0.3, "cow": 0.3}


def test_objects_lie_in_colour_over_their_frames_the_truth_above() -> None:
    frames = np.full((2, 3, 8, 16), 100, np.uint8)
    truth, told = np.zeros((2, 2, 8, 16), np.uint8)
    truth[:, :, :8] = 1
    told[:, :, 8:] = 2
    pair = film_strip.pair(frames[0], truth[0], told[0])
    assert pair.shape == (3, 16, 16)
    red, green = pair[:, 0, 0].tolist(), pair[:, 8, 15].tolist()
    assert red[0] > red[1] == red[2] and green[1] > green[0] == green[2]
    assert pair[:, 0, 15].tolist() == pair[:, 8, 0].tolist() == [100, 100, 100]
    film = film_strip.Film("dog", "told, J&F 70%", frames, told, truth)
    drawing = film_strip.sheet([film, film], "2 of 2 videos")
    assert Image.open(io.BytesIO(drawing.data)).format == "JPEG"
    assert drawing.finding.endswith("2 of 2 videos")


def test_page_and_result_are_left_and_the_run_is_told(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "artifact").mkdir(parents=True)
    (run / "config.yaml").write_text("")
    out = tmp_path / "out"
    adaptation_page.leave(str(out), RESULT, artifact=str(run / "artifact"), digest="ef")
    assert json.loads((out / "adaptation.json").read_text())["top1"] == 0.5
    page = (out / "index.html").read_text()
    assert page.count("<img") == 4 and "d&lt;g" in page and "d<g" not in page
    assert page.count("<tr class=strong>") == 2  # the artifact's score, and the setting chosen
    assert "Chosen: k 20, the first of the best on validation" in page
    assert "http" not in page and "<script" not in page
    (told,) = (run / "probes").iterdir()
    copy = json.loads(told.read_text())
    assert (copy["artifact_digest"], copy["adapted_digest"]) == ("ef", RESULT["artifact_digest"])
    adaptation_page.leave(str(out), RESULT, artifact=str(run), digest="ef")
    assert len(list((run / "probes").iterdir())) == 1


@pytest.mark.parametrize("measure", ["map", "miou"])
def test_a_result_of_any_measure_has_a_page(measure: str) -> None:
    result = {"probe": "retrieve", measure: 0.25, "ci95": [0.2, 0.3], "num_classes": 2}
    page = adaptation_page.page_of({**result, "artifact_digest": "ab"}, "out")
    assert b"25.0%" in page and b"20.0% to 30.0%" in page


def test_masks_are_drawn_in_the_colours_of_their_files() -> None:
    images = np.zeros((3, 3, 8, 8), np.uint8)
    masks = np.ones((3, 8, 8), np.uint8)
    masks[:, 0] = 255
    told = np.zeros((3, 2, 8, 8), np.float32)
    told[:, 1] = 1
    classes = ["sky", "road"]
    drawn = mask_sheet.sheet(images, masks, told, ["a", "b", "c"], classes, "the first 3 of 9")
    assert drawn.finding.endswith("the first 3 of 9") and drawn.data.startswith(b"\xff\xd8")
    pixels = np.asarray(Image.open(io.BytesIO(drawn.data)).convert("RGB")).astype(int)
    red = (np.abs(pixels - [128, 0, 0]) < 12).all(2).sum()
    assert red > 0.8 * 6 * 7 / 8 * 168**2  # mask and answer of three samples, without the border
    legend = mask_sheet._legend([1], classes)
    assert legend == [((128, 0, 0), "road"), ((230, 230, 230), "not judged")]
    assert mask_sheet._legend(range(99), [str(number) for number in range(99)])[12:] == [
        (None, "and 87 more classes"),
        ((230, 230, 230), "not judged"),
    ]


def test_samples_that_are_drawn_are_spread_over_the_set() -> None:
    assert spread(list(range(100)), 5) == [0, 20, 40, 60, 80]
    assert spread([3, 1], 6) == [3, 1]


def test_true_boxes_lie_beside_those_that_are_told_with_the_colours_in_a_legend() -> None:
    known = np.array([[0, 0, 40, 20, 0], [40, 20, 40, 20, 1]], np.float32)
    told = np.array([[0, 0, 40, 18, 0, 0.9], [41, 20, 40, 20, 0, 0.8], [0, 0, 38, 18, 0, 0.7]])
    image = np.full((3, 16, 16), 255, np.uint8)
    image[:, 8:] = 0  # below the image, which is twice as wide as high
    sample = box_sheet.Sample("a.png", image, 40, 80, known, told)
    nothing = box_sheet.Sample("b.png", image, 40, 80, known[:0], told[:0])
    drawn = box_sheet.sheet([sample, nothing], ["cat", "dog"], "the first 2 of 9")
    # The second told box is of another class, the third one finds what the first one has found.
    assert drawn.finding == "1 of 2 true boxes are found in the first 2 of 9"
    pixels = np.asarray(Image.open(io.BytesIO(drawn.data)).convert("RGB")).astype(int)
    for label, num_boxes in ((0, 4), (1, 1)):
        near = (np.abs(pixels - box_sheet._colour(label)) < 60).all(2)
        # its lines, 2 px wide, about half the cell
        assert 1 < near.sum() / (num_boxes * 2 * (124 + 62)) < 2.5
    assert (pixels.max(2) < 20).sum() < 500  # letters alone are dark
