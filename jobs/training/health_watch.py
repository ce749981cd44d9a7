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
from dataclasses import dataclass
from typing import TypeVar

import pyarrow as pa
import torch
from ray.train.collective import broadcast_from_rank_zero
from torch import Tensor

from augment.generator import ViewGenerator, generator_of
from augment.recipe import AnyViews, Views
from jobs.training.run_config import PretrainConfig
from jobs.training.run_log import Diverged, RunLog
from jobs.training.run_sections import HealthConfig
from jobs.training.training_job import TrainingJob
from models import collectives, health
from models.collectives import gather, my_share
from models.method import Method
from models.steps import acceleration, sharding
from models.steps.memory_layout import laid_out
from pipelines import schema
from pipelines.ray_internals import first_line
from pipelines.samples.of_views import series_of
from pipelines.stream import ingest, shapes
from pipelines.stream.first_samples import ORIGINAL, FirstSamples, WithOriginal, joined
from pipelines.stream.plan import Plan

Result = TypeVar("Result")
EMBEDDED_AT_A_TIME = 128  # images, or frames of clips
MOST_FRAMES = 2048  # of all clips of a look
PATCHES_OF = 64  # images whose patch tokens are looked at
PLACES = 32  # of an image, whose tokens' rank is taken
BLOCK_ROWS = 64


@dataclass(frozen=True)
class Look:
    """What one look saw.

    Attributes:
        step: Steps done before it.
        figures: `health_step` and what was measured, by the names of the log.
        collapse: Why the encoder counts as collapsed, None where it does not.
    """

    step: int
    figures: dict[str, float]
    collapse: str | None


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
        collapse = judge(figures, settings) if step >= settings.grace_steps else None
        return Look(step, {"health_step": step, **figures}, collapse)

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
        line = f"the encoder collapsed by step {look.step}: {look.collapse}"
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
            self._images = _evened(*read, method.progress.device)
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
        return {name: value for name, value in found.items() if math.isfinite(value)}

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


def _evened(centre: Tensor, view: Tensor, device: torch.device) -> dict[str, Tensor]:
    """Fill up this rank's images, so that all ranks have as many, and say which are none."""
    most = int(gather(torch.tensor([len(centre)], device=device)).amax())
    valid = torch.ones(len(centre), dtype=torch.bool)

    def filled(rows: Tensor) -> Tensor:
        return torch.cat([rows, rows.new_zeros(most - len(rows), *rows.shape[1:])])

    return {"centre": filled(centre), "view": filled(view), "valid": filled(valid)}


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
        measured["health_spread"] = health.spread(projection, method.projection_std)
    if "patches" in seen:
        patches = seen["patches"][seen["has_patches"]]
        measured |= _of_patches(patches, method.encoder.grid)
    return measured


def judge(figures: dict[str, float], settings: HealthConfig) -> str | None:
    """Say why figures of a look are those of a collapsed encoder; None where they are not."""
    spread = figures.get("health_spread")
    rank = figures.get("health_rankme")
    variation = figures.get("health_variation")
    patch_variation = figures.get("health_patch_variation")
    if spread is not None and spread < settings.min_spread:
        return (
            f"its projections spread {spread:.2f} of evenly, less than"
            f" health.min_spread={settings.min_spread:g}"
        )
    if patch_variation is not None and patch_variation < settings.min_patch_variation:
        return (
            f"its patch tokens tell {patch_variation:.4f} of the image and else their place alone,"
            f" less than health.min_patch_variation={settings.min_patch_variation:g}"
        )
    if rank is not None and rank < settings.min_rankme:
        return (
            f"its embeddings have an effective rank of {rank:.2f}, less than"
            f" health.min_rankme={settings.min_rankme}"
        )
    if variation is not None and variation < settings.min_variation:
        return (
            f"all its embeddings are alike: {variation:.4f} of their length tells images apart,"
            f" less than health.min_variation={settings.min_variation:g}"
        )
    return None


