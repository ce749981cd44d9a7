"""What iBOT and DINOv2 share beyond DINO: the student's large crops are hidden in blocks, and the
teacher, who sees all of them, says what each hidden patch is."""

from typing import ClassVar, NamedTuple

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from augment.masking import MaskKey, block_mask, drawn_num_hidden
from augment.recipe import Views
from models.blocks.ema import frozen_copy
from models.blocks.multi_crop import encode_by_size
from models.blocks.patchify import cover
from models.collectives import global_mean
from models.encoders.encoder import Hidden
from models.encoders.factory import EncoderConfig
from models.joint_embedding.self_distillation import (
    PrototypeHead,
    SelfDistillation,
    SelfDistillationConfig,
    signs_of_life,
)
from models.losses import cross_view_entropy
from models.method import UNLIKE_VIEWS, Batch

_NUM_LARGE = len(UNLIKE_VIEWS)


class MaskedDistillationConfig(SelfDistillationConfig):
    """Settings of iBOT and DINOv2; the defaults are iBOT's for ViT-S on ImageNet."""

    mask_probability: float = Field(
        default=0.5, ge=0.0, le=1.0, description="share of the student's large crops with a mask"
    )
    mask_ratio: tuple[float, float] = Field(
        default=(0.1, 0.5),
        description="least and greatest share of the patches hidden in those; drawn evenly",
    )
    patch_weight: float = Field(
        default=1.0, ge=0.0, description="weight of the hidden patches' loss beside the images'"
    )
    share_heads: bool = Field(
        default=True, description="images and patches have one head, and so the same prototypes"
    )

    @model_validator(mode="after")
    def _ratios_in_order(self) -> "MaskedDistillationConfig":
        low, high = self.mask_ratio
        if not 0 < low <= high < 1:
            raise ValueError(
                "method.mask_ratio must be two shares in (0, 1), the smaller one first, got"
                f" {list(self.mask_ratio)}"
            )
        return self


class Looked(NamedTuple):
    """What the encoders made of a batch.

    Attributes:
        student: The student's embeddings, (V, B, D); those of large crops come first.
        student_patches: Its patch tokens of the large crops, partly hidden, (2, B, N, D).
        teacher: Embeddings of the large crops, (2, B, D).
        teacher_patches: (2, B, N, D).
        mask: (2, B, N) bool, true where hidden from the student.
    """

    student: Tensor
    student_patches: Tensor
    teacher: Tensor
    teacher_patches: Tensor
    mask: Tensor


