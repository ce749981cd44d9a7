"""Says which stage limits a run, from its log, and what to change."""

from typing import Any

# the first three of data tasks, then of workers
STAGES = (
    "fetch",
    "decode",
    "crop",
    "transport",
    "wait",
    "train",
)
FREE_SHARE = 0.1  # of the workers' time; who waits less for data is limited by training
RETRIES_SHARE = 0.01  # of the images; more retries than that are worth a word

_NAMES = {"fetch": "fetching", "decode": "decoding", "crop": "cropping", "transport": "transport"}
_REMEDIES = {
    "train": (
        "add or speed up training workers (cluster.num_workers, GPUs), or take a larger"
        " global_batch_size"
    ),
    "fetch": (
        "add data CPUs (every data task keeps its own requests in flight), or pack small files into"
        " tar shards"
    ),
    "decode": "add data CPUs (nodes, or fewer cluster.cpus_per_worker), or store smaller images",
    "crop": (
        "add data CPUs (nodes, or fewer cluster.cpus_per_worker; or view actors where those change"
        " colours), or leave colours to views.placement=worker"
    ),
    "transport": (
        "make blocks larger (global_batch_size, fewer workers), or give Ray a larger object store"
    ),
}


def stage_means(lines: list[dict[str, Any]]) -> dict[str, float]:
    """Average the stages' milliseconds an image over a log, without its first line, in which the
    pipeline fills."""
    timed = [line for line in lines if "train_ms" in line]
    timed = timed[1:] or timed
    return (
        {stage: sum(line[f"{stage}_ms"] for line in timed) / len(timed) for stage in STAGES}
        if timed
        else {}
    )


def bottleneck(lines: list[dict[str, Any]]) -> str | None:
    """Name the stage that limits and the remedy in one line; None where the log has no times."""
    means = stage_means(lines)
    if not means:
        return None
    worker_ms = means["wait"] + means["transport"] + means["train"]
    waiting = (means["wait"] + means["transport"]) / worker_ms
    stage = _limiting(means, waiting)
    if stage == "train":
        finding = f"training limits, data is ready {1 - waiting:.0%} of the time"
    elif stage == "transport":
        finding = f"transport limits, {means['transport'] / worker_ms:.0%} of the workers' time"
    else:
        task_ms = means["fetch"] + means["decode"] + means["crop"]
        finding = (
            f"{_NAMES[stage]} limits, {means[stage] / task_ms:.0%} of the data tasks' time, while"
            f" workers wait {waiting:.0%} of theirs"
        )
    return f"{finding}: {_REMEDIES[stage]}{_throttled(lines)}"


def _limiting(means: dict[str, float], waiting: float) -> str:
    if waiting < FREE_SHARE:
        return "train"
    if means["transport"] > means["wait"]:
        return "transport"
    return max(("fetch", "decode", "crop"), key=means.__getitem__)


def _throttled(lines: list[dict[str, Any]]) -> str:
    tried = sum(line.get("storage_retries", 0) for line in lines)
    many = tried > RETRIES_SHARE * lines[-1]["samples"]
    return (
        f"; storage requests were tried again {tried} times: is the bucket throttled?"
        if many
        else ""
    )
