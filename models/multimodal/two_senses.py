"""What methods share that compare what is seen in a video with what is heard beside it."""

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field
from torch import Tensor

from augment.presets import PLAIN_VIEW
from augment.recipe import Views
from augment.sound.sound_views import scaled
from models.blocks.heads import mlp
from models.encoders.factory import EncoderConfig
from models.method import ViewGroups
from models.multimodal.sound_tower import SoundTower, SoundTowerConfig
from models.multimodal.soundtrack_method import SOUND, SoundtrackConfig, SoundtrackMethod


class TwoSensesConfig(SoundtrackConfig):
    """Settings that methods of an encoder and a tower of sounds share."""

    tower: SoundTowerConfig = SoundTowerConfig()
    projection_dim: int = Field(
        default=256, ge=2, description="features in which clips and sounds are compared"
    )


class TwoSenses(SoundtrackMethod):
    """Encoder of frames or clips, a projection of it, and a tower of sounds."""

    view_groups: ClassVar[ViewGroups] = {PLAIN_VIEW: 1}
    accumulates: ClassVar[bool] = False

    def __init__(
        self, config: TwoSensesConfig, encoder_config: EncoderConfig, views: Views, seed: int
    ) -> None:
        super().__init__(config, encoder_config, views, seed)
        dim = self.encoder.embed_dim
        self.projection_head = mlp([dim, dim, config.projection_dim], norm=False, last_bias=False)
        self.sound_tower = SoundTower(config.tower, config.sound_rate, config.projection_dim)

    def project_beside(self, targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return what the objective compares of sounds (B, V, L), (B, P)."""
        if SOUND not in targets:
            return {}
        return {"sounds": self.sound_tower(scaled(targets[SOUND][:, 0], 1.0))}
