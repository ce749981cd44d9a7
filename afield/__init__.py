"""The one import for a user's own code: `encoder = afield.load("runs/a/artifact")`.

The project's packages carry common names (`models`, `jobs`), and a project that uses an artifact
may well have a `models/` of its own. So the wheel holds this package alone, with the four inside;
in a clone they lie beside it. Either way they are loaded here under names of their own,
`afield.models` and so on, and what they import of each other (`from models import artifact`) is led
there, whether or not somebody else's `models` was imported before: see `afield.private_names`.

`python -m afield VERB ...` runs a job of an installed wheel, as `python -m jobs.VERB ...` does in a
clone.
"""

import importlib
from typing import TYPE_CHECKING

from afield import private_names

if TYPE_CHECKING:
    from models.artifact import Artifact

__all__ = ["load"]

private_names.install()


def load(uri: str) -> "Artifact":
    """Load a pretrained encoder.

    Args:
        uri: An artifact: a local folder or a prefix of an object store.

    Returns:
        The frozen encoder in evaluation mode: a `torch.nn.Module` from images to embeddings, with
        `preprocess` for uint8 RGB.

    Raises:
        ValueError: there is none, or it is damaged.
    """
    artifact: Artifact = importlib.import_module("afield.models.artifact").load(uri)
    return artifact
