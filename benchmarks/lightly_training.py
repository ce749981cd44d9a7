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
from pathlib import Path

import torch
from torch import nn

from benchmarks.job_runs import Row, add_row, images_per_s, job, probes, read_rows, settings
from benchmarks.lightly_contestants import LEARNERS, AllViews
from jobs.cluster.cores import own_cores
from jobs.setup.command_line import parse
from jobs.training.run_config import PretrainConfig, complete_pretrain
from models import artifact, optim
from models.encoders.factory import build_encoder

USAGE = " ".join((__doc__ or "").split("\n\n")[1].split())
MALLOC = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(1 << 30)}


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
    row |= {"afield_s": trained["wall_s"], "lightly_s": wall_s}
    row["afield_images_per_s"] = images_per_s(ours)
    row["lightly_images_per_s"] = artifact.load(theirs).provenance["images_per_s"]
    faster = row["afield_images_per_s"] / row["lightly_images_per_s"]
    row["ratios"] = {
        f"lightly, {method}: training": faster,
        f"lightly, {method}: whole command": wall_s / trained["wall_s"],
    }
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