def read_images(job: TrainingJob) -> tuple[Tensor, Tensor]:
    """Read this rank's share of the images of all looks of a run, in this process.

    Returns:
        The readable ones' centre crops and one view of each as training would see it, (N, 3, S, S)
        float32, normalised; of clips (N, T, 3, S, S), fewer of them; of sounds two windows of each,
        (N, L), the second changed.
    """
    config = job.config
    assert job.manifest is not None
    plan = Plan.open(job.manifest, job.ledger, config.seed)
    wanted = config.health.num_samples
    frames: tuple[int, ...] = ()
    if config.num_frames is not None:
        wanted = min(wanted, max(2, MOST_FRAMES // config.num_frames))
        frames = (config.num_frames,)
    share = my_share(min(wanted, plan.manifests[0].num_rows))
    order = FirstSamples.of(plan, share.start, share.stop)
    views = config.views
    if not isinstance(views, Views):
        return _read_windows(config, views, order, job.run.tokenizer())
    if share.start == share.stop:  # more ranks than images
        none = torch.zeros(0, *frames, 3, config.views.size, config.views.size)
        return none, none
    name, views = _one_view(views)
    generator = ViewGenerator(views, config.seed)
    work = ingest.Ingest(
        order=order,
        shape=shapes.of_media(
            WithOriginal(shapes.Crops(generator, photometric=True), config.views.size),
            config.num_frames,
        ),
        block_rows=BLOCK_ROWS,
        limits=config.source.limits(),
        quarantine=None,
        run="health",
        sampling=config.clip.sampling_of(plan.manifest, config.seed),
    )
    columns = joined(
        ingest.run_items(pa.table({"start": [0], "stop": [share.stop - share.start]}), ingest=work)
    )
    valid = columns[schema.VALID]
    epoch, sample_id = (
        torch.from_numpy(columns[key][valid]) for key in (schema.EPOCH, schema.SAMPLE_ID)
    )

    def normalised(crops: Tensor) -> Tensor:
        return generator({name: crops}, epoch, sample_id, photometric_done=True)[name][0]

    centre, view = (torch.from_numpy(columns[key][valid]) for key in (ORIGINAL, name))
    return normalised(centre.unsqueeze(1)), normalised(view)


def _read_windows(
    config: PretrainConfig, views: AnyViews, order: FirstSamples, tokenizer: str | None
) -> tuple[Tensor, Tensor]:
    """Read two windows of each sample of a medium that is no picture, as `read_images` does."""
    name, group = next(iter(views.groups.items()))
    two = views.model_copy(update={"groups": {name: group.model_copy(update={"count": 2})}})
    series = series_of(two, config.seed, tokenizer)
    assert series is not None
    count = order.table.num_rows
    if not count:
        empty = torch.from_numpy(series[1].empty(0)[name])
        none = generator_of(two, config.seed)({name: empty}, *[torch.zeros(0).long()] * 2)[name]
        return none[0], none[1]
    work = ingest.Ingest(
        order=order,
        shape=series[1],
        block_rows=BLOCK_ROWS,
        limits=config.source.limits(),
        quarantine=None,
        run="health",
        series=series[0],
    )
    columns = joined(ingest.run_items(pa.table({"start": [0], "stop": [count]}), ingest=work))
    valid = columns[schema.VALID]
    rows, epoch, sample_id = (
        torch.from_numpy(columns[key][valid]) for key in (name, schema.EPOCH, schema.SAMPLE_ID)
    )
    generator = generator_of(two, config.seed)
    plain = generator({name: rows}, epoch, sample_id, photometric_done=True)[name]
    return plain[0], generator({name: rows}, epoch, sample_id)[name][1]


def _one_view(views: Views) -> tuple[str, Views]:
    """Return the first group of full size, and a recipe of its first view alone."""
    name = next(name for name in views.groups if views.group_size(name) == views.size)
    return name, views.model_copy(
        update={"groups": {name: views.groups[name].model_copy(update={"count": 1})}}
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
