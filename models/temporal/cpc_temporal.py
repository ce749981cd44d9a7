"""Contrastive predictive coding over time (van den Oord 2018, arXiv:1807.03748).

Each frame of a clip is encoded by itself, a recurrent network reads them in their order, and the
features of later frames must be told from those of other times and other clips. What changes slowly
and can be foreseen is kept. log N - loss bounds the mutual information of past and future from
below.

It cheats where a frame can know of another: by batch norm, whose statistics all frames share (an
encoder that has any is refused). The next frames look like the last one, so the first few are not
predicted.
"""

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn

from augment.presets import PLAIN_VIEW, plain_views
from augment.recipe import Views
from models.collectives import global_mean
from models.contrastive.cpc import RowPrediction, global_candidates
from models.encoders.factory import EncoderConfig
from models.health import info_nce_bound
from models.method import Batch, Media, Method, MethodConfig, ViewGroups


class CPCTemporalConfig(MethodConfig):
    """Settings of CPC over time."""

    name: Literal["cpc_temporal"] = "cpc_temporal"
    num_ahead: int = Field(
        default=4, ge=1, description="frames predicted from each frame's context, at most"
    )
    skip: int = Field(
        default=1,
        ge=0,
        description="frames next to the context that are not predicted, as they look like it",
    )
    context_dim: int = Field(default=256, ge=1, description="features of the recurrent network")


class CPCTemporal(Method):
    """Encoder of frames, a recurrent network that reads them, and InfoNCE of later frames.

    Raises:
        ValueError: the encoder does not embed frames one by one, or has batch norm.
    """

    Config: ClassVar[type[MethodConfig]] = CPCTemporalConfig
    small: ClassVar[MethodConfig] = CPCTemporalConfig(context_dim=16)
    view_groups: ClassVar[ViewGroups] = {PLAIN_VIEW: 1}
    media: ClassVar[Media] = "clip"
    accumulates: ClassVar[bool] = False

    @staticmethod
    def default_views(size: int) -> Views:
        """Make a single crop and flip, colours untouched."""
        return plain_views(size, (0.4, 1.0))

    def __init__(
        self, config: CPCTemporalConfig, encoder_config: EncoderConfig, views: Views, seed: int
    ) -> None:
        super().__init__(config, encoder_config, views, seed)
        by = "method.name=cpc_temporal"
        self.encoder.require("frames", by)
        if self.encoder.mixes_images:
            raise ValueError(
                f"encoder.name={self.encoder.name} has batch norm, by which frames know of each"
                f" other; {by} needs encoder.norm=layer or none (resnet18_small), or a transformer"
            )
        dim = self.encoder.embed_dim
        self.context = nn.GRU(dim, config.context_dim, batch_first=True)
        # offsets that a clip is too short for are left out as it comes
        most = config.skip + config.num_ahead + 1
        self.prediction = RowPrediction(
            config.context_dim, dim, most, config.skip, config.num_ahead
        )

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Predict later frames from each frame's context.

        Returns:
            loss: InfoNCE, nats; mean over the predictions of a clip and over the global batch's
                valid samples. Candidates are all frames of all valid clips: N of them give log N at
                chance.
            info_nce_bound: log N - loss, nats.
            embedding: The mean of the frames' features (B, D), detached; rows of invalid samples
                included.

        Raises:
            ValueError: clips have too few frames.
        """
        clips = batch["views"][PLAIN_VIEW][0]  # (B, T, 3, S, S)
        least = self.prediction.offsets[-1] + 1
        if clips.shape[1] < least:
            raise ValueError(
                f"method.name=cpc_temporal needs clip.num_frames>={least}: or lower"
                " method.num_ahead or method.skip"
            )
        frames = self.encoder.frames(clips)  # (B, T, D)
        context, _ = self.context(frames)
        features = frames.unsqueeze(2)  # (B, T, 1, D)
        candidates, bias = global_candidates(features, batch["valid"])
        per_sample = self.prediction(context.unsqueeze(2), features, candidates, bias)
        loss = global_mean(per_sample, batch["valid"])
        return {
            "loss": loss,
            "info_nce_bound": info_nce_bound(loss, (bias == 0).sum()),
            "embedding": frames.mean(dim=1).detach(),
        }
