"""How deep images are read: as the artifact or the run says, or as is measured when a job
starts."""

import json
import sys
from dataclasses import replace

from jobs.setup.failures import InputError
from jobs.setup.sections import SourceConfig
from models.artifact import Artifact
from models.preprocess import Preprocess
from pipelines.corpus.manifest import Manifest
from pipelines.media.contract import Limits
from pipelines.storage import uris
from pipelines.stream.deep_survey import survey

RECORD = "value_range.json"


def settled(source: SourceConfig, manifest: Manifest, folder: str | None = None) -> SourceConfig:
    """Replace `percentiles` by what is measured.

    Args:
        source: As configured.
        manifest: The corpus.
        folder: Where the measured range is recorded, and taken from the next time; None: nowhere.

    Raises:
        InputError: percentiles are asked for, and there is nothing to measure.
    """
    if source.value_range != "percentiles":
        return source
    window = recorded(folder) if folder else None
    if window is None:
        window = survey(manifest, Limits(max_pixels=source.max_pixels, bands=source.bands)).window
    if window is None:
        raise InputError(
            "source.value_range percentiles: no image of more than 8 bits among those looked at "
            f"of {manifest.source}; leave it out"
        )
    if folder:
        uris.write_bytes(uris.join(folder, RECORD), json.dumps(window).encode())
    print(f"source.value_range: {window[0]:g} is black, {window[1]:g} white", file=sys.stderr)
    return source.model_copy(update={"value_range": window})


def warn_of_flat(manifest: Manifest, limits: Limits) -> None:
    """Say on stderr how many deep images of a sample come out nearly constant."""
    if warning := survey(manifest, limits).warning():
        print(f"warning: {warning}", file=sys.stderr)


def recorded(folder: str) -> tuple[float, float] | None:
    """Return the range that a run has measured, None where it has not."""
    place = uris.join(folder, RECORD)
    if not uris.exists(place):
        return None
    low, high = json.loads(uris.read_bytes(place))
    return low, high


def limits_for(encoder: Artifact, limits: Limits) -> Limits:
    """Read deep images as the encoder has seen them, but for what is given otherwise; one of sounds
    or texts has seen none."""
    if not isinstance(seen := encoder.prepared, Preprocess):
        return limits
    if limits.value_range == Limits.value_range:
        limits = replace(limits, value_range=seen.value_range)
    return limits if limits.bands else replace(limits, bands=seen.bands)
