"""What the card takes of the results of probes."""

import json
from pathlib import Path
from typing import Any

from jobs.publishing.probe_results import read_given

DIGEST = "d" * 64


def _write(folder: Path, name: str, **values: Any) -> str:
    place = folder / f"{name}.json"
    place.write_text(json.dumps({"probe": name, "artifact_digest": DIGEST} | values))
    return str(place)


def test_the_interval_of_the_main_measure_and_the_run_from_scratch_reach_the_card(
    tmp_path: Path,
) -> None:
    masks = {"miou": 0.5, "ci95": [0.4, 0.6], "scratch_miou": 0.2, "scratch_ci95": [0.1, 0.3]}
    boxes = {"map50": 0.7, "ci95": [0.6, 0.8], "map": 0.3, "untrained_map50": 0.1}
    places = (_write(tmp_path, "segment", **masks), _write(tmp_path, "detect", **boxes))

    scores = read_given(places, DIGEST)

    assert [(score.metric, score.interval) for score in scores] == [
        ("mean_iou", (0.4, 0.6)),
        ("map_50", (0.6, 0.8)),
        ("mean_average_precision", None),
    ]
    assert scores[0].baselines == {"from scratch": 0.2}
    assert scores[1].baselines == {"untrained": 0.1}


def test_what_is_followed_through_videos_reaches_the_card(tmp_path: Path) -> None:
    followed = {
        "j_and_f": 0.5,
        "ci95": [0.4, 0.6],
        "j": 0.6,
        "j_ci95": [0.5, 0.7],
        "f": 0.4,
        "untrained_j_and_f": 0.2,
        "num_sequences": 12,
    }
    scores = read_given((_write(tmp_path, "propagate", **followed),), DIGEST)
    assert [(score.metric, score.value, score.interval) for score in scores] == [
        ("j_and_f", 0.5, (0.4, 0.6)),
        ("j", 0.6, (0.5, 0.7)),
        ("f", 0.4, None),
    ]
    assert scores[0].baselines == {"untrained": 0.2}
    assert scores[0].counts == {"num_sequences": 12}
