"""Pretrain with open_clip's losses in a plain loop, beside the same towers and budget here.

python -m benchmarks.captions train=DIR test=DIR captions=FILE out=DIR [methods=clip,siglip]
[num_epochs=20] [seed=0]

DIRs hold images, FILE is a table of file names and captions of both. Both sides have the small
recipe's towers with the same initial weights, tokens, batch, optimiser, schedule and passes; views
are a crop of nearly all of the image. They run in turn, each a command of its own; open_clip's
feeds from a DataLoader of as many processes as there are cores. Then `jobs.adapt` lets images and
captions of the test set look for each other, of one artifact beside the other. One JSON row a
method goes to out/rows.jsonl. open_clip_torch is in the optional extra `bench`.
"""

import math
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.job_runs import Row, add_row, images_per_s, job, lines, read_rows, settings
from jobs.cluster.cores import own_cores
from jobs.setup.command_line import parse
from jobs.training.run_config import PretrainConfig, complete_pretrain
from models import artifact, optim
from models.multimodal.two_towers import TwoTowers, TwoTowersConfig
from models.registry import build_method
from models.texts.tokenizer import encode
from pipelines.captions.caption_table import CaptionTable

USAGE = " ".join((__doc__ or "").split("\n\n")[1].split())
_WAYS = ("image_to_text", "text_to_image")


