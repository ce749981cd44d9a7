"""The weights under this project's own names: an artifact like any other."""

import torch

from models import artifact as artifacts
from models.artifact import Artifact
from models.publishing.form import Embed, Form
from models.publishing.places import without_places


class SafetensorsForm(Form):
    """Plain safetensors with the description that `afield.load` reads."""

    name = "safetensors"
    packages = ("safetensors",)
    files = ("encoder.safetensors", "artifact.json")

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
        )

    def load(self, folder: str) -> Embed:
        """Load the artifact."""
        return torch.no_grad()(artifacts.load(folder))

    def usage(self) -> str:
        """Return the lines that load the artifact and embed."""
        return 'import afield\n\nmodel = afield.load(".")\nembedding = model(images)'
