"""Measure the colours of views and the training steps of the real-size recipes on this machine's
device, data aside.

python -m benchmarks.device out=device.json [batch=256] [seconds=3]
[recipes=simclr_resnet50_imagenet,...] [levers=simclr_resnet50_imagenet,...]

The device is the first CUDA device, else the CPU. Colours: two SimCLR views of 224 px of each image
of a batch, uint8 in and normalised out, beside Kornia's own augmentations. Steps: what a Ray Train
worker does between two batches, in the precision that it takes there, on crops of noise that lie on
the device; the batch is halved until it fits. Levers: the same step of each recipe with each thing
that `train`, `precision` and `encoder.keep_tokens` change, in turn.
"""

import gc
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from augment.execution.kornia_ops import apply_photometric
from augment.execution.photometric import apply_fused
from augment.generator import ViewGenerator
from augment.recipe import Views
from augment.sample import sample_photometric
from benchmarks.job_runs import Row, settings
from benchmarks.view_contestants import WORKLOADS, kornia_operators
from jobs.setup.command_line import parse
from jobs.training.run_config import PretrainConfig, complete_pretrain
from jobs.training.run_dir import environment
from jobs.training.state import TrainState
from jobs.training.worker import set_up_torch
from models.method import Batch
from pipelines.stream.ledger import Ledger

USAGE = " ".join((__doc__ or "").split("\n\n")[1].split())
RECIPES = (
    "simclr_resnet50_imagenet",
    "moco_resnet50_imagenet",
    "moco_v3_vit_small_patch16_224_imagenet",
    "byol_resnet50_imagenet",
    "simsiam_resnet50_imagenet",
    "barlow_twins_resnet50_imagenet",
    "vicreg_resnet50_imagenet",
    "swav_resnet50_imagenet",
    "dino_vit_small_patch16_224_imagenet",
    "deepcluster_resnet50_imagenet",
    "instance_discrimination_resnet50_imagenet",
    "mae_vit_base_patch16_224_imagenet",
    "yadim_resnet50_imagenet",
    "amdim_imagenet",
    "cpc_resnetv2_101x1_bit_imagenet",
)
LEVERS = (
    "",
    "train.compile=true",
    "train.checkpoint_activations=true",
    "train.compile=true train.checkpoint_activations=true",
    "precision=float16",
    "precision=float32",
    "precision=float32 train.tf32=true",
    "encoder.keep_tokens=0.5",
)
NUM_ROWS = 1_281_167  # as ImageNet-1k
NUM_STEPS = 1_000_000
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def seconds_a_call(run: Callable[[], Any], seconds: float) -> float:
    """Median over as many calls as `seconds` hold, after a warm-up; waits for the device."""
    from torch.utils.benchmark import Timer  # here, as on machines without CUDA its import says so

    for _ in range(3):
        run()
    timer = Timer("run()", globals={"run": run}, num_threads=torch.get_num_threads())
    return timer.blocked_autorange(min_run_time=seconds).median


def noise_crops(views: Views, batch: int) -> dict[str, Tensor]:
    """(B, V, 3, S, S) uint8 by group, on the device."""
    crops = {}
    for name, group in views.groups.items():
        size = views.group_size(name)
        crops[name] = torch.randint(
            256, (batch, group.count, 3, size, size), dtype=torch.uint8, device=DEVICE
        )
    return crops


def colours(batch: int, seconds: float) -> Row:
    """Images a second of each way to change the colours of two SimCLR views."""
    views = WORKLOADS["two views of 224 px"]
    ((name, group),) = views.groups.items()
    crops, sample_id = noise_crops(views, batch), torch.arange(batch, device=DEVICE)
    epoch, twice = torch.zeros_like(sample_id), sample_id.repeat_interleave(2)
    mean, std = (
        torch.tensor(values, device=DEVICE)[:, None, None] for values in (views.mean, views.std)
    )

    def normalised(x: Tensor) -> Tensor:
        return (x - mean.to(x.dtype)) / std.to(x.dtype)

    def afield(dtype: torch.dtype) -> Callable[[], Any]:
        generator = ViewGenerator(views, seed=0, dtype=dtype)
        return lambda: generator(crops, epoch, sample_id)

    def by_function(change: Callable[..., Tensor], dtype: torch.dtype) -> Callable[[], Any]:
        def run() -> Tensor:
            draws = sample_photometric(
                group, seed=0, epoch=torch.zeros_like(twice), sample_id=twice, view=0
            )
            return normalised(change(crops[name].flatten(0, 1).to(dtype) / 255, group, draws))

        return run

    # without the crop and the flip
    operators = nn.Sequential(*kornia_operators(group, views.size)[2:])
    contestants = {
        "normalised alone, bfloat16": lambda: normalised(crops[name].to(torch.bfloat16) / 255),
        "normalised alone, float32": lambda: normalised(crops[name].to(torch.float32) / 255),
        "Afield, bfloat16": afield(torch.bfloat16),
        "Afield, float32": afield(torch.float32),
        "Afield under torch.compile, bfloat16": by_function(
            torch.compile(apply_fused, fullgraph=True), torch.bfloat16
        ),
        "the reference, Kornia's functions on our draws, float32": by_function(
            apply_photometric, torch.float32
        ),
        "Kornia's augmentations, float32": lambda: normalised(
            operators(crops[name].flatten(0, 1).float() / 255)
        ),
    }
    return {label: batch / seconds_a_call(run, seconds) for label, run in contestants.items()}


