"""The weights under this project's own names: an artifact like any other."""

import torch
from torch import Tensor

from models import artifact as artifacts
from models.artifact import Artifact
from models.publishing.form import EMBEDDING, Form, Outputs, Tell
from models.publishing.places import without_places
from models.supervised.head import Head


class SafetensorsForm(Form):
    """Plain safetensors with the description that `afield.load` reads."""

    name = "safetensors"
    packages = ("safetensors",)
    scores = "probabilities"
    files: tuple[str, ...] = ("encoder.safetensors", "artifact.json")

    def __init__(self, artifact: Artifact) -> None:
        super().__init__(artifact)
        held = {"head.safetensors": artifact.head, "text.safetensors": artifact.text}
        held["tokenizer.json"] = artifact.text
        beside = [name for name, part in held.items() if part is not None]
        self.files = ("encoder.safetensors", *beside, "artifact.json")

    def check_head(self, head: Head) -> None:
        """Take every head."""

    def write(self, folder: str) -> None:
        """Write weights and description, without the places of the machine that trained."""
        made: Artifact = self.artifact
        provenance = without_places(made.provenance)
        config = without_places(made.config)
        if config != made.config:  # its digest will be another one
            provenance["published_from"] = made.digest
        artifacts.save(
            folder,
            made.encoder,
            config=config,
            preprocess=made.prepared.model_dump(mode="json"),
            provenance=provenance,
            head=made.head,
            text=made.text,
        )

    @property
    def outputs(self) -> tuple[str, ...]:
        """Return the embedding, and probabilities where prepared images are what the head takes."""
        boxes = self.head is not None and self.head.config.task == "boxes"
        return (EMBEDDING,) if boxes else super().outputs

    def wanted(self, images: Tensor) -> Outputs:
        """Return what the artifact gives of prepared images (B, 3, S, S)."""
        return _told(self.artifact, images, self.outputs)

    def load(self, folder: str) -> Tell:
        """Load the artifact."""
        made = artifacts.load(folder)
        return torch.no_grad()(lambda images: _told(made, images, self.outputs))

    def usage(self) -> str:
        """Return the lines that load the artifact, embed and tell."""
        lines = 'import afield\n\nmodel = afield.load(".")\nembedding = model(images)'
        told = "\nprobabilities = model.predict(images)" if self.scores in self.outputs else ""
        text = self.artifact.text is not None
        compared = "\nalike = model.joint(images) @ model.embed_texts(texts).T" if text else ""
        return lines + told + compared


def _told(made: Artifact, images: Tensor, outputs: tuple[str, ...]) -> Outputs:
    told: Outputs = {EMBEDDING: made(images)}
    return told | {name: made.predict(images) for name in outputs if name != EMBEDDING}
