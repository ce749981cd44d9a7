"""The methods and views of `benchmarks.lightly_training` by lightly's own transforms, heads and
losses. lightly is in the optional extra `bench`.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from augment.recipe import CropGroup, Views
from models.blocks.ema import cosine_momentum, frozen_copy


def view(group: CropGroup, views: Views, size: int) -> Callable[[Any], Any]:
    """lightly's transform for one view of a group."""
    from lightly.transforms.dino_transform import DINOViewTransform

    jitter, grey, blur, solarize = group.color_jitter, group.greyscale, group.blur, group.solarize
    made: Callable[[Any], Any] = DINOViewTransform(
        crop_size=size,
        crop_scale=group.scale,
        hf_prob=group.flip,
        cj_prob=jitter.p if jitter else 0.0,
        cj_strength=1.0,
        cj_bright=jitter.brightness if jitter else 0.0,
        cj_contrast=jitter.contrast if jitter else 0.0,
        cj_sat=jitter.saturation if jitter else 0.0,
        cj_hue=jitter.hue if jitter else 0.0,
        random_gray_scale=grey.p if grey else 0.0,
        gaussian_blur=blur.p if blur else 0.0,
        sigmas=blur.sigma if blur else (0.1, 2.0),
        solarization_prob=solarize.p if solarize else 0.0,
        normalize={"mean": list(views.mean), "std": list(views.std)},
    )
    return made


class AllViews:
    """The views of a recipe by lightly: a list a group."""

    def __init__(self, views: Views) -> None:
        groups = views.groups.items()
        self.made = [
            (view(group, views, views.group_size(name)), group.count) for name, group in groups
        ]

    def __call__(self, image: Any) -> list[list[Any]]:
        """Cut them all from one image."""
        return [[transform(image) for _ in range(count)] for transform, count in self.made]


class Learner(nn.Module):
    """What a method trains, and its step; as lightly's examples write them.

    Attributes:
        ships: The encoder that is probed.
    """

    ships: nn.Module

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = self.ships = encoder

    def loss(self, crops: list[list[Tensor]], done: float, num_steps: int) -> Tensor:
        """Compute the objective of one batch: crops by group and view, (B, 3, S, S) each, `done` of
        the run made."""
        raise NotImplementedError


class SimCLR(Learner):
    """lightly's SimCLR."""

    def __init__(self, encoder: nn.Module, dim: int, settings: Any) -> None:
        from lightly.loss import NTXentLoss
        from lightly.models.modules import SimCLRProjectionHead

        super().__init__(encoder)
        self.head = SimCLRProjectionHead(dim, settings.hidden_dim, settings.projection_dim)
        self.criterion = NTXentLoss(temperature=settings.temperature)

    def loss(self, crops: list[list[Tensor]], done: float, num_steps: int) -> Tensor:
        """Contrast two views."""
        first, second = (self.head(self.encoder(crop)) for crop in crops[0])
        value: Tensor = self.criterion(first, second)
        return value


class MoCo(Learner):
    """lightly's MoCo v2, keys one way as here."""

    def __init__(self, encoder: nn.Module, dim: int, settings: Any) -> None:
        from lightly.loss import NTXentLoss
        from lightly.models.modules import MoCoProjectionHead

        super().__init__(encoder)
        self.momentum = settings.momentum
        self.head = MoCoProjectionHead(dim, settings.hidden_dim, settings.projection_dim)
        self.teacher, self.teacher_head = frozen_copy(encoder), frozen_copy(self.head)
        bank = (settings.queue_size, settings.projection_dim)
        self.criterion = NTXentLoss(temperature=settings.temperature, memory_bank_size=bank)

    def loss(self, crops: list[list[Tensor]], done: float, num_steps: int) -> Tensor:
        """Find a view's key in front of the queue."""
        from lightly.models.utils import update_momentum

        update_momentum(self.encoder, self.teacher, self.momentum)
        update_momentum(self.head, self.teacher_head, self.momentum)
        query = self.head(self.encoder(crops[0][0]))
        with torch.no_grad():
            key = self.teacher_head(self.teacher(crops[0][1]))
        value: Tensor = self.criterion(query, key)
        return value


