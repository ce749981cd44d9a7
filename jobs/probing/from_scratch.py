"""Training from random weights on few labels, beside a probe of frozen features: through the
training of `jobs.adaptation.trained`, at a small budget."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from jobs.adaptation import labelled_sets
from jobs.adaptation.trained import train_from_scratch
from jobs.adaptation.training_sections import TrainedAdaptConfig, with_defaults
from jobs.cluster import launch
from jobs.probing.few_label_probe import Draws, Scratch
from jobs.probing.frozen_features import Labelled
from jobs.probing.probe_sections import AdaptConfig
from jobs.setup.claims import held
from jobs.setup.command_line import validate
from jobs.setup.inputs import load_artifact
from jobs.training.run_dir import OWN_FOLDERS
from pipelines.storage import uris

FOLDER = "scratch"


@contextmanager
def scratch_in(config: AdaptConfig, out: str, labelled: Labelled) -> Iterator[Scratch]:
    """Hold `out` and a cluster, and give what trains on draws in `out/scratch`; what is there is
    gone on with.

    Args:
        config: Of the probe.
        out: Absolute.
        labelled: What is judged.
    """
    config = labelled_sets.with_absolute_places(config)
    wanted = trained_config(config, out)
    start = load_artifact(labelled.artifact.uri)
    paths = (labelled.artifact.uri, out, *labelled_sets.places(config).values())
    with (
        held("adapt", out, *OWN_FOLDERS) as mine,
        launch.session(config.cluster, paths=paths) as session,
    ):

        def scratch(labelled: Labelled, draws: Draws) -> np.ndarray:
            test = labelled.data.keep(labelled.data.of("test"))
            told = []
            for number, rows in enumerate(draws.rows):
                chosen = np.zeros(labelled.data.num_rows, bool)
                chosen[rows] = True
                name = f"{draws.num_labels}-labels-{number}"
                print(f"from scratch: {name}", file=sys.stderr)
                place = uris.join(out, FOLDER, name)
                answers = train_from_scratch(
                    wanted, start, labelled.data.keep(chosen), test, place, session, mine
                )
                told.append(answers.argmax(1) == test.labels)
            return np.stack(told)

        yield scratch


def trained_config(config: AdaptConfig, out: str) -> TrainedAdaptConfig:
    """Return the training that stands beside a probe: all weights, random at first."""
    sections = ("train", "val", "test", "columns", "clip", "cluster")
    values = config.model_dump(mode="json", include=set(sections))
    values |= {
        "artifact": config.artifact,
        "out": out,
        "probe": {"name": "finetune"},
        "num_steps": config.probe.scratch_steps,
        "seed": config.probe.seed,
    }
    return validate(TrainedAdaptConfig, with_defaults(values))
