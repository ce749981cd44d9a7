"""iBOT (Zhou 2022, arXiv:2111.07832).

DINO, and masked image modelling with the teacher as tokenizer: blocks of the student's large crops
are hidden behind one learned token, and for each hidden patch it must give the distribution over
prototypes that the teacher, who sees the patch, gives for it. Images and patches share a head, so
that patches inherit the meaning that images acquire. It collapses as DINO does, of images and of
patches: each have a centre of their own. It is a ViT's method; with `encoder.pooling=class`, as in
the paper, the class token is the image.
"""

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from augment.recipe import Views
from models.joint_embedding.masked_distillation import MaskedDistillation, MaskedDistillationConfig
from models.joint_embedding.self_distillation import multi_crop_views
from models.method import Batch, MethodConfig


class IBOTConfig(MaskedDistillationConfig):
    """iBOT's settings; the defaults are the paper's for ViT-S on ImageNet."""

    name: Literal["ibot"] = "ibot"
    num_prototypes: int = Field(
        default=8192, ge=2, description="length K of the compared distributions"
    )
    teacher_temperature: float = Field(
        default=0.07,
        gt=0.0,
        description="divides the teacher's outputs after the warm-up; above 0.07 it collapses",
    )


class IBOT(MaskedDistillation):
    """A student and a teacher, and the cross entropy of their outputs between views and at hidden
    patches."""

    Config: ClassVar[type[MethodConfig]] = IBOTConfig
    small: ClassVar[MethodConfig] = IBOTConfig(
        hidden_dim=64, bottleneck_dim=16, num_prototypes=20, center_momentum=0.99
    )

    @staticmethod
    def default_views(size: int) -> Views:
        """Make the views of the authors: two large ones, ten small ones, `local_crops`.

        Args:
            size: Side of the two large views, px; the small ones have `local_size`.
        """
        return multi_crop_views(
            size, num_local=10, global_scale=(0.25, 1.0), local_scale=(0.05, 0.25)
        )

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Predict the teacher's outputs, of other views and of hidden patches.

        Returns:
            What `compare` tells, and the teacher's embedding of the first large crop (B, D); rows
            of invalid samples included.
        """
        return self.compare(self.look(batch), batch["valid"])
