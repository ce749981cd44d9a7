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