def step_of(config: PretrainConfig, batch: int) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """A recipe's whole step on one batch, and the views of that step alone."""
    set_up_torch(config, torch.get_num_threads())
    state = TrainState(config, DEVICE, Ledger(0, ()), compiled=config.train.compile is True)
    state.method.expect_rows(NUM_ROWS)
    generator = ViewGenerator(config.views, config.seed, state.autocast or torch.float32)
    crops, sample_id = noise_crops(config.views, batch), torch.arange(batch, device=DEVICE)
    epoch, valid = torch.zeros_like(sample_id), torch.ones(batch, dtype=torch.bool, device=DEVICE)

    def views() -> dict[str, Tensor]:
        return generator(crops, epoch, sample_id)

    def step() -> None:
        state.begin_step(NUM_STEPS)
        made = Batch(views=views(), sample_id=sample_id, row=sample_id, epoch=epoch, valid=valid)
        state.backward(made, synchronise=True)
        state.update(NUM_STEPS)

    return step, views


def measure_step(recipe: str, batch: int, seconds: float, lever: str = "") -> Row:
    """Rate, share of the views and peak memory of a recipe's step, with the greatest batch that
    fits."""
    while True:
        words = [
            recipe,
            "source.uri=none",
            "out=none",
            f"global_batch_size={batch}",
            "num_epochs=100",
        ]
        words += ["cluster.num_workers=1", *lever.split()]
        config = parse(complete_pretrain, words)
        assert isinstance(config, PretrainConfig)
        try:
            if DEVICE.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
            step, views = step_of(config, batch)
            step_s, views_s = seconds_a_call(step, seconds), seconds_a_call(views, seconds / 4)
        except torch.OutOfMemoryError:
            batch //= 2
        else:
            peak = torch.cuda.max_memory_allocated() / 2**30 if DEVICE.type == "cuda" else None
            return {
                "batch": batch,
                "images_per_s": batch / step_s,
                "views_share": views_s / step_s,
                "peak_gib": peak,
            }
        finally:
            step = views = None  # type: ignore[assignment]
            gc.collect()
            torch.cuda.empty_cache()


def main(words: list[str]) -> int:
    """Measure colours, each recipe's step and the levers, and write all."""
    given = settings(
        words, USAGE, out="", batch="256", seconds="3", recipes=",".join(RECIPES), levers=""
    )
    batch, seconds, out = int(given["batch"]), float(given["seconds"]), Path(given["out"])
    result: Row = {"device": torch.cuda.get_device_name() if DEVICE.type == "cuda" else "CPU"}
    result |= {
        "batch": batch,
        "environment": environment(),
        "colours_images_per_s": {},
        "steps": {},
        "levers": {},
    }
    result["colours_images_per_s"] = colours(batch, seconds)
    for label, rate in result["colours_images_per_s"].items():
        print(f"{rate:10.0f} images/s  {label}", flush=True)
    for recipe in filter(None, given["recipes"].split(",")):
        result["steps"][recipe] = row = measure_step(recipe, batch, seconds)
        print(f"{row['images_per_s']:10.0f} images/s  {recipe}: {row}", flush=True)
    for recipe in filter(None, given["levers"].split(",")):
        for lever in LEVERS:
            if "keep_tokens" in lever and "_vit_" not in recipe:
                continue
            row = measure_step(recipe, batch, seconds, lever)
            result["levers"][f"{recipe} {lever}".strip()] = row
            print(f"{row['images_per_s']:10.0f} images/s  {recipe} {lever}: {row}", flush=True)
        out.write_text(json.dumps(result, indent=2) + "\n")
    out.write_text(json.dumps(result, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
