"""The pretrained encoder as it ships: weights, how to prepare an image for them, and where they
come from.

Two files, so that neither Ray nor the training code is needed to use it and nothing is ever
unpickled: `encoder.safetensors` and `artifact.json`; `head.safetensors` where labels taught a head;
and where captions were learnt from, `text.safetensors`, which embeds texts, and its tokens as
`tokenizer.json`. Where training started from other weights than random ones, these lie beside them
as `start.safetensors`.
"""

import hashlib
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import safetensors.torch
import torch
from torch import Tensor, nn

from augment.sound.sound_views import scaled
from models.encoders.encoder import Encoder
from models.encoders.factory import build_encoder
from models.multimodal.text_tower import TextTower
from models.preprocess import (
    AnyPreprocess,
    Preprocess,
    SoundPreprocess,
    TextPreprocess,
    central_square,
    fitted_whole,
)
from models.shipping import artifact_files as files
from models.shipping.description import (
    DESCRIPTION,
    HEAD,
    PARTS,
    START,
    TEXT,
    TOKENIZER,
    WEIGHTS,
    Part,
    described,
    digest_of,
    encoder_config_of,
    head_config,
    head_parts,
    preprocess_of,
    read_description,
    text_config,
    text_parts,
)
from models.supervised.head import Boxes, Head, build_head
from models.texts.embedded_texts import embedded_texts

