"""Looks at an encoder while it trains, without labels, and says what a collapse means for the run.

What tells a collapse is the spread of the projections, which the objective compares: embeddings of
an untrained network point one way as well. Methods without a projection head are judged by how much
the embeddings themselves vary. Measured on CIFAR-10 with SimSiam, the spread as a share of an even
one at steps 25, 50 and 75: 0.94, 0.67, 0.48 as published, and 0.45, 0.10, 0.09 without its
stop-gradient.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from ray.train.collective import broadcast_from_rank_zero
from torch import Tensor

from jobs.corpora.looked_at import read_images
from jobs.training.run_log import Diverged, RunLog
from jobs.training.run_sections import HealthConfig
from jobs.training.training_job import TrainingJob
from models import collectives, health
from models.collectives import gather
from models.method import Method
from models.steps import acceleration, sharding
from models.steps.memory_layout import laid_out
from pipelines import schema
from pipelines.ray_internals import first_line

Result = TypeVar("Result")
EMBEDDED_AT_A_TIME = 128  # images, or frames of clips
PATCHES_OF = 64  # images whose patch tokens are looked at
PLACES = 32  # of an image, whose tokens' rank is taken
_SPREAD = "health_spread"
_BESIDE = "beside_"
_DECIDING = (_SPREAD, "health_rankme", "health_variation", "health_patch_variation")


@dataclass(frozen=True)
class Look:
    """What one look saw.

    Attributes:
        step: Steps done before it.
        figures: `health_step` and what was measured, by the names of the log.
        collapse: Why an encoder counts as collapsed, None where none does.
        whose: Which of them.
    """

    step: int
    figures: dict[str, float]
    collapse: str | None
    whose: str = "the encoder"


class Health:
    """Looks at the encoder every so many steps: each rank encodes its share of the images, rank 0
    measures, and all learn what it saw.

    Args:
        job: What is trained.
        rolled_back: Whether the run went back for a collapse before, which it does once.
    """

    def __init__(self, job: TrainingJob, *, rolled_back: bool) -> None:
        self._job = job
        self._config = job.config
        self._rolled_back = rolled_back
        self._images: dict[str, Tensor] | None = None  # read at the first look

    def look(
        self, method: Method, step: int, *, saving: bool, autocast: torch.dtype | None
    ) -> Look | None:
        """Look where it is due: every so many steps, at the end, where a checkpoint stays for good,
        and before saving weights that a run may go back to.

        Args:
            method: As trained so far; all ranks must call.
            step: Steps done.
            saving: Whether a checkpoint is about to be written.
            autocast: Half precision in which the encoder computes; None: float32.

        Returns:
            The same on every rank; None where nothing was looked at, as in a run with labels.
        """
        settings = self._config.health
        if self._job.manifest is None:
            return None
        final = step == self._job.num_steps
        if (
            step % settings.every_steps
            and not final
            and not self._config.checkpoint.stays(step)
            and not (saving and settings.on_collapse == "rollback")
        ):
            return None
        figures = broadcast_from_rank_zero(self._figures(method, autocast))
        look = Look(step, {"health_step": step, **figures}, None)
        if step < settings.grace_steps:
            return look
        if (collapse := judge(figures, settings)) is not None:
            return replace(look, collapse=collapse)
        if (beside := judge_beside(figures, settings)) is not None:
            whose, collapse = beside
            return replace(look, collapse=collapse, whose=whose)
        return look

    def goes_back(self, look: Look | None, log: RunLog) -> bool:
        """Act as `health.on_collapse` says; True where the workers end, to start at the last
        checkpoint.

        The log is then closed.

        Raises:
            Diverged: the run must stop; the same on every rank.
        """
        if look is None or look.collapse is None:
            return False
        wanted = self._config.health.on_collapse
        line = f"{look.whose} collapsed by step {look.step}: {look.collapse}"
        if wanted == "warn":
            if collectives.rank() == 0:
                self._job.monitor.log.remote({"warning": line})
            return False
        log.close()
        if wanted == "rollback" and not self._rolled_back:
            if collectives.rank() == 0:
                self._job.run.write_rollback(look.step, line)
            return True
        again = " once more, at half the learning rate" if self._rolled_back else ""
        raise Diverged(f"{line}{again}; lower optim.lr, or see the report for when it began")

    def _figures(self, method: Method, autocast: torch.dtype | None) -> dict[str, float]:
        """Measure what is a number, on rank 0; whatever goes wrong is said, and costs the run
        nothing else."""
        if self._images is None:
            read = self._tried(lambda: read_images(self._job), method)
            if read is None:
                return {}
            self._images = _evened(read, method.progress.device)
        images = self._images
        seen = self._tried(lambda: _encode(method, images, autocast), method)
        if seen is None:
            return {}
        every = {name: gather(rows) for name, rows in seen.items()}
        valid = every.pop("valid")
        measured = (
            self._tried(lambda: _measure(method, every, valid), None)
            if collectives.rank() == 0
            else {}
        )
        found = {name: float(value) for name, value in (measured or {}).items()}
        lost = [
            name for name in found if name.startswith(_DECIDING) and not math.isfinite(found[name])
        ]
        told = {name: value for name, value in found.items() if math.isfinite(value)}
        return told | ({"health_unmeasured": float(len(lost))} if lost else {})

    def _tried(self, function: Callable[[], Result], together: Method | None) -> Result | None:
        """Return what a function does; None, which is said, where it fails, on any rank where all
        must go on `together`."""
        result = None
        try:
            result = function()
        except Exception as error:
            line = f"{type(error).__name__}: {first_line(str(error))}"
            warning = f"the encoder's health cannot be measured ({line})"
            self._job.monitor.log.remote({"warning": warning})
        if together is not None:
            failures = together.progress.new_full((), float(result is None))
            result = None if collectives.all_reduce_sum(failures) else result
        return result


def _evened(read: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Fill up this rank's images, so that all ranks have as many, and say which are none."""
    count = len(read["centre"])
    most = int(gather(torch.tensor([count], device=device)).amax())

    def filled(rows: Tensor) -> Tensor:
        return torch.cat([rows, rows.new_zeros(most - count, *rows.shape[1:])])

    valid = torch.ones(count, dtype=torch.bool)
    return {name: filled(rows) for name, rows in {**read, "valid": valid}.items()}


