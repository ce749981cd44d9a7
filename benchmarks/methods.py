"""Pretrain with every method's small recipe and probe what it learnt, beside the same encoder
untrained.

python -m benchmarks.methods train=DIR test=DIR out=DIR [methods=all] [seeds=0,...] [num_epochs=4]
[set=K=V] [name=]

DIRs hold a folder a class; the classes are for the probes only. `all` are those of images. Seeds
are 0, 1 and 2 for simclr, moco, byol and barlow_twins and 0 for the others, unless given. One JSON
row a run goes to out/rows.jsonl, and what is there already is not run again. `set` changes keys of
the recipe, with spaces between them, for an experiment that `name` tells from the others.
"""

import sys
from pathlib import Path

from benchmarks.job_runs import Row, add_row, images_per_s, job, lines, probes, read_rows, settings
from models.registry import METHODS

USAGE = " ".join((__doc__ or "").split("\n\n")[1].split())
SEEDS = dict.fromkeys(("simclr", "moco", "byol", "barlow_twins"), (0, 1, 2))
HEALTH = (
    "health_rankme",
    "health_spread",
    "health_alignment",
    "health_uniformity",
    "info_nce_bound",
)


def run(method: str, seed: int, given: dict[str, str]) -> Row:
    """One run and its probes."""
    name = _name(method, seed, given)
    folder = str(Path(given["out"], name))
    words = [f"{method}_small", f"source.uri={given['train']}", f"out={folder}", f"seed={seed}"]
    words += [f"num_epochs={given['num_epochs']}", *given["set"].split()]
    trained = job("pretrain", *words)
    log = lines(folder)
    return {
        "name": name,
        "method": method,
        "seed": seed,
        "set": given["set"],
        "num_epochs": float(given["num_epochs"]),
        "steps": trained["steps"],
        "wall_s": trained["wall_s"],
        "images_per_s": images_per_s(folder),
        "loss": trained.get("loss"),
        "least_spread": min(
            (line["health_spread"] for line in log if "health_spread" in line), default=None
        ),
        **{key: trained.get(key) for key in HEALTH},
        **probes(str(trained["artifact"]), given["train"], given["test"]),
    }


def _name(method: str, seed: int, given: dict[str, str]) -> str:
    return "-".join(filter(None, (method, given["name"], str(seed))))


def table(rows: list[Row]) -> str:
    """The rows in Markdown."""
    shown = [
        "| run | kNN | untrained | linear | untrained | images/s | seconds | RankMe | spread |",
        "|---|" * 1 + "---|" * 8,
    ]
    for row in rows:
        scores = []
        for probe in ("knn", "linear"):
            for kind in ("", "untrained_"):
                low, high = row[f"{probe}_{kind}ci95"]
                scores.append(f"{row[f'{probe}_{kind}top1']:.3f} ({low:.3f}-{high:.3f})")
        spread = "-" if row["health_spread"] is None else f"{row['health_spread']:.2f}"
        rank = "-" if row["health_rankme"] is None else f"{row['health_rankme']:.0f}"
        cells = [
            row["name"],
            *scores,
            f"{row['images_per_s']:.0f}",
            f"{row['wall_s']:.0f}",
            rank,
            spread,
        ]
        shown.append(f"| {' | '.join(cells)} |")
    return "\n".join(shown)


def main(words: list[str]) -> int:
    """Run what is not there yet, then print the table."""
    given = settings(
        words,
        USAGE,
        train="",
        test="",
        out="",
        methods="all",
        seeds=" ",
        num_epochs="4",
        set=" ",
        name=" ",
    )
    given = {key: value.strip() for key, value in given.items()}
    out = Path(given["out"], "rows.jsonl")
    of_images = [name for name, method in METHODS.items() if method.media == "image"]
    chosen = of_images if given["methods"] == "all" else given["methods"].split(",")
    if unknown := set(chosen) - METHODS.keys():
        print(
            f"error: methods={sorted(unknown)[0]} is unknown: choose of {', '.join(METHODS)}",
            file=sys.stderr,
        )
        return 2
    wanted = tuple(map(int, filter(None, given["seeds"].split(","))))
    pairs = [(seed, method) for method in chosen for seed in wanted or SEEDS.get(method, (0,))]
    # the first seed of every method first
    for seed, method in sorted(pairs, key=lambda pair: pair[0]):
        if _name(method, seed, given) not in {row["name"] for row in read_rows(out)}:
            try:
                add_row(out, run(method, seed, given))
            except RuntimeError as error:
                print(error, file=sys.stderr)
    print(table(read_rows(out)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
