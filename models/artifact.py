"""The pretrained encoder as it ships: weights, how to prepare an image for them, and where they
come from.

Two files, so that neither Ray nor the training code is needed to use it and nothing is ever
unpickled: `encoder.safetensors` and `artifact.json`; and `head.safetensors` where labels taught a
head. Where training started from other weights than random ones, these lie beside them as
`start.safetensors`.
"""

import hashlib
import json
import os
import uuid
from typing import Any, Literal, NamedTuple

import fsspec
import safetensors.torch
import torch
from fsspec.implementations.local import LocalFileSystem
from pydantic import ValidationError
from torch import Tensor, nn

from models.encoders.encoder import Encoder
from models.encoders.factory import EncoderConfig, build_encoder
from models.json_values import finite
from models.preprocess import Preprocess, central_square, fitted_whole
from models.supervised.head import Boxes, Head, HeadConfig, build_head

WEIGHTS = "encoder.safetensors"
DESCRIPTION = "artifact.json"
_HEAD = "head.safetensors"
_START = "start.safetensors"
_FORMAT = 1


Baseline = Literal["untrained", "starting weights"]


class Start(NamedTuple):
    """Weights that training started from.

    Attributes:
        weights: URI that they were read from.
        data: The encoder's tensors, as safetensors.
    """

    weights: str
    data: bytes


