"""The encoder that embeddings were made by, for pictures that are not among them."""

from collections.abc import Sequence

import numpy as np
import torch

from jobs.cluster import launch
from jobs.searching.sample_rows import Sample, read
from jobs.setup import registered, run_artifact
from jobs.setup.failures import InputError
from jobs.setup.inputs import load_artifact
from jobs.setup.sections import SourceConfig
from jobs.setup.value_range import limits_for
from models.artifact import Artifact
from pipelines import schema
from pipelines.embeddings.embed import embedded
from pipelines.embeddings.features import Extractor
from pipelines.embeddings.stored import Stored
from pipelines.media.clips import Sampling
from pipelines.samples.of_views import seen_by
from pipelines.storage import uris
from pipelines.stream.shapes import Centre, of_media


class Encoding:
    """Embeds files as a corpus was embedded.

    Args:
        stored: Its embeddings.
        artifact: The encoder's place, as the user gave it; None: the recorded one.
    """

    def __init__(self, stored: Stored, artifact: str | None) -> None:
        self._stored = stored
        self._given = artifact

    def embed_files(self, files: Sequence[Sample]) -> np.ndarray:
        """Embed files as the corpus was: of videos the clip in the middle, the mean of its frames'
        vectors, or where single frames were embedded the one in the middle.

        Returns:
            (B, D) float32.

        Raises:
            InputError: a file cannot be used, or the artifact is not there or another one.
        """
        place, encoder = self.encoder()
        if encoder.of_texts is not None:
            raise InputError(
                f"query {files[0].uri}: the encoder of the embeddings reads texts: give one as text"
            )
        made_by = self._stored.column
        limits = limits_for(encoder, SourceConfig(uri="-").limits())
        taken = Sampling.seen_by(encoder)
        if encoder.num_frames is None:
            taken = made_by.taken or taken
        frames = None if taken.as_frames else taken.num_frames
        series, shape = seen_by(encoder) or (None, of_media(Centre(encoder.image_size), frames))
        found = read(files, shape, limits, sampling=taken, series=series)
        for file, problem in zip(files, found.problems, strict=True):
            if problem:
                raise InputError(f"query {file.uri} cannot be used: {problem}; give another file")
        columns = {schema.EMBEDDING: made_by.features(place)}
        images = {encoder.image_size: torch.from_numpy(found.columns[schema.IMAGE])}
        vectors = embedded(Extractor(columns), images, columns)
        return vectors[schema.EMBEDDING].float().numpy()

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Embed texts, where the embeddings are of texts, or those that texts are compared with.

        Returns:
            (N, P) float32.

        Raises:
            InputError: they are not, or the artifact is not there or another one.
        """
        form = self._stored.column.form
        encoder = self.encoder()[1] if form in ("joint", "pooled") else None
        if encoder is None or (form == "pooled" and encoder.of_texts is None):
            raise InputError(
                f"text needs embeddings that texts are compared with, and {self._stored.uri} holds"
                f" form={form}: export an artifact of images and captions with form=joint, or an"
                " encoder of texts"
            )
        try:
            return encoder.embed_texts(texts).numpy()
        except ValueError as error:
            raise InputError(f"text: {error}") from None

    def encoder(self) -> tuple[str, Artifact]:
        """Return the encoder of the embeddings, and where it lies.

        Raises:
            InputError: it is not there, or another one is.
        """
        place = self._place()
        encoder = load_artifact(place)
        known = self._stored.column.artifact_digest
        if encoder.digest != known:
            raise InputError(
                f"artifact {place} is another encoder ({encoder.digest[:12]}) than the embeddings"
                f" were made by ({known[:12]}): give that one as artifact="
            )
        return place, encoder

    def _place(self) -> str:
        """Return where the artifact lies.

        Raises:
            InputError: nobody says, or it is not there.
        """
        if self._given is not None:
            place = launch.user_uri("artifact", self._given)
            registered.check_reachable("artifact", place)
            return run_artifact.find(place, began=self._stored.column.artifact_digest)
        recorded = self._stored.column.artifact
        if not recorded or not uris.exists(uris.join(recorded, run_artifact.DESCRIPTION)):
            where = f"{recorded}, which is gone" if recorded else "a place that is not recorded"
            raise InputError(
                "a file or text is embedded by the encoder of the embeddings, which lay at"
                f" {where}: give its place now as artifact="
            )
        return recorded
