"""Measure how many clips of 16 frames of 224 px a CPU makes of videos, beside other loaders.

python -m benchmarks.clips data=DIR work=FOLDER [lengths=2,30,600] [clips=1,4] [seconds=30] [runs=3]
[only=] [out=clips.jsonl]

Of the videos under DIR, one after the other, H.264 files of each length in seconds are made in
`work`, 340 x 256 px and 25 frames a second, key frames where libx264 puts them. Every loader takes
so many clips of each video as `clips` says, at random places, and all take turns in every run; each
is left alone until its stream is steady, then watched for `seconds`. CPU seconds are those of its
whole process tree. `only` takes the loaders whose names hold the words. torchcodec is left out
where it is not installed; psutil, which does the watching, is in the optional extra `bench`. `out`
collects the runs of several calls, and the table is of all that it holds.
"""

import statistics
import sys
import tempfile
from collections import defaultdict
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

from benchmarks.clip_loaders import LOADERS, Setup
from benchmarks.job_runs import Row, add_row, read_rows, settings
from benchmarks.video_files import RATE, frames_of, write_video
from pipelines.corpus.file_kinds import media_of

USAGE = " ".join((__doc__ or "").split("\n\n")[1].split())
HEIGHT, WIDTH = 256, 340
TOTAL_S = 600  # of the files of a length together, two files at least
MOST_FILES = 32
OPTIONS = {"preset": "veryfast"}
THROUGH_RAY = "Afield"
OURS = (THROUGH_RAY, "Afield without Ray")
CEILING = "decoding alone"


def made(data: str, work: Path, length_s: int) -> tuple[str, ...]:
    """Make the files of a length where they are not there yet.

    Raises:
        ValueError: there is no video to make them of.
    """
    folder = work / f"{length_s}-s"
    count = max(2, min(MOST_FILES, TOTAL_S // length_s))
    if not folder.exists():
        found = sorted(path for path in Path(data).rglob("*") if path.is_file())
        videos = [path for path in found if media_of(path.name) == "video"]
        if not videos:
            raise ValueError(f"data={data}: no video there")
        work.mkdir(parents=True, exist_ok=True)
        making = Path(tempfile.mkdtemp(dir=work))
        frames = frames_of(videos, HEIGHT, WIDTH)
        for number in range(count):
            write_video(making / f"{number:03d}.mp4", islice(frames, length_s * RATE), OPTIONS)
        making.rename(folder)
    return tuple(str(path) for path in sorted(folder.glob("*.mp4")))


def measure(given: dict[str, str], length_s: int, clips: int) -> Row:
    """Let every loader have its turn once."""
    from benchmarks.ingest import (  # here, as psutil is an extra
        OTHERS_WARM_UP_S,
        WARM_UP_S,
        watch,
    )

    files = made(given["data"], Path(given["work"]), length_s)
    seconds = float(given["seconds"])
    row: Row = {"length_s": length_s, "clips": clips, "seconds": seconds}
    for name in LOADERS:
        if given["only"] not in name or (name == "torchcodec" and not find_spec(name)):
            continue
        with tempfile.TemporaryDirectory(prefix="afield-clips-") as folder:
            # more than it is watched, as it is first left alone
            setup = Setup(files, clips, seconds + 40, str(Path(folder, "progress")))
            warm_up_s = WARM_UP_S["ray"] if name == THROUGH_RAY else OTHERS_WARM_UP_S
            found = watch(LOADERS[name], setup, seconds, warm_up_s=warm_up_s)
        row[name] = found["images_per_cpu_s"]
        row[f"{name}, a second"] = found["images_per_s"]
        print(f"{length_s} s, {clips} clips, {name}: {row[name]:.2f}", file=sys.stderr)
    row["ratios"] = {
        f"clips, {clips} of {length_s} s: {ours} / {name}": row[ours] / row[name]
        for ours in OURS
        if ours in row
        for name in LOADERS
        if name in row and name not in OURS
    }
    return row


def table(rows: list[Row]) -> str:
    """Medians of all runs in Markdown."""
    cases = defaultdict[tuple[int, int], list[Row]](list)
    for row in rows:
        cases[row["length_s"], row["clips"]].append(row)
    shown = [
        "| videos | clips of each | loader | clips per CPU-second | of decoding alone | clips/s |",
        "|---|---|---|---|---|---|",
    ]
    for (length_s, clips), runs in cases.items():
        ceiling = _median(runs, CEILING)
        for name in LOADERS:
            if any(name in row for row in runs):
                rate = _median(runs, name)
                of = f"{rate / ceiling:.0%}" if ceiling else ""
                shown.append(
                    f"| {length_s} s | {clips} | {name} | {rate:.2f} | {of} |"
                    f" {_median(runs, f'{name}, a second'):.2f} |"
                )
    return "\n".join(shown)


def _median(runs: list[Row], name: str) -> float:
    values = [row[name] for row in runs if name in row]
    return statistics.median(values) if values else 0.0


def main(words: list[str]) -> int:
    """Measure every case `runs` times, then print the table."""
    given = settings(
        words,
        USAGE,
        data="",
        work="",
        lengths="2,30,600",
        clips="1,4",
        seconds="30",
        runs="3",
        only=" ",
        out="clips.jsonl",
    )
    given["only"] = given["only"].strip()
    out = Path(given["out"])
    try:
        for _ in range(int(given["runs"])):
            for length_s in map(int, given["lengths"].split(",")):
                for clips in map(int, given["clips"].split(",")):
                    add_row(out, measure(given, length_s, clips))
    except ValueError as error:
        print(f"error: {error}: {USAGE}", file=sys.stderr)
        return 2
    print(table(read_rows(out)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