FILES = (WEIGHTS, HEAD, START, TEXT, TOKENIZER, DESCRIPTION)
"""All that an artifact may hold, the description last."""


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
        image_size: S, the side of the input in pixels; of sounds L, the samples of a window.
        prepared: All of the preprocessing, as it was recorded.
        config: The run's configuration, "encoder" and "seed" at least.
        provenance: Where the weights come from.
        baseline: What `untrained` gives for this artifact, for people: "untrained", or "starting
            weights" where training started from some.
        head: What labels taught; None after pretraining.
        text: What embeds texts, and compares images with them; None where no captions were learnt
            from.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        encoder: Encoder,
        *,
        digest: str,
        config: dict[str, Any],
        preprocess: AnyPreprocess,
        provenance: dict[str, Any],
        baseline: Baseline = "untrained",
        head: Head | None = None,
        text: TextTower | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head
        self.text = text
        self.digest = digest
        self.config = config
        self.provenance = provenance
        self.baseline = baseline
        self.embed_dim = encoder.embed_dim
        self.image_size = preprocess.image_size
        self.prepared = preprocess
        if isinstance(preprocess, Preprocess):
            for name in ("mean", "std"):
                values = torch.tensor(getattr(preprocess, name)).view(3, 1, 1)
                self.register_buffer(name, values, persistent=False)
        self.eval()

    @property
    def of_images(self) -> Preprocess:
        """Return the preprocessing of an encoder of images or clips."""
        assert isinstance(self.prepared, Preprocess)
        return self.prepared

    @property
    def of_sounds(self) -> SoundPreprocess | None:
        """Return the preprocessing of an encoder of sounds; None for another."""
        return self.prepared if isinstance(self.prepared, SoundPreprocess) else None

    @property
    def of_texts(self) -> TextPreprocess | None:
        """Return the preprocessing of an encoder of texts; None for another."""
        return self.prepared if isinstance(self.prepared, TextPreprocess) else None

    @property
    def num_frames(self) -> int | None:
        """Return the frames of a clip that the encoder sees; None where it sees none."""
        return self.of_images.num_frames if self.encoder.media == "clip" else None

    def forward(self, images: Tensor) -> Tensor:
        """Embed prepared images (B, 3, S, S) float as (B, D); an encoder of clips clips (B, T, 3,
        S, S)."""
        embedding: Tensor = self.encoder(images)
        return embedding

    def joint(self, images: Tensor) -> Tensor:
        """Embed prepared images as `forward` takes them where texts are: (B, P) float32 of length
        1, whose products with what `embed_texts` gives are cosines.

        Raises:
            ValueError: the artifact has no text tower.
        """
        return self.require_text().of_images(self.encoder(images))

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Embed texts as (N, P) float32 of length 1, by the text tower, or by an encoder of texts.

        Raises:
            ValueError: the artifact has no text tower, or the package `tokenizers` is missing.
        """
        if (prepared := self.of_texts) is not None:
            return embedded_texts(self.encoder, prepared, texts)
        return self.require_text().of_texts(texts)

    def require_text(self) -> TextTower:
        """Return the text tower.

        Raises:
            ValueError: there is none.
        """
        if self.text is None:
            raise ValueError(
                "the artifact has no text tower: pretrain with captions, with a method that takes"
                " source.captions"
            )
        return self.text

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
        """Prepare decoded images: largest centred square, antialiased resize, normalisation. Or
        windows of sound: they are scaled.

        Args:
            images: (B, 3, H, W) uint8 RGB; S x S images are only normalised. Or clips, (B, T, 3, H,
                W); of an encoder of sounds (B, L) int16 at its rate, of one of texts (B, L) tokens.

        Returns:
            (B, [T,] 3, S, S) or (B, L) float32, or (B, L) int64 of texts, on the images' device,
            which must be the artifact's.

        Raises:
            ValueError: the images are not uint8 with three channels.
        """
        if (sounds := self.of_sounds) is not None:
            return scaled(images, sounds.std)
        if self.of_texts is not None:
            return images.long()
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
    text: TextTower | None = None,
) -> str:
    """Write an encoder as an artifact; weights first, so that a description never stands without
    them.

    Args:
        uri: Folder, local or of any filesystem of fsspec; an artifact already there is replaced.
        encoder: As built by `build_encoder`; batch norm layers may have been exchanged for
            synchronised ones.
        config: Must hold "encoder" (the fields of `EncoderConfig`) and "seed" (that the weights
            were initialised with).
        preprocess: The fields of `Preprocess`: image_size, mean, std; or of `SoundPreprocess`.
        provenance: Whatever says where the weights come from; plain JSON, as are the other two.
        start: What training started from; None: random weights of the seed.
        head: What labels taught on it.
        text: What embeds texts beside it, with its tokenizer.

    Returns:
        The digest.

    Raises:
        ValueError: a key is missing or not JSON.
    """
    encoder_config_of(config, uri)
    prepared = preprocess_of(preprocess, uri).model_dump(mode="json", exclude_defaults=True)
    weights = files.serialised(encoder)
    parts = [*head_parts(head), *text_parts(text)]
    digest = digest_of(weights, config, prepared, parts)
    description = described(digest, config, prepared, parts, provenance)
    if start is not None:
        sha256 = hashlib.sha256(start.data).hexdigest()
        description["start"] = {"weights": start.weights, "sha256": sha256}
    written = files.as_json(description, indent=2)
    if start is not None:
        files.write(uri, START, start.data)
    files.write(uri, WEIGHTS, weights)
    for part in parts:
        for name, data in part.files.items():
            files.write(uri, name, data)
    files.write(uri, DESCRIPTION, written.encode())
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
    description = read_description(uri)
    weights = files.read(uri, WEIGHTS)
    parts = {
        name: Part(name, description[name], {file: files.read(uri, file) for file in held})
        for name, held in PARTS.items()
        if name in description
    }
    signed = (description["config"], description["preprocess"], list(parts.values()))
    if digest_of(weights, *signed) != description["digest"]:
        raise ValueError(
            f"{uri}: {WEIGHTS} and {DESCRIPTION} do not match (half-written or damaged); export"
            " it again"
        )
    encoder, text, preprocess = _initialised(description, uri)
    encoder.load_state_dict(safetensors.torch.load(weights))
    head = None
    if "head" in parts:
        head = build_head(head_config(description["head"], uri), encoder)
        head.load_state_dict(safetensors.torch.load(parts["head"].files[HEAD]))
    if text is not None:
        text.load_state_dict(safetensors.torch.load(parts["text"].files[TEXT]))
        text.tokenizer = parts["text"].files[TOKENIZER].decode()
    return Artifact(
        encoder,
        digest=description["digest"],
        config=description["config"],
        preprocess=preprocess,
        provenance=description["provenance"],
        baseline="starting weights" if "start" in description else "untrained",
        head=head,
        text=text,
    ).to(device)


def untrained(uri: str, device: str | torch.device = "cpu") -> Artifact:
    """Build the artifact's encoder, and its text tower, as they were before training: from the seed
    in its configuration, or with the weights that training started from.

    The baseline that every probe score is compared with. Its digest is its own.

    Args:
        uri: Folder that `save` wrote; of its weights none is read.
        device: Where the encoder goes.

    Raises:
        FileNotFoundError: there is no artifact.
        ValueError: the description is of another format, or the starting weights are damaged.
    """
    description = read_description(uri)
    encoder, text, preprocess = _initialised(description, uri)
    if "start" in description:
        encoder.load_state_dict(_starting_weights(description, uri))
    if text is not None:
        text.tokenizer = files.read(uri, TOKENIZER).decode()
    return Artifact(
        encoder,
        digest=digest_of(
            files.serialised(encoder),
            description["config"],
            description["preprocess"],
            text_parts(text),
        ),
        config=description["config"],
        preprocess=preprocess,
        provenance={"untrained": True, "initialised_like": description["digest"]},
        text=text,
    ).to(device)


def _starting_weights(description: dict[str, Any], uri: str) -> dict[str, Tensor]:
    data = files.read(uri, START)
    if hashlib.sha256(data).hexdigest() != description["start"]["sha256"]:
        raise ValueError(f"{uri}: {START} is not the one that {DESCRIPTION} names; export it again")
    weights: dict[str, Tensor] = safetensors.torch.load(data)
    return weights


def _initialised(
    description: dict[str, Any], uri: str
) -> tuple[Encoder, TextTower | None, AnyPreprocess]:
    """Rebuild the encoder with the random weights of its seed, the text tower with those that
    follow, and how the input is prepared."""
    config = description["config"]
    preprocess = preprocess_of(description["preprocess"], uri)
    encoder_config = encoder_config_of(config, uri)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(config["seed"])
        encoder = build_encoder(encoder_config, preprocess.image_size)
        text = None
        if "text" in description:
            text = TextTower(text_config(description["text"], uri), encoder.embed_dim)
    return encoder, text, preprocess