class BYOL(Learner):
    """lightly's BYOL."""

    def __init__(self, encoder: nn.Module, dim: int, settings: Any) -> None:
        from lightly.loss import NegativeCosineSimilarity
        from lightly.models.modules import BYOLPredictionHead, BYOLProjectionHead

        super().__init__(encoder)
        self.momentum = settings.momentum
        self.head = BYOLProjectionHead(dim, settings.hidden_dim, settings.projection_dim)
        self.prediction = BYOLPredictionHead(
            settings.projection_dim, settings.hidden_dim, settings.projection_dim
        )
        self.teacher, self.teacher_head = frozen_copy(encoder), frozen_copy(self.head)
        self.criterion = NegativeCosineSimilarity()

    def loss(self, crops: list[list[Tensor]], done: float, num_steps: int) -> Tensor:
        """Predict the teacher's projection both ways."""
        from lightly.models.utils import update_momentum

        momentum = cosine_momentum(round(done * num_steps), num_steps, self.momentum)
        update_momentum(self.encoder, self.teacher, momentum)
        update_momentum(self.head, self.teacher_head, momentum)
        views = [group[0] for group in crops]
        predictions = [self.prediction(self.head(self.encoder(x))) for x in views]
        with torch.no_grad():
            targets = [self.teacher_head(self.teacher(x)) for x in views]
        value: Tensor = (
            self.criterion(predictions[0], targets[1]) + self.criterion(predictions[1], targets[0])
        ) / 2
        return value


class SwAV(Learner):
    """lightly's SwAV with its queue."""

    def __init__(self, encoder: nn.Module, dim: int, settings: Any) -> None:
        from lightly.loss import SwaVLoss
        from lightly.loss.memory_bank import MemoryBankModule
        from lightly.models.modules import SwaVProjectionHead, SwaVPrototypes

        super().__init__(encoder)
        self.settings = settings
        self.head = SwaVProjectionHead(dim, settings.hidden_dim, settings.projection_dim)
        self.prototypes = SwaVPrototypes(settings.projection_dim, settings.num_prototypes, 1)
        self.criterion = SwaVLoss(
            settings.temperature, settings.sinkhorn_iterations, settings.epsilon
        )
        size = (settings.queue_size, settings.projection_dim)
        self.queues = nn.ModuleList(MemoryBankModule(size) for _ in range(2))

    def loss(self, crops: list[list[Tensor]], done: float, num_steps: int) -> Tensor:
        """Predict the large crops' assignments."""
        self.prototypes.normalize()
        large = [functional.normalize(self.head(self.encoder(x))) for x in crops[0]]
        small = [
            functional.normalize(self.head(self.encoder(x))) for group in crops[1:] for x in group
        ]
        step = round(done * num_steps)
        scores = [[self.prototypes(z, step) for z in each] for each in (large, small)]
        with torch.no_grad():
            kept = [
                bank(z.detach(), update=True)[1].T
                for bank, z in zip(self.queues, large, strict=True)
            ]
            queued = (
                [self.prototypes(rows, step) for rows in kept]
                if done >= self.settings.queue_start_fraction
                else None
            )
        value: Tensor = self.criterion(*scores, queued)
        return value


class DINO(Learner):
    """lightly's DINO; the teacher is probed, as here."""

    def __init__(self, encoder: nn.Module, dim: int, settings: Any) -> None:
        from lightly.loss import DINOLoss
        from lightly.models.modules import DINOProjectionHead

        super().__init__(encoder)
        self.settings = settings
        widths = (settings.hidden_dim, settings.bottleneck_dim, settings.num_prototypes)
        self.head, self.teacher_head = (
            DINOProjectionHead(dim, *widths, norm_last_layer=True) for _ in range(2)
        )
        self.teacher_head.load_state_dict(
            self.head.state_dict()
        )  # its weight norm refuses to be copied
        self.ships = frozen_copy(encoder)
        self.criterion = DINOLoss(
            output_dim=settings.num_prototypes,
            student_temp=settings.student_temperature,
            center_momentum=settings.center_momentum,
        )

    def loss(self, crops: list[list[Tensor]], done: float, num_steps: int) -> Tensor:
        """Predict the teacher's outputs for the large crops."""
        from lightly.models.utils import update_momentum

        momentum = cosine_momentum(round(done * num_steps), num_steps, self.settings.momentum)
        update_momentum(self.encoder, self.ships, momentum)
        update_momentum(self.head, self.teacher_head, momentum)
        large, everything = [group[0] for group in crops[:2]], [x for group in crops for x in group]
        with torch.no_grad():
            targets = [self.teacher_head(self.ships(x)) for x in large]
        outputs = [self.head(self.encoder(x)) for x in everything]
        value: Tensor = self.criterion(
            targets, outputs, teacher_temp=self.settings.teacher_temperature
        )
        return value


LEARNERS: dict[str, Callable[[nn.Module, int, Any], Learner]] = {
    "simclr": SimCLR,
    "moco": MoCo,
    "byol": BYOL,
    "swav": SwAV,
    "dino": DINO,
}
