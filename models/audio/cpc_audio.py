"""Contrastive predictive coding of sound (van den Oord 2018, arXiv:1807.03748, section 3.1).

Strided convolutions encode each moment of a window, a GRU reads them in their order, and the
features some steps ahead must be told from those of other moments of the same utterance and of
others. What goes on for longer than a moment is kept: the phone, and who speaks it. log N - loss
bounds the mutual information of past and future from below.

It cheats where a moment can know of later ones: by a norm over time or over the batch, which the
encoder has not, or by a network that reads both ways (refused). Moments overlap by what the
convolutions reach, so the nearest ones are foreseen cheaply; silence foresees silence.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from augment.recipe import AnyViews
from augment.sound.log_mel import heat
from models.audio.sound_method import PICTURE_PX, WINDOWS, SoundMethod
from models.collectives import global_mean
from models.contrastive.cpc import RowPrediction, global_candidates
from models.encoders.factory import EncoderConfig
from models.health import info_nce_bound
from models.method import Batch, MethodConfig


class CPCAudioConfig(MethodConfig):
    """Settings of CPC of sound; the defaults are the paper's."""

    name: Literal["cpc_audio"] = "cpc_audio"
    num_ahead: int = Field(
        default=12, ge=1, description="moments predicted from each moment's context, at most"
    )
    skip: int = Field(
        default=0, ge=0, description="moments next to the context that are not predicted"
    )


class CPCAudio(SoundMethod):
    """Encoder of moments with a network that reads them in order, and InfoNCE of later moments.

    Raises:
        ValueError: the encoder reads both ways, or windows are too short.
    """

    Config: ClassVar[type[MethodConfig]] = CPCAudioConfig
    small: ClassVar[MethodConfig] = CPCAudioConfig(num_ahead=3, skip=1)
    accumulates: ClassVar[bool] = False

    def __init__(
        self, config: CPCAudioConfig, encoder_config: EncoderConfig, views: AnyViews, seed: int
    ) -> None:
        super().__init__(config, encoder_config, views, seed)
        by = "method.name=cpc_audio"
        self.encoder.require("latents", by)
        self.encoder.require("latents_in_order", by)
        with torch.no_grad():
            moments = self.encoder.latents(torch.zeros(1, views.size)).shape[1]
        if moments <= config.skip + 1:
            raise ValueError(
                f"views.size={views.size} gives {moments} moments, too few for"
                f" method.skip={config.skip}: take longer windows"
            )
        dim = self.encoder.embed_dim
        self.prediction = RowPrediction(dim, dim, moments, config.skip, config.num_ahead)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Predict later moments from each moment's context.

        Returns:
            loss: InfoNCE, nats; mean over the predictions of a window and over the global batch's
                valid samples. Candidates are all moments of all valid windows: N of them give log N
                at chance.
            info_nce_bound: log N - loss, nats.
            embedding: The mean of the contexts (B, D), detached; rows of invalid samples included.
        """
        latents = self.encoder.latents(batch["views"][WINDOWS][0])  # (B, T, D)
        context = self.encoder.contextual(latents)
        features = latents.unsqueeze(2)  # (B, T, 1, D)
        candidates, bias = global_candidates(features, batch["valid"])
        per_sample = self.prediction(context.unsqueeze(2), features, candidates, bias)
        loss = global_mean(per_sample, batch["valid"])
        return {
            "loss": loss,
            "info_nce_bound": info_nce_bound(loss, (bias == 0).sum()),
            "embedding": context.mean(dim=1).detach(),
        }

    @torch.no_grad()
    def show(self, batch: Batch) -> dict[str, Tensor]:
        """Draw the windows, and which of their moments are foreseen from their middle: a row a step
        ahead, the nearest on top, bright where a moment is thought likely."""
        latents = self.encoder.latents(batch["views"][WINDOWS][0])
        context = self.encoder.contextual(latents)
        middle = context[:, latents.shape[1] // 2]  # (B, D)
        rows = [
            torch.einsum("bd,btd->bt", weight(middle), latents).softmax(dim=1)
            for weight in self.prediction.weights
        ]
        return {
            "heard": self.heard(batch),
            "foreseen": heat(torch.stack(rows, dim=1), PICTURE_PX),
        }
