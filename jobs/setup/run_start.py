"""The weights that a run starts from, kept in the run: a resumed run, the pull towards them and the
probes need them after their file has changed or gone.

start/encoder.safetensors, start/artifact.json   an artifact
start/weights.json                               which tensors were taken
"""

import json
import sys
from dataclasses import dataclass

import torch

from jobs.setup import registered
from jobs.setup.failures import InputError
from jobs.training.run_config import PretrainConfig
from jobs.training.run_dir import START, RunDir
from models import artifact
from models.encoders.encoder import Encoder
from models.encoders.factory import EncoderConfig
from models.starting.fitting import Fit, starting_encoder
from pipelines.storage import uris


@dataclass(frozen=True)
class Start:
    """An encoder with the weights of a file, and how they fit."""

    encoder: Encoder
    fit: Fit


def prepare(config: PretrainConfig, run: RunDir) -> Start | None:
    """Read the weights that a run starts from, and say in a line on stderr which were taken.

    An alias of a registry is followed here, once: what was taken is copied, and recorded by its
    version.

    Returns:
        None where it starts from random weights, or has made steps and keeps its own copy.

    Raises:
        InputError: there is no such file, it is none of weights, or too little of it fits.
    """
    if config.encoder.weights is None or (copy_of(run.uri) and run.has_steps()):
        return None
    return read(config.encoder, config.views.size, config.seed)


def read(config: EncoderConfig, image_size: int, seed: int) -> Start:
    """Build an encoder with the weights of a file, and say in a line on stderr which were taken.

    Args:
        config: What to build, with the weights' URI.
        image_size: Side of the images, px.
        seed: Of what the file does not hold.

    Raises:
        InputError: there is no such file, it is none of weights, or too little of it fits.
    """
    assert config.weights is not None
    registered.check_reachable("encoder.weights", config.weights)
    place = registered.resolved(config.weights, "encoder.weights")
    try:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            found = config.model_copy(update={"weights": place})
            encoder, fit = starting_encoder(found, image_size)
    except ValueError as error:
        raise InputError(str(error)) from None
    assert fit is not None
    print(fit.line(), file=sys.stderr)
    return Start(encoder, fit)


def keep(start: Start, config: PretrainConfig, run: RunDir) -> None:
    """Write the starting weights into the run, as an artifact, with the names of all tensors; those
    of texts with the run's tokenizer, which is there by then."""
    place = run.path(START)
    report = json.dumps(start.fit.as_dict(), indent=2).encode()
    uris.write_bytes(uris.join(place, "weights.json"), report)
    dump = config.model_dump(mode="json")
    artifact.save(
        place,
        start.encoder,
        config={name: dump[name] for name in ("encoder", "views", "seed")},
        preprocess=config.preprocess(run.tokenizer()),
        provenance={"weights": start.fit.weights, "layout": start.fit.layout, "num_steps": 0},
    )


def copy_of(run: str) -> str | None:
    """Return the place of a run's own copy of its starting weights; None where it has none."""
    place = uris.join(run, START)
    return place if uris.exists(uris.join(place, artifact.DESCRIPTION)) else None


def starting_from_copy(config: PretrainConfig) -> PretrainConfig:
    """Return the configuration with the run's own copy as the weights, where it has one."""
    if config.encoder.weights is None or (place := copy_of(config.out)) is None:
        return config
    encoder = config.encoder.model_copy(update={"weights": place})
    return config.model_copy(update={"encoder": encoder})


def of_artifact(config: PretrainConfig, run: str) -> artifact.Start | None:
    """Return the starting weights as an artifact of the run holds them; None where random."""
    if config.encoder.weights is None or (place := copy_of(run)) is None:
        return None
    data = uris.read_bytes(uris.join(place, artifact.WEIGHTS))
    description = json.loads(uris.read_bytes(uris.join(place, artifact.DESCRIPTION)))
    return artifact.Start(description["provenance"]["weights"], data)
