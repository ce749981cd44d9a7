"""The one import for a user's own code: `encoder = afield.load("runs/a/artifact")`, and of an
adapted artifact `afield.predict(adapted, "photo.jpg")`.

The project's packages carry common names (`models`, `jobs`), and a project that uses an artifact
may well have a `models/` of its own. So the wheel holds this package alone, with the four inside;
in a clone they lie beside it. Either way they are loaded here under names of their own,
`afield.models` and so on, and what they import of each other (`from models import artifact`) is led
there, whether or not somebody else's `models` was imported before: see `afield.private_names`.

`python -m afield VERB ...` runs a job of an installed wheel, as `python -m jobs.VERB ...` does in a
clone.
"""

import importlib
from typing import TYPE_CHECKING, Any

from afield import private_names

if TYPE_CHECKING:
    from models.artifact import Artifact
    from pipelines.predictions.one_image import Source

__all__ = ["load", "predict"]

private_names.install()


def load(uri: str) -> "Artifact":
    """Load a pretrained encoder.

    Args:
        uri: An artifact: a local folder or a prefix of an object store; or one of a registry, as
            `registry/name@champion`.

    Returns:
        The frozen encoder in evaluation mode: a `torch.nn.Module` from images to embeddings, with
        `preprocess` for uint8 RGB.

    Raises:
        ValueError: there is none, or it is damaged.
    """
    if "@" in uri:
        uri = importlib.import_module("afield.pipelines.registry.reference").place_of(uri)
    artifact: Artifact = importlib.import_module("afield.models.artifact").load(uri)
    return artifact


def predict(adapted: "Artifact", image: "Source", **options: float) -> dict[str, Any]:
    """Tell of one image what `jobs.predict` would write of it, in this process.

    Arguments, result and errors are those of `pipelines.predictions.one_image.tell`.
    """
    one_image = importlib.import_module("afield.pipelines.predictions.one_image")
    told: dict[str, Any] = one_image.tell(adapted, image, **options)
    return told