@torch.no_grad()
def _encode(
    method: Method, images: dict[str, Tensor], autocast: torch.dtype | None
) -> dict[str, Tensor]:
    """Encode this rank's images: embeddings, projections and patch tokens, a row an image."""
    device = method.progress.device
    half = torch.autocast(device.type, autocast, enabled=autocast is not None)
    with sharding.gathered(method), acceleration.uncompiled(), _evaluating(method), half:
        seen = {name: _embed(method, images[name], device) for name in ("centre", "view")}
        projection = method.project(seen["centre"])
        if projection is not None:
            seen["projection"] = projection
        seen |= _beside(method, images, device)
        if method.trains_patches:
            few = -(-PATCHES_OF // collectives.world_size())
            seen["patches"] = _patches(method, images["centre"][:few], device)
            seen["has_patches"] = images["valid"][:few].to(device)
    return {**seen, "valid": images["valid"].to(device)}


def _measure(method: Method, seen: dict[str, Tensor], valid: Tensor) -> dict[str, Tensor]:
    """Measure what all ranks have encoded."""
    centre = seen["centre"][valid]
    if len(centre) < 2:
        return {}  # too few images can be read, which the log says elsewhere
    measured = {
        "health_rankme": health.rankme(centre),
        "health_variation": health.variation(centre),
        "health_alpha_req": health.alpha_req(centre),
        "health_alignment": health.alignment(centre, seen["view"][valid]),
        "health_uniformity": health.uniformity(centre),
    }
    if "projection" in seen:
        projection = seen["projection"][valid]
        measured[_SPREAD] = health.spread(projection, method.projection_std)
    for name in seen:
        if name.startswith(_BESIDE):
            what = name.removeprefix(_BESIDE)
            measured[f"{_SPREAD}_{what}"] = health.spread(seen[name][valid])
            measured[f"health_rankme_{what}"] = health.rankme(seen[name][valid])
    if "patches" in seen:
        patches = seen["patches"][seen["has_patches"]]
        measured |= _of_patches(patches, method.encoder.grid)
    return measured


def judge(figures: dict[str, float], settings: HealthConfig) -> str | None:
    """Say why figures of a look are those of a collapsed encoder; None where they are not."""
    spread = figures.get(_SPREAD)
    rank = figures.get("health_rankme")
    variation = figures.get("health_variation")
    patch_variation = figures.get("health_patch_variation")
    if spread is not None and spread < settings.min_spread:
        return _narrow(spread, settings)
    if patch_variation is not None and patch_variation < settings.min_patch_variation:
        return (
            f"its patch tokens tell {patch_variation:.4f} of the image and else their place alone,"
            f" less than health.min_patch_variation={settings.min_patch_variation:g}"
        )
    if rank is not None and rank < settings.min_rankme:
        return _flat("embeddings", rank, settings)
    if variation is not None and variation < settings.min_variation:
        return (
            f"all its embeddings are alike: {variation:.4f} of their length tells images apart,"
            f" less than health.min_variation={settings.min_variation:g}"
        )
    return None


def judge_beside(figures: dict[str, float], settings: HealthConfig) -> tuple[str, str] | None:
    """Say which other tower's figures are those of a collapsed one, and why; None where none's are:
    beside an encoder that tells images apart, one of captions or of sounds may collapse alone."""
    for name, spread in figures.items():
        if not name.startswith(f"{_SPREAD}_"):
            continue
        what = name.removeprefix(f"{_SPREAD}_")
        rank = figures.get(f"health_rankme_{what}", math.inf)
        if spread < settings.min_spread:
            return f"the tower of {what}", _narrow(spread, settings)
        if rank < settings.min_rankme:
            return f"the tower of {what}", _flat("projections", rank, settings)
    return None


def _narrow(spread: float, settings: HealthConfig) -> str:
    return (
        f"its projections spread {spread:.2f} of evenly, less than"
        f" health.min_spread={settings.min_spread:g}"
    )


def _flat(what: str, rank: float, settings: HealthConfig) -> str:
    return (
        f"its {what} have an effective rank of {rank:.2f}, less than"
        f" health.min_rankme={settings.min_rankme}"
    )


@contextmanager
def _evaluating(method: Method) -> Iterator[None]:
    """Use running statistics and leave every module in the mode it was in."""
    before = [(module, module.training) for module in method.modules()]
    method.eval()
    try:
        yield
    finally:
        for module, mode in before:
            module.training = mode


def _embed(method: Method, images: Tensor, device: torch.device) -> Tensor:
    frames = math.prod(images.shape[1:-3])
    parts = [
        method.encoder(laid_out(part.to(device)))
        for part in images.split(max(1, EMBEDDED_AT_A_TIME // frames))
    ]
    return torch.cat(parts)  # (N, D)


def _beside(method: Method, images: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Project the captions or the sound of images by the method's other towers, (N, P) each."""
    beside = [name for name in schema.READ_BESIDE if name in images]
    if not beside:
        return {}
    found = dict[str, list[Tensor]]()
    for parts in zip(*(images[name].split(EMBEDDED_AT_A_TIME) for name in beside), strict=True):
        targets = {name: part.to(device) for name, part in zip(beside, parts, strict=True)}
        for name, rows in method.project_beside(targets).items():
            found.setdefault(_BESIDE + name, []).append(rows)
    return {name: torch.cat(rows) for name, rows in found.items()}


def _patches(method: Method, images: Tensor, device: torch.device) -> Tensor:
    """Encode images as patch tokens (B, N, D), by the encoder that gradients move: a teacher shows
    its collapse later. Of clips, those of one instant."""
    tokens = method.trained_encoder.places(laid_out(images.to(device))).patches
    return health.of_an_instant(tokens, method.encoder.num_patches)


def _of_patches(patches: Tensor, grid: tuple[int, int]) -> dict[str, Tensor]:
    step = max(patches.shape[1] // PLACES, 1)  # a decomposition of all would take seconds
    return {
        "health_patch_variation": health.patch_variation(patches),
        "health_patch_rankme": health.patch_rank(patches[:, ::step]),
        "health_patch_locality": health.patch_locality(patches, grid),
    }
