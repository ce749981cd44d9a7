"""What a published form is: the files of an encoder and its head for one library, and how that
library loads them."""

from collections.abc import Callable
from typing import Any, ClassVar, Literal

from torch import Tensor

from models.artifact import Artifact
from models.encoders.factory import EncoderConfig
from models.supervised.head import Head, LinearHead

EMBEDDING = "embedding"
Scores = Literal["logits", "probabilities"]
Outputs = dict[str, Tensor]
Tell = Callable[[Tensor], Outputs]
"""Prepared images (B, 3, S, S), or clips (B, T, 3, S, S), to `embedding` (B, D), and what else a
form gives, (B, C)."""


class Unsupported(ValueError):
    """An encoder, or its head, has no such form; the message says why."""


class Form:
    """An encoder, and the head that tells classes by it, in the form of one library.

    Attributes:
        name: What the command line calls it.
        packages: The packages, as they are imported, that write and read it.
        scores: What it gives of a head: logits, before softmax or sigmoid, or probabilities.
        artifact: The encoder and its preparation of images.
        config: What the encoder is.
        head: The head that it holds; None where it holds the encoder alone.
        alone: Why it holds the encoder alone, though the artifact has a head.
        files: Names of the files that `write` leaves in a folder.

    Raises:
        Unsupported: the library has nothing equal to the encoder.
    """

    name: ClassVar[str]
    packages: ClassVar[tuple[str, ...]]
    scores: ClassVar[Scores]
    files: tuple[str, ...]

    def __init__(self, artifact: Artifact) -> None:
        self.artifact = artifact
        self.config = EncoderConfig.model_validate(artifact.config["encoder"])
        self.find_network()
        self.head: Head | None = None
        self.alone: str | None = None
        if artifact.head is None:
            return
        try:
            self.check_head(artifact.head)
            self.head = artifact.head
        except Unsupported as error:
            self.alone = str(error)

    def find_network(self) -> None:
        """Find what equals the encoder in the library, before anything else.

        Raises:
            Unsupported: there is nothing.
        """

    def check_head(self, head: Head) -> None:
        """Refuse a head that the form has no room for.

        Raises:
            Unsupported: it tells something else than classes.
        """
        if head.config.task in ("mask", "boxes"):
            raise Unsupported(f"it has no room for a head of {_TASKS[head.config.task]}")

    @property
    def outputs(self) -> tuple[str, ...]:
        """Return the names of what it gives."""
        return (EMBEDDING,) if self.head is None else (EMBEDDING, self.scores)

    def wanted(self, images: Tensor) -> Outputs:
        """Return what the artifact itself gives of prepared images (B, 3, S, S), or clips (B, T, 3,
        S, S)."""
        made = self.artifact
        outputs: Outputs = {EMBEDDING: made(images)}
        if self.head is not None and self.scores == "logits":
            outputs[self.scores] = self.head.scores(made.encoder, images)
        elif self.head is not None:
            outputs[self.scores] = made.predict(images)
        return outputs

    def write(self, folder: str) -> None:
        """Write the files into a local folder."""
        raise NotImplementedError

    def load(self, folder: str) -> Tell:
        """Load the files as their library does."""
        raise NotImplementedError

    def usage(self) -> str:
        """Return Python that does the same inside the folder: `images` are prepared, the results
        have the names of `outputs`."""
        raise NotImplementedError


_TASKS = {"mask": "masks", "boxes": "boxes"}


def told_of(artifact: Artifact) -> dict[str, Any]:
    """Describe in plain JSON what a head's scores mean; nothing without one."""
    if artifact.head is None:
        return {}
    head = artifact.head.config
    return {"task": head.task, "classes": list(head.classes)}


def classifier_of(head: Head) -> tuple[Tensor, Tensor]:
    """Return weight (C, D) and bias (C,) of a head that is one linear layer on the embedding.

    Raises:
        Unsupported: it is another one.
    """
    if not isinstance(head, LinearHead):
        raise Unsupported(f"its models have no {head.config.name} head, but a linear layer")
    return head.linear.weight, head.linear.bias


def sample_shape(artifact: Artifact) -> tuple[int, ...]:
    """Return the shape of a prepared image, (3, S, S), or clip, (T, 3, S, S)."""
    frames = () if artifact.num_frames is None else (artifact.num_frames,)
    return (*frames, 3, artifact.image_size, artifact.image_size)


def preparation(artifact: Artifact) -> dict[str, Any]:
    """Describe in plain JSON how an image, or each frame of a clip, becomes the input of every
    form."""
    prepared = artifact.of_images
    shape = ", ".join(map(str, sample_shape(artifact)))
    described: dict[str, Any] = {
        "input": f"(batch, {shape}) float32, RGB",
        "crop": "the largest centred square",
        "resize": f"to {prepared.image_size} px a side, bilinear with antialiasing",
        "scale": "values / 255, minus mean, divided by std",
        "mean": list(prepared.mean),
        "std": list(prepared.std),
    }
    if artifact.num_frames is not None:
        apart = f"1 / {prepared.fps:g} s" if prepared.fps else f"{prepared.frame_stride} frames"
        described["frames"] = f"{artifact.num_frames} of a video, {apart} from one to the next"
    if prepared.value_range != "auto":
        described["value_range"] = prepared.value_range
    if prepared.bands:
        described["bands"] = list(prepared.bands)
    return described


def as_words(values: dict[str, Any]) -> str:
    """Write keyword arguments as Python does, each with a comma before it."""
    return "".join(f", {key}={value!r}" for key, value in values.items())