class Artifact(nn.Module):
    """An encoder with its preprocessing, in evaluation mode.

    Attributes:
        digest: SHA-256 over weights, config and preprocessing; names the embeddings made with it.
        embed_dim: D, the length of an embedding.
        image_size: S, the side of the input in pixels.
        value_range, bands: How images of more than 8 bits or many channels were read.
        prepared: All of the preprocessing, as it was recorded.
        config: The run's configuration, "encoder" and "seed" at least.
        provenance: Where the weights come from.
        baseline: What `untrained` gives for this artifact, for people: "untrained", or "starting
            weights" where training started from some.
        head: What labels taught; None after pretraining.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        encoder: Encoder,
        *,
        digest: str,
        config: dict[str, Any],
        preprocess: Preprocess,
        provenance: dict[str, Any],
        baseline: Baseline = "untrained",
        head: Head | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head
        self.digest = digest
        self.config = config
        self.provenance = provenance
        self.baseline = baseline
        self.embed_dim = encoder.embed_dim
        self.image_size = preprocess.image_size
        self.value_range = preprocess.value_range
        self.bands = preprocess.bands
        self.prepared = preprocess
        self.register_buffer("mean", torch.tensor(preprocess.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(preprocess.std).view(3, 1, 1), persistent=False)
        self.eval()

    @property
    def num_frames(self) -> int | None:
        """Return the frames of a clip that the encoder sees; None where it sees images."""
        return self.prepared.num_frames if self.encoder.media == "clip" else None

    def forward(self, images: Tensor) -> Tensor:
        """Embed prepared images (B, 3, S, S) float as (B, D); an encoder of clips clips (B, T, 3,
        S, S)."""
        embedding: Tensor = self.encoder(images)
        return embedding

    def predict(self, images: Tensor) -> Any:
        """Tell what labels taught of prepared images (B, 3, S, S) float; boxes of whole ones, uint8
        as `find` takes them.

        Returns:
            Probabilities in the order of `head.config.classes`: (B, C) summing to 1; of several
            classes an image, each by itself; of masks (B, C, S, S). Of boxes what `find` gives.

        Raises:
            ValueError: the artifact has no head.
        """
        if self._head().config.task == "boxes":
            return self.find(images)
        scores = self._head().scores(self.encoder, images)
        return scores.sigmoid() if self._head().config.task == "classes" else scores.softmax(1)

    def find(self, images: Tensor) -> list[Boxes]:
        """Tell the boxes of decoded images (B, 3, H, W) uint8 RGB, whole, in their px.

        Raises:
            ValueError: the artifact's head tells no boxes, or the images are not uint8 with three
                channels.
        """
        if self._head().config.task != "boxes":
            raise ValueError("the artifact tells no boxes: call predict, with prepared images")
        size = self.image_size
        height, width = images.shape[2:]
        pixels = fitted_whole(images, size, self.mean)
        found = self._head().boxes(self.encoder, (pixels - self.mean) / self.std)
        return [one.enlarged(height, width, size) for one in found]

    def _head(self) -> Head:
        if self.head is None:
            raise ValueError("the artifact has no head: adapt it first, with jobs.adapt")
        return self.head

    def preprocess(self, images: Tensor) -> Tensor:
        """Prepare decoded images: largest centred square, antialiased resize, normalisation.

        Args:
            images: (B, 3, H, W) uint8 RGB; S x S images are only normalised. Or clips, (B, T, 3, H,
                W).

        Returns:
            (B, [T,] 3, S, S) float32 on the images' device, which must be the artifact's.

        Raises:
            ValueError: the images are not uint8 with three channels.
        """
        if images.ndim == 5:
            clips: Tensor = self.preprocess(images.flatten(0, 1)).unflatten(0, images.shape[:2])
            return clips
        pixels = central_square(images, self.image_size)
        return (pixels - self.mean) / self.std


def save(
    uri: str,
    encoder: nn.Module,
    *,
    config: dict[str, Any],
    preprocess: dict[str, Any],
    provenance: dict[str, Any],
    start: Start | None = None,
    head: nn.Module | None = None,
) -> str:
    """Write an encoder as an artifact; weights first, so that a description never stands without
    them.

    Args:
        uri: Folder, local or of any filesystem of fsspec; an artifact already there is replaced.
        encoder: As built by `build_encoder`; batch norm layers may have been exchanged for
            synchronised ones.
        config: Must hold "encoder" (the fields of `EncoderConfig`) and "seed" (that the weights
            were initialised with).
        preprocess: The fields of `Preprocess`: image_size, mean, std.
        provenance: Whatever says where the weights come from; plain JSON, as are the other two.
        start: What training started from; None: random weights of the seed.
        head: What labels taught on it.

    Returns:
        The digest.

    Raises:
        ValueError: a key is missing or not JSON.
    """
    _encoder_config(config, uri)
    prepared = _preprocess(preprocess, uri).model_dump(mode="json", exclude_defaults=True)
    weights = _serialised(encoder)
    told = _description_of(head)
    head_weights = None if head is None else _serialised(head)
    digest = _digest(weights, config, prepared, told, head_weights)
    description = {
        "format": _FORMAT,
        "digest": digest,
        "config": config,
        "preprocess": prepared,
        **({} if told is None else {"head": told}),
        "provenance": finite(provenance),  # figures of a run
    }
    if start is not None:
        sha256 = hashlib.sha256(start.data).hexdigest()
        description["start"] = {"weights": start.weights, "sha256": sha256}
    text = _json(description, indent=2)
    if start is not None:
        _write(uri, _START, start.data)
    _write(uri, WEIGHTS, weights)
    if head_weights is not None:
        _write(uri, _HEAD, head_weights)
    _write(uri, DESCRIPTION, text.encode())
    return digest


def load(uri: str, device: str | torch.device = "cpu") -> Artifact:
    """Read an artifact and check that it is whole.

    Args:
        uri: Folder that `save` wrote.
        device: Where the encoder goes.

    Raises:
        FileNotFoundError: there is no artifact.
        ValueError: weights and description do not belong together, or are of another format.
    """
    description = _read_description(uri)
    weights = _read(uri, WEIGHTS)
    told = description.get("head")
    head_weights = None if told is None else _read(uri, _HEAD)
    signed = (description["config"], description["preprocess"], told, head_weights)
    if _digest(weights, *signed) != description["digest"]:
        raise ValueError(
            f"{uri}: {WEIGHTS} and {DESCRIPTION} do not match (half-written or damaged); export"
            " it again"
        )
    encoder, preprocess = _initialised(description, uri)
    encoder.load_state_dict(safetensors.torch.load(weights))
    head = None
    if head_weights is not None:
        head = build_head(_head_config(told, uri), encoder)
        head.load_state_dict(safetensors.torch.load(head_weights))
    return Artifact(
        encoder,
        digest=description["digest"],
        config=description["config"],
        preprocess=preprocess,
        provenance=description["provenance"],
        baseline="starting weights" if "start" in description else "untrained",
        head=head,
    ).to(device)


def untrained(uri: str, device: str | torch.device = "cpu") -> Artifact:
    """Build the artifact's encoder as it was before training: from the seed in its configuration,
    or with the weights that training started from.

    The baseline that every probe score is compared with. Its digest is its own.

    Args:
        uri: Folder that `save` wrote; only its description is read.
        device: Where the encoder goes.

    Raises:
        FileNotFoundError: there is no artifact.
        ValueError: the description is of another format, or the starting weights are damaged.
    """
    description = _read_description(uri)
    encoder, preprocess = _initialised(description, uri)
    if "start" in description:
        encoder.load_state_dict(_starting_weights(description, uri))
    return Artifact(
        encoder,
        digest=_digest(_serialised(encoder), description["config"], description["preprocess"]),
        config=description["config"],
        preprocess=preprocess,
        provenance={"untrained": True, "initialised_like": description["digest"]},
    ).to(device)


def _starting_weights(description: dict[str, Any], uri: str) -> dict[str, Tensor]:
    data = _read(uri, _START)
    if hashlib.sha256(data).hexdigest() != description["start"]["sha256"]:
        raise ValueError(
            f"{uri}: {_START} is not the one that {DESCRIPTION} names; export it again"
        )
    weights: dict[str, Tensor] = safetensors.torch.load(data)
    return weights


def _initialised(description: dict[str, Any], uri: str) -> tuple[Encoder, Preprocess]:
    """Rebuild the encoder with the random weights of its seed, and how its input is prepared."""
    config = description["config"]
    preprocess = _preprocess(description["preprocess"], uri)
    encoder_config = _encoder_config(config, uri)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(config["seed"])
        return build_encoder(encoder_config, preprocess.image_size), preprocess


def _serialised(encoder: nn.Module) -> bytes:
    weights: bytes = safetensors.torch.save(
        {name: tensor.detach().cpu().contiguous() for name, tensor in encoder.state_dict().items()}
    )
    return weights


def _description_of(head: nn.Module | None) -> dict[str, Any] | None:
    if head is None:
        return None
    assert isinstance(head, Head)
    return head.config.model_dump(mode="json", exclude_defaults=True)


def _head_config(told: Any, uri: str) -> HeadConfig:
    try:
        return HeadConfig.model_validate(told)
    except ValidationError as error:
        raise ValueError(f"{uri}: head does not describe a head: {error}") from error


def _encoder_config(config: dict[str, Any], uri: str) -> EncoderConfig:
    if not isinstance(config.get("seed"), int):
        raise ValueError(
            f"{uri}: config.seed must be the integer that the weights were initialised with"
        )
    try:
        found = EncoderConfig.model_validate(config.get("encoder"))
        return found.model_copy(update={"keep_tokens": 1.0})  # a matter of that training alone
    except ValidationError as error:
        raise ValueError(f"{uri}: config.encoder does not describe an encoder: {error}") from error


def _preprocess(preprocess: dict[str, Any], uri: str) -> Preprocess:
    try:
        return Preprocess.model_validate(preprocess)
    except ValidationError as error:
        raise ValueError(
            f"{uri}: preprocess does not say how to prepare an image: {error}"
        ) from error


def _read_description(uri: str) -> dict[str, Any]:
    description: dict[str, Any] = json.loads(_read(uri, DESCRIPTION))
    if description.get("format") != _FORMAT:
        raise ValueError(
            f"{uri}: {DESCRIPTION} has format {description.get('format')}, this code reads"
            f" {_FORMAT}"
        )
    return description


def _digest(
    weights: bytes,
    config: dict[str, Any],
    preprocess: dict[str, Any],
    told: dict[str, Any] | None = None,
    head_weights: bytes | None = None,
) -> str:
    signed: dict[str, Any] = {
        "config": config,
        "preprocess": preprocess,
        "weights": hashlib.sha256(weights).hexdigest(),
    }
    if head_weights is not None:
        signed["head"] = [told, hashlib.sha256(head_weights).hexdigest()]
    return hashlib.sha256(_json(signed).encode()).hexdigest()


def _json(value: dict[str, Any], indent: int | None = None) -> str:
    try:
        return json.dumps(value, sort_keys=True, indent=indent, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"an artifact's config, preprocess and provenance must be plain JSON: {error}"
        ) from error


def _write(uri: str, name: str, data: bytes) -> None:
    """Make the file appear whole or not at all: by a rename locally; an object store's put is that
    already."""
    filesystem, folder = fsspec.url_to_fs(uri)
    path = f"{folder.rstrip('/')}/{name}"
    if not isinstance(filesystem, LocalFileSystem):
        filesystem.pipe_file(path, data)
        return
    os.makedirs(folder, exist_ok=True)
    # Hidden: a process that is killed before the rename leaves it behind.
    temporary = f"{folder}/.{name}.{uuid.uuid4().hex}.tmp"
    try:
        with open(temporary, "wb") as file:
            file.write(data)
        os.replace(temporary, path)
    except OSError:
        if os.path.exists(temporary):
            os.remove(temporary)
        raise


def _read(uri: str, name: str) -> bytes:
    filesystem, folder = fsspec.url_to_fs(uri)
    data: bytes = filesystem.cat_file(f"{folder.rstrip('/')}/{name}")
    return data