class MaskedDistillation(SelfDistillation):
    """DINO on the embeddings, and the same on the patches that the student does not see.

    Raises:
        ValueError: the encoder gives no patch tokens.
    """

    places: ClassVar[tuple[str, ...]] = ("center", "patch_center")
    trains_patches: ClassVar[bool] = True
    settings: MaskedDistillationConfig

    def __init__(
        self,
        config: MaskedDistillationConfig,
        encoder_config: EncoderConfig,
        views: Views,
        seed: int,
    ) -> None:
        super().__init__(config, encoder_config, views, seed)
        self.encoder.require("tokens", by=f"method.name={config.name}")
        self.mask_token = nn.Parameter(torch.empty(self.encoder.embed_dim))
        nn.init.trunc_normal_(self.mask_token, std=0.02)
        if not config.share_heads:
            self.student_patch_head = PrototypeHead(self.encoder.embed_dim, config)
            self.teacher_patch_head = frozen_copy(self.student_patch_head)

    def heads(self) -> list[tuple[PrototypeHead, PrototypeHead]]:
        """Return the heads, each student's with its teacher's; that of the patches is the last."""
        if self.settings.share_heads:
            return super().heads()
        return [*super().heads(), (self.student_patch_head, self.teacher_patch_head)]

    def masks(self, batch: Batch) -> Tensor:
        """Draw what is hidden of each large crop, (2, B, N) bool."""
        config = self.settings
        masks = list[Tensor]()
        for view in range(_NUM_LARGE):
            key = MaskKey(self.seed, batch["epoch"], batch["sample_id"], view)
            num_hidden = drawn_num_hidden(
                self.encoder.num_patches, config.mask_ratio, config.mask_probability, key
            )
            masks.append(block_mask(self.encoder.grid, num_hidden, key))
        return torch.stack(masks)

    def look(self, batch: Batch) -> Looked:
        """Encode the crops: the student's large ones with hidden patches, the teacher's whole."""
        crops = [batch["views"][name] for name in self.groups]
        large = torch.cat([crop.flatten(0, 1) for crop in crops[:_NUM_LARGE]])  # (2 * B, 3, S, S)
        shape = (_NUM_LARGE, len(batch["valid"]))
        mask = self.masks(batch)
        hidden = Hidden(mask.flatten(0, 1), self.mask_token)
        seen = self.student_encoder.tokens(large, hidden=hidden)
        student = self.student_encoder.pool(seen).unflatten(0, shape)
        if len(crops) > _NUM_LARGE:
            small = encode_by_size(self.student_encoder, crops[_NUM_LARGE:])
            student = torch.cat([student, small])
        with torch.no_grad():
            whole = self.encoder.tokens(large)
            teacher = self.encoder.pool(whole).unflatten(0, shape)
        return Looked(
            student,
            seen.patches.unflatten(0, shape),
            teacher,
            whole.patches.unflatten(0, shape),
            mask,
        )

    def compare(self, looked: Looked, valid: Tensor) -> dict[str, Tensor]:
        """Compare student and teacher, of images and of hidden patches.

        Returns:
            loss: Sum of the two, weighted.
            image_loss: Cross entropy, nats, mean over pairs of views and the global batch's valid
                samples; log K at chance.
            patch_loss: The same of a large crop's hidden patches, 0 in a crop without; mean over
                both crops and the global batch's valid samples. At chance log K times the share of
                crops with a mask.
            target_entropy, divergence, prototype_entropy: As `signs_of_life`, of the images.
            patch_target_entropy: Of a hidden patch's target, nats; this worker's.
        """
        outputs = self.student_head(looked.student)  # (V, B, K)
        with torch.no_grad():
            teacher_outputs = self.teacher_head(looked.teacher)
        targets = self.aim(teacher_outputs, valid.expand(_NUM_LARGE, -1).float())
        with torch.autocast(outputs.device.type, enabled=False):
            log_p = (outputs / self.settings.student_temperature).log_softmax(-1)
            per_sample = cross_view_entropy(targets, log_p)
        image_loss = global_mean(per_sample, valid)
        patch_loss, patch_entropy = self._compare_patches(looked, valid)
        return {
            "loss": image_loss + self.settings.patch_weight * patch_loss,
            "image_loss": image_loss.detach(),
            "patch_loss": patch_loss.detach(),
            **signs_of_life(targets, per_sample, valid),
            "patch_target_entropy": patch_entropy,
            "embedding": looked.teacher[0],
        }

    def _compare_patches(self, looked: Looked, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss of the hidden patches, and the mean entropy of their targets."""
        student_head, teacher_head = self.heads()[-1]
        # As many places in every crop as may be hidden at the most: nothing waits for the device.
        most = round(self.settings.mask_ratio[1] * looked.mask.shape[-1])
        places = looked.mask.int().argsort(dim=-1, descending=True, stable=True)[..., :most]
        hidden = looked.mask.gather(-1, places).float()  # (2, B, M)
        index = places.unsqueeze(-1).expand(-1, -1, -1, looked.teacher.shape[-1])
        outputs = student_head(looked.student_patches.gather(2, index))  # (2, B, M, K)
        with torch.no_grad():
            teacher_outputs = teacher_head(looked.teacher_patches.gather(2, index))
        weight = hidden * valid.unsqueeze(-1)
        targets = self.aim(teacher_outputs, weight, self.places[1])
        with torch.autocast(outputs.device.type, enabled=False):
            log_p = (outputs / self.settings.student_temperature).log_softmax(-1)
            entropy = -(targets * log_p).sum(-1)  # (2, B, M)
            per_crop = (entropy * hidden).sum(-1) / hidden.sum(-1).clamp(min=1)  # (2, B)
        spread = (torch.special.entr(targets).sum(-1) * weight).sum() / weight.sum().clamp(min=1)
        return global_mean(per_crop.mean(0), valid), spread

    @torch.no_grad()
    def show(self, batch: Batch) -> dict[str, Tensor]:
        """Draw the first large crop as the student sees it."""
        images = self.to_rgb(batch["views"][UNLIKE_VIEWS[0]][0].float())
        mask = self.masks(batch)[0]
        return {"student sees": cover(images, mask, self.encoder.patch_size)}
