"""Pretrain with lightly's transforms, heads, losses and loop, beside the same recipe here.

python -m benchmarks.lightly_training train=DIR test=DIR out=DIR [methods=simclr,...] [num_epochs=4]
[seed=0]

DIRs hold a folder a class; the classes are for the probe only. Both sides take the small recipe:
encoder and initial weights, views, batch, optimiser and schedule, passes. They run in turn, each a
command of its own with the same allocator settings; lightly's feeds from a DataLoader of as many
processes as there are cores. One JSON row a method goes to out/rows.jsonl. lightly is in the
optional extra `bench`.
"""

import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from augment.recipe import CropGroup, Views
from benchmarks.job_runs import Row, add_row, images_per_s, job, probes, read_rows, settings
from jobs.cluster.cores import own_cores
from jobs.setup.command_line import parse
from jobs.training.run_config import PretrainConfig, complete_pretrain
from models import artifact, optim
from models.blocks.ema import cosine_momentum, frozen_copy
from models.encoders.factory import build_encoder

USAGE = " ".join((__doc__ or "").split("\n\n")[1].split())
MALLOC = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(1 << 30)}


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


def train(config: PretrainConfig) -> None:
    """Run lightly's loop of a recipe and write its encoder as an artifact into `out`."""
    from torch.utils.data import DataLoader
    from torchvision.datasets import ImageFolder

    assert config.num_epochs is not None
    torch.manual_seed(config.seed)
    encoder = build_encoder(config.encoder, config.views.size)
    learner = LEARNERS[config.method.name](encoder, encoder.embed_dim, config.method)
    learner.to(memory_format=torch.channels_last)
    images = ImageFolder(config.source.uri, AllViews(config.views))
    batch = config.global_batch_size
    workers = own_cores()
    loader = DataLoader(
        images, batch, shuffle=True, drop_last=True, num_workers=workers, persistent_workers=True
    )
    num_steps = int(config.num_epochs * len(images)) // batch
    peak = optim.peak_lr(config.optim, batch)
    optimizer = optim.build_optimizer(optim.param_groups(learner), config.optim, peak)
    rates, step, begun = list[float](), 0, time.monotonic()
    for _ in range(math.ceil(num_steps / len(loader))):
        for crops, _ in loader:
            optim.set_schedule(optimizer, config.optim, step=step, num_steps=num_steps, peak=peak)
            crops = [
                [x.contiguous(memory_format=torch.channels_last) for x in group] for group in crops
            ]
            loss = learner.loss(crops, step / num_steps, num_steps)
            optimizer.zero_grad()
            loss.backward()
            if (limit := config.optim.clip_grad_norm) is not None:
                nn.utils.clip_grad_norm_(learner.parameters(), limit)
            optimizer.step()
            step += 1
            if step % 10 == 0:
                now = time.monotonic()
                rates.append(10 * batch / (now - begun))
                begun = now
                print(
                    f"step {step}/{num_steps}  loss {loss.item():.4f}  img/s {rates[-1]:.0f}",
                    file=sys.stderr,
                )
            if step == num_steps:
                break
    provenance = {
        "images_per_s": statistics.median(rates[1:] or rates),
        "steps": step,
        "loss": loss.item(),
    }
    dump = config.model_dump(mode="json")
    prepared = {"image_size": config.views.size, "mean": config.views.mean, "std": config.views.std}
    kept = {"encoder": dump["encoder"], "seed": config.seed}
    artifact.save(
        config.out, learner.ships, config=kept, preprocess=prepared, provenance=provenance
    )


def compare(method: str, given: dict[str, str]) -> Row:
    """Both sides of one method: seconds of the whole commands, rates, and kNN."""
    words = [f"{method}_small", f"source.uri={given['train']}", f"seed={given['seed']}"]
    words.append(f"num_epochs={given['num_epochs']}")
    ours, theirs = (str(Path(given["out"], f"{method}-{side}")) for side in ("afield", "lightly"))
    trained = job("pretrain", *words, f"out={ours}")
    begun = time.monotonic()
    niceness = ["nice", "-n", "15"]  # as Ray's workers
    command = [
        *niceness,
        sys.executable,
        "-m",
        "benchmarks.lightly_training",
        "loop",
        *words,
        f"out={theirs}",
    ]
    subprocess.run(command, check=True, env=os.environ | MALLOC)
    wall_s = time.monotonic() - begun
    row: Row = {
        "method": method,
        "seed": int(given["seed"]),
        "num_epochs": float(given["num_epochs"]),
    }
    row |= {"afield_s": trained["wall_s"], "lightly_s": wall_s, "ratio": wall_s / trained["wall_s"]}
    row["afield_images_per_s"] = images_per_s(ours)
    row["lightly_images_per_s"] = artifact.load(theirs).provenance["images_per_s"]
    for side, uri in (("afield", str(trained["artifact"])), ("lightly", theirs)):
        found = probes(uri, given["train"], given["test"], ["knn"])
        row |= {f"{side}_{key}": value for key, value in found.items()}
    return row


def table(rows: list[Row]) -> str:
    """The rows in Markdown."""
    shown = [
        "| method | kNN, Afield | kNN, lightly | untrained | s, Afield | s, lightly | images/s,"
        " Afield | lightly |"
    ]
    shown.append("|---|" + "---|" * 7)
    for row in rows:
        scores = []
        for key in ("afield_knn", "lightly_knn", "afield_knn_untrained"):
            low, high = row[f"{key}_ci95"]
            scores.append(f"{row[f'{key}_top1']:.3f} ({low:.3f}-{high:.3f})")
        numbers = [
            row[key]
            for key in ("afield_s", "lightly_s", "afield_images_per_s", "lightly_images_per_s")
        ]
        shown.append(
            f"| {' | '.join([row['method'], *scores, *(f'{number:.0f}' for number in numbers)])} |"
        )
    return "\n".join(shown)


def main(words: list[str]) -> int:
    """Compare the methods that have no row yet, then print the table; `loop` runs lightly's side
    alone."""
    if words[:1] == ["loop"]:
        config = parse(complete_pretrain, words[1:])
        assert isinstance(config, PretrainConfig)
        train(config)
        return 0
    defaults = {
        "train": "",
        "test": "",
        "out": "",
        "methods": ",".join(LEARNERS),
        "num_epochs": "4",
        "seed": "0",
    }
    given = settings(words, USAGE, **defaults)
    out = Path(given["out"], "rows.jsonl")
    for method in given["methods"].split(","):
        if not any(
            row["method"] == method and row["seed"] == int(given["seed"]) for row in read_rows(out)
        ):
            add_row(out, compare(method, given))
    print(table(read_rows(out)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