class Pairs(torch.utils.data.Dataset[tuple[Tensor, Tensor]]):
    """Images of a folder, each with one of its captions, drawn anew every time."""

    def __init__(self, config: PretrainConfig, tokenizer: str) -> None:
        from torchvision.transforms import v2

        assert config.source.captions is not None and isinstance(config.method, TwoTowersConfig)
        folder = Path(config.source.uri)
        table = CaptionTable(config.source.captions, config.source.caption_column, str(folder))
        self.paths = sorted(path for path in folder.rglob("*") if path.is_file())
        self.captions = [table.of(str(path), None) for path in self.paths]
        self.tokenizer = tokenizer
        self.length = config.method.context_length
        group = next(iter(config.views.groups.values()))
        self.view = v2.Compose(
            [
                v2.RandomResizedCrop(config.views.size, scale=group.scale, antialias=True),
                v2.ToImage(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(config.views.mean, config.views.std),
            ]
        )

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        from PIL import Image

        image = self.view(Image.open(self.paths[index]).convert("RGB"))
        text = random.choice(self.captions[index])
        return image, torch.from_numpy(encode(self.tokenizer, [text], self.length)[0])


def loss_of(name: str, towers: TwoTowers) -> Callable[[Tensor, Tensor], Tensor]:
    """open_clip's loss of images and texts of length 1."""
    from open_clip.loss import ClipLoss, SigLipLoss

    tower = towers.text_tower
    loss: Any = ClipLoss() if name == "clip" else SigLipLoss()
    bias = () if tower.bias is None else (tower.bias,)
    return lambda images, texts: loss(images, texts, tower.log_scale.exp(), *bias)


def train(config: PretrainConfig, tokenizer: str) -> None:
    """Run the plain loop of a recipe, and write its towers as an artifact into `out`."""
    from torch.nn.functional import normalize
    from torch.utils.data import DataLoader

    assert config.num_epochs is not None
    torch.manual_seed(config.seed)
    random.seed(config.seed)
    towers = build_method(config.method, config.encoder, config.views, config.seed)
    assert isinstance(towers, TwoTowers)
    pairs = Pairs(config, tokenizer)
    batch = config.global_batch_size
    loader = DataLoader(
        pairs, batch, shuffle=True, drop_last=True, num_workers=own_cores(), persistent_workers=True
    )
    num_steps = int(config.num_epochs * len(pairs)) // batch
    peak = optim.peak_lr(config.optim, batch)
    optimizer = optim.build_optimizer(optim.param_groups(towers), config.optim, peak)
    loss_fn = loss_of(config.method.name, towers)
    rates, losses, step, begun = list[float](), list[float](), 0, time.monotonic()
    for _ in range(math.ceil(num_steps / len(loader))):
        for images, tokens in loader:
            optim.set_schedule(optimizer, config.optim, step=step, num_steps=num_steps, peak=peak)
            projected = towers.project(towers.encoder(images))
            loss = loss_fn(normalize(projected, dim=1), normalize(towers.text_tower(tokens), dim=1))
            optimizer.zero_grad()
            loss.backward()
            if (limit := config.optim.clip_grad_norm) is not None:
                torch.nn.utils.clip_grad_norm_(towers.parameters(), limit)
            optimizer.step()
            step += 1
            towers.after_step(step, num_steps)  # bounds the temperature, as open_clip's loop does
            losses.append(loss.item())
            now = time.monotonic()
            rates.append(batch / (now - begun))
            begun = now
            if step == num_steps:
                break
    shipped = towers.eval().ships()
    assert shipped.text is not None
    shipped.text.tokenizer = tokenizer
    dump = config.model_dump(mode="json")
    prepared = {"image_size": config.views.size, "mean": config.views.mean, "std": config.views.std}
    told = {
        "images_per_s": statistics.median(rates[1:] or rates),
        "steps": step,
        "loss": float(np.mean(losses[-5:])),
    }
    kept = {name: dump[name] for name in ("encoder", "method", "seed")}
    artifact.save(
        config.out,
        shipped.encoder,
        config=kept,
        preprocess=prepared,
        provenance=told,
        text=shipped.text,
    )


def compare(method: str, given: dict[str, str]) -> Row:
    """Both sides of one method: seconds of the whole commands, rates, and recalls."""
    ours, theirs = (str(Path(given["out"], f"{method}-{side}")) for side in ("afield", "open_clip"))
    words = [
        f"{method}_small",
        f"source.uri={given['train']}",
        f"source.captions={given['captions']}",
        f"seed={given['seed']}",
        f"num_epochs={given['num_epochs']}",
    ]
    trained = job("pretrain", *words, f"out={ours}", "cluster.address=local")
    begun = time.monotonic()
    loop = [sys.executable, "-m", "benchmarks.captions", "loop", *words, f"out={theirs}"]
    subprocess.run(loop, check=True, env=os.environ | {"TOKENIZER": f"{ours}/tokenizer.json"})
    wall_s = time.monotonic() - begun
    told = artifact.load(theirs).provenance
    row: Row = {
        "method": method,
        "seed": int(given["seed"]),
        "num_epochs": float(given["num_epochs"]),
        "afield_s": trained["wall_s"],
        "open_clip_s": wall_s,
        "afield_images_per_s": images_per_s(ours),
        "open_clip_images_per_s": told["images_per_s"],
        "afield_loss": lines(ours)[-1]["loss"],
        "open_clip_loss": told["loss"],
    }
    found = job(
        "adapt",
        f"artifact={ours}",
        f"compare={theirs}",
        "probe.name=retrieve_captions",
        f"test.uri={given['test']}",
        f"test.captions={given['captions']}",
        f"train.uri={given['train']}",
        "cluster.address=local",
    )
    kept = ("num_test", "num_captions", "difference", "difference_ci95")
    kinds = {"afield": "", "open_clip": "compared_", **{k: f"{k}_" for k in _FLOORS}}
    row |= {key: found[key] for key in kept}
    for name, prefix in kinds.items():
        for key in ("mean_recall", "ci95", *_WAYS):
            row[f"{name}_{key}"] = found.get(f"{prefix}{key}")
    return row


_FLOORS = ("untrained", "words", "chance")


def table(rows: list[Row]) -> str:
    """The rows in Markdown."""
    shown = ["| method | towers | mean recall | image to text @1/5/10 | text to image @1/5/10 |"]
    shown.append("|---|---|---|---|---|")
    for row in rows:
        for name in ("afield", "open_clip", *_FLOORS):
            interval = row[f"{name}_ci95"]
            said = f"{row[f'{name}_mean_recall']:.3f}"
            said += f" ({interval[0]:.3f} to {interval[1]:.3f})" if interval else ""
            ways = [
                " / ".join(f"{share:.3f}" for share in row[f"{name}_{way}"]["recall_at"].values())
                for way in _WAYS
            ]
            shown.append(f"| {' | '.join([row['method'], name, said, *ways])} |")
        low, high = row["difference_ci95"]
        print(
            f"{row['method']}: Afield ahead of open_clip by {row['difference']:+.3f} ({low:+.3f} to"
            f" {high:+.3f}); {row['afield_images_per_s']:.0f} and"
            f" {row['open_clip_images_per_s']:.0f} images/s; {row['afield_s']:.0f} and"
            f" {row['open_clip_s']:.0f} s"
        )
    return "\n".join(shown)


def main(words: list[str]) -> int:
    """Compare the methods that have no row yet, then print the table; `loop` runs open_clip's side
    alone."""
    if words[:1] == ["loop"]:
        config = parse(complete_pretrain, words[1:])
        assert isinstance(config, PretrainConfig)
        train(config, Path(os.environ["TOKENIZER"]).read_text())
        return 0
    defaults = {
        "train": "",
        "test": "",
        "captions": "",
        "out": "",
        "methods": "clip,siglip",
        "num_epochs": "20",
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
