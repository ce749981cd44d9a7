"""What a published form is: the encoder's files for one library, and how that library loads
them."""

from collections.abc import Callable
from typing import Any, ClassVar

from torch import Tensor

from models.artifact import Artifact
from models.encoders.factory import EncoderConfig

Embed = Callable[[Tensor], Tensor]


class Unsupported(ValueError):
    """An encoder has no such form; the message says why."""


class Form:
    """An encoder in the form of one library.

    Attributes:
        name: What the command line calls it.
        packages: The packages, as they are imported, that write and read it.
        artifact: The encoder and its preparation of images.
        config: What the encoder is.
        files: Names of the files that `write` leaves in a folder.

    Raises:
        Unsupported: the library has nothing equal to the encoder.
    """

    name: ClassVar[str]
    packages: ClassVar[tuple[str, ...]]
    files: tuple[str, ...]

    def __init__(self, artifact: Artifact) -> None:
        self.artifact = artifact
        self.config = EncoderConfig.model_validate(artifact.config["encoder"])

    def write(self, folder: str) -> None:
        """Write the files into a local folder."""
        raise NotImplementedError

    def load(self, folder: str) -> Embed:
        """Load the files as their library does.

        Returns:
            The function from prepared images (B, 3, S, S) to embeddings (B, D).
        """
        raise NotImplementedError

    def usage(self) -> str:
        """Return Python that does the same inside the folder: `images` are prepared, the result is
        `embedding`."""
        raise NotImplementedError


def preparation(artifact: Artifact) -> dict[str, Any]:
    """Describe in plain JSON how an image becomes the input of every form."""
    prepared = artifact.prepared
    described: dict[str, Any] = {
        "input": f"(batch, 3, {prepared.image_size}, {prepared.image_size}) float32, RGB",
        "crop": "the largest centred square",
        "resize": f"to {prepared.image_size} px a side, bilinear with antialiasing",
        "scale": "values / 255, minus mean, divided by std",
        "mean": list(prepared.mean),
        "std": list(prepared.std),
    }
    if prepared.value_range != "auto":
        described["value_range"] = prepared.value_range
    if prepared.bands:
        described["bands"] = list(prepared.bands)
    return described


def as_words(values: dict[str, Any]) -> str:
    """Write keyword arguments as Python does, each with a comma before it."""
    return "".join(f", {key}={value!r}" for key, value in values.items())
