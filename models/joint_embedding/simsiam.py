"""SimSiam (Chen & He 2020, arXiv:2011.10566).

BYOL without the moving copy: one view's prediction must equal the other view's projection, through
which no gradient flows. The stop-gradient alone keeps it from collapsing; without it the loss
reaches its minimum at once and the spread of the features goes to zero, as it does without batch
norm in the heads.
"""

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from augment.presets import moco_v2_views
from augment.recipe import Views
from models import health, optim
from models.blocks.heads import mlp
from models.collectives import global_mean
from models.encoders.factory import EncoderConfig
from models.method import Batch, Method, MethodConfig, ViewGroups

_GROUP = "global_crops"


class SimSiamConfig(MethodConfig):
    """SimSiam's settings; the defaults are the paper's for ImageNet."""

    name: Literal["simsiam"] = "simsiam"
    projection_dim: int = Field(
        default=2048, ge=2, description="features of every layer of the projection head"
    )
    prediction_dim: int = Field(
        default=512,
        ge=1,
        description="features of the prediction head's hidden layer, its bottleneck",
    )
    fixed_prediction_lr: bool = Field(
        default=True, description="keep the prediction head at the peak learning rate"
    )
    stop_gradient: bool = Field(
        default=True, description="false: the paper's ablation, which collapses"
    )


class SimSiam(Method):
    """Encoder with two heads and the cosine of prediction and projection both ways."""

    Config: ClassVar[type[MethodConfig]] = SimSiamConfig
    small: ClassVar[MethodConfig] = SimSiamConfig(projection_dim=32, prediction_dim=16)
    view_groups: ClassVar[ViewGroups] = {_GROUP: 2}
    default_views = staticmethod(moco_v2_views)
    takes_clips: ClassVar[bool] = True
    accumulates: ClassVar[bool] = False  # batch norm in the heads

    def __init__(
        self, config: SimSiamConfig, encoder_config: EncoderConfig, views: Views, seed: int
    ) -> None:
        super().__init__(config, encoder_config, views, seed)
        self.fixed_prediction_lr = config.fixed_prediction_lr
        self.stop_gradient = config.stop_gradient
        dim = config.projection_dim
        self.projection_head = mlp([self.encoder.embed_dim, dim, dim, dim], last_norm=True)
        self.prediction_head = mlp([dim, config.prediction_dim, dim])

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Predict each view's projection from the other.

        Returns:
            loss: Negative cosine, mean of both directions and over the global batch's valid
                samples, in -1..1.
            projection_std: Spread of this worker's normalised projections; 1 / sqrt(projection_dim)
                when they are spread evenly, 0 when collapsed (the paper's figure 2).
            embedding: The encoder's output for the first view (B, D), detached; rows of invalid
                samples included.
        """
        embeddings = [self.encoder(view) for view in batch["views"][_GROUP]]  # (B, D) each
        projections = [self.projection_head(embedding) for embedding in embeddings]
        predictions = [self.prediction_head(projection) for projection in projections]
        targets = [(z.detach() if self.stop_gradient else z).float() for z in projections]
        cosines = [
            functional.cosine_similarity(predictions[i].float(), targets[1 - i], dim=-1)
            for i in range(2)
        ]
        return {
            "loss": global_mean(-(cosines[0] + cosines[1]) / 2, batch["valid"]),
            "projection_std": health.feature_std(targets[0]),
            "embedding": embeddings[0].detach(),
        }

    def param_groups(self) -> list[optim.ParamGroup]:
        """Split as usual, the prediction head apart from the rest."""
        head = optim.param_groups(self.prediction_head)
        for group in head:
            group["name"] = f"prediction_head_{group['name']}"
            group["fixed_lr"] = self.fixed_prediction_lr
        return optim.param_groups(nn.ModuleList([self.encoder, self.projection_head])) + head
