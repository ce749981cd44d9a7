"""Look at some of a corpus' deep images before it is read: what their values are, what becomes of
them."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipelines import schema
from pipelines.corpus.manifest import Manifest
from pipelines.media.contract import BadSample, Limits
from pipelines.media.decoder import Decoder
from pipelines.stream.fetch import fetch

MOST_IMAGES = 64
MOST_ROW_GROUPS = 4
FLAT_LEVELS = 16  # of 255, by which an image at least differs that shows something
PERCENTILES = (0.5, 99.5)
_SUFFIXES = ("png", "tif", "tiff", "pgm", "ppm", "pnm", "jp2", "j2k")


@dataclass(frozen=True)
class DeepSurvey:
    """What was found among the images that were looked at.

    Attributes:
        num_deep: Images of more than 8 bits a channel.
        num_flat: Those of them that come out nearly constant.
        least, most: Extreme values of all of them.
        window: Between these lie 99 % of the values.
    """

    num_deep: int = 0
    num_flat: int = 0
    least: float = 0.0
    most: float = 0.0
    window: tuple[float, float] | None = None

    def warning(self) -> str | None:
        """Return one line for people where images come out nearly constant."""
        if not self.num_flat:
            return None
        return (
            f"{self.num_flat} of {self.num_deep} deep images looked at come out nearly constant:"
            f" their values lie in {self.least:g}..{self.most:g}; set"
            " source.value_range=percentiles or source.value_range=[LOW,HIGH]"
        )


def survey(manifest: Manifest, limits: Limits) -> DeepSurvey:
    """Look at up to 64 files that may hold deep images; other corpora cost a look at names.

    Args:
        manifest: The corpus.
        limits: How they will be read.
    """
    rows = _candidates(manifest)
    if rows is None:
        return DeepSurvey()
    decoder = Decoder(limits)
    found: list[np.ndarray] = []
    num_flat = 0
    try:
        for payload in fetch(rows):
            if isinstance(payload, BadSample):
                continue
            try:
                values = decoder.deep_values(payload)
                if not len(values):
                    continue
                pixels = decoder.image(payload).pixels
            except BadSample:
                continue
            found.append(values)
            num_flat += int(pixels.max()) - int(pixels.min()) <= FLAT_LEVELS
    finally:
        decoder.close()
    if not found:
        return DeepSurvey()
    everything = np.concatenate(found)
    low, high = (float(value) for value in np.percentile(everything, PERCENTILES))
    window = (low, high) if low < high else None
    least = float(everything.min())
    most = float(everything.max())
    return DeepSurvey(len(found), num_flat, least, most, window)


def _candidates(manifest: Manifest) -> pa.Table | None:
    """Return rows whose names may stand for deep images, evenly from a few row groups."""
    groups = list(manifest.row_groups())
    step = max(1, len(groups) // MOST_ROW_GROUPS)
    chosen = groups[::step][:MOST_ROW_GROUPS]
    most = MOST_IMAGES // max(1, len(chosen))
    tables = []
    for part, row_group, _ in chosen:
        table = manifest.read_row_group(part, row_group)
        names = zip(table[schema.URI].to_pylist(), table["member"].to_pylist(), strict=True)
        wanted = [
            index
            for index, (uri, member) in enumerate(names)
            if (member or uri).rpartition(".")[2].lower() in _SUFFIXES
        ]
        if wanted:
            even = wanted[:: max(1, len(wanted) // most)][:most]
            tables.append(table.take(even))
    return pa.concat_tables(tables) if tables else None
