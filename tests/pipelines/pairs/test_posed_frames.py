"""Frames of a camera whose poses are known: which is drawn, and how the camera moved to it."""

import csv
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation

from augment.presets import plain_views
from jobs.corpora.paired_source import PairedSource, check_poses_given
from jobs.setup.failures import InputError
from pipelines import schema
from pipelines.corpus.listed_rows import sample_id
from pipelines.media.contract import Limits
from pipelines.pairs.posed_frames import MOTIONS, PosedFrames, _read
from pipelines.pairs.second_images import SecondImages
from pipelines.stream import ingest, quarantine, shapes
from pipelines.stream.orders import Listed

NUM = 12


def write(folder: Path, *, sequences: int = 1) -> Path:
    """A camera that goes ahead ever faster and turns to the right; frames whose grey tells their
    number."""
    folder.mkdir()
    rows = []
    for number in range(NUM):
        turn = Rotation.from_rotvec([0, 0.01 * number**2, 0]).as_matrix()
        Image.fromarray(np.full((24, 32, 3), 20 * number, np.uint8)).save(folder / f"{number}.png")
        rotation = {f"r{i}{j}": turn[i, j] for i in range(3) for j in range(3)}
        place = {"t0": 0.0, "t1": 0.0, "t2": 0.5 * number**2}
        rows.append(
            {"file": f"{number}.png", **rotation, **place, "sequence": number * sequences // NUM}
        )
    with (folder / "poses.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    return folder / "poses.csv"


def rows_of(folder: Path, names: list[str], epoch: int = 0) -> pa.Table:
    rows = [
        {
            "sample_id": sample_id(str(folder / name), None, ""),
            "uri": str(folder / name),
            "offset": 0,
            "length": (folder / name).stat().st_size,
            "member": None,
            "etag": "",
            "media": "image",
            "clip": None,
        }
        for name in names
    ]
    table = pa.Table.from_pylist(rows, schema=schema.MANIFEST)
    return table.append_column(schema.EPOCH, pa.array([epoch] * len(rows), pa.int64()))


FRAMES = [f"{number}.png" for number in range(NUM)]


def test_the_motion_is_that_of_the_second_camera_before_the_first(tmp_path: Path) -> None:
    poses = _read(str(write(tmp_path / "a")), 3)
    motion = poses.motion(np.array([2, 5]), np.array([4, 3]))
    for (first, second), found in zip(((2, 4), (5, 3)), motion, strict=True):
        back = poses.rotations[first].T
        assert found[:3] == pytest.approx(back @ (poses.places[second] - poses.places[first]))
        assert found[3:] == pytest.approx([0, 0.01 * (second**2 - first**2), 0], abs=1e-9)
    assert motion[0, 2] > 0 > motion[1, 2] and MOTIONS[2] == "z" and MOTIONS[4] == "yaw"


def test_ranks_are_those_among_all_pairs_so_near(tmp_path: Path) -> None:
    poses = _read(str(write(tmp_path / "a")), 2)
    pairs = [(a, b) for a in range(NUM) for b in range(NUM) if 0 < abs(a - b) <= 2]
    motion = poses.motion(*(np.array(side) for side in zip(*pairs, strict=True)))
    ranks = poses.ranks(motion)
    for index in range(len(pairs)):
        for part in range(6):
            below = (motion[:, part] < motion[index, part]).sum()
            equal = (motion[:, part] == motion[index, part]).sum()
            assert ranks[index, part] == pytest.approx((below + equal / 2) / len(pairs), abs=0.02)
    counts = np.bincount((ranks[:, 2] * 3).astype(int), minlength=3)
    assert np.ptp(counts) <= 2  # classes are equally frequent


def test_frames_are_drawn_by_key_from_near_by_and_of_the_same_sequence(tmp_path: Path) -> None:
    write(tmp_path / "a", sequences=2)
    table = str(tmp_path / "a" / "poses.csv")
    drawn = set()
    for epoch in range(40):
        rows = rows_of(tmp_path / "a", FRAMES, epoch)
        frames = PosedFrames(table, max_gap=2, seed=3)
        named = [int(Path(uri).stem) for uri in frames.sought(rows)]
        again = [int(Path(uri).stem) for uri in frames.sought(rows.slice(5, 4))]
        assert again == named[5:9]
        for number, other in enumerate(named):
            assert 0 < abs(other - number) <= 2 and number * 2 // NUM == other * 2 // NUM
        drawn |= set(enumerate(named))
    assert (0, 1) in drawn and (5, 3) in drawn and (6, 8) in drawn and len(drawn) == 2 * 18


def test_blocks_have_the_second_frame_and_the_motion_to_it(tmp_path: Path) -> None:
    table = str(write(tmp_path / "a"))
    Image.fromarray(np.zeros((24, 32, 3), np.uint8)).save(tmp_path / "a" / "other.png")
    rows = rows_of(tmp_path / "a", [*FRAMES, "other.png"]).drop_columns([schema.EPOCH])
    crops = shapes.Crops(
        plain_views(16, (0.7, 1.0), flip=0.0), 0, photometric=False, pair="colours"
    )
    frames = SecondImages(PosedFrames(table, max_gap=2, seed=3))
    work = ingest.Ingest(
        Listed(rows), crops, 13, Limits(), quarantine=f"{tmp_path}/q", run="test", pair=frames
    )
    (block,) = ingest.run_items(pa.table({"start": [0], "stop": [13]}), ingest=work)
    assert block[schema.VALID].tolist() == [True] * NUM + [False]
    first = block["global_crops"][:NUM, 0, 0, 8, 8] // 20
    second = block[schema.PAIR][:NUM, 0, 0, 8, 8].astype(int) // 20
    assert first.tolist() == list(range(NUM))
    poses = _read(table, 2)
    expected = poses.ranks(poses.motion(np.arange(NUM), second))
    assert block[schema.MOTION][:NUM] == pytest.approx(expected)
    assert sum(value.nbytes for value in block.values()) == work.block_rows * work.row_bytes()
    (bad,) = quarantine.read(f"{tmp_path}/q")
    assert bad["reason"] == "pair" and "no pose of its frame" in bad["message"]


def test_what_tells_no_motion_is_refused_by_key(tmp_path: Path) -> None:
    table = write(tmp_path / "a")
    given = PairedSource(uri="x", poses=str(table))
    check_poses_given(given, "method.name=m", posed=True)
    with pytest.raises(InputError, match=r"method\.name=m takes no poses, leave it out"):
        check_poses_given(given, "method.name=m", posed=False)
    with pytest.raises(InputError, match=r"needs the camera's pose .* by source\.poses"):
        check_poses_given(PairedSource(uri="x"), "method.name=m", posed=True)
    missing = PairedSource(uri="x", poses=str(tmp_path / "missing.csv"))
    with pytest.raises(InputError, match=r"source\.poses .*missing\.csv"):
        check_poses_given(missing, "method.name=m", posed=True)
    lines = table.read_text().splitlines()
    (tmp_path / "b.csv").write_text("\n".join(lines[:2]))
    (tmp_path / "c.csv").write_text("\n".join(line.replace("r11", "x") for line in lines))
    for name, said in (("b", "no two frames of one sequence"), ("c", "no column r11")):
        other = PairedSource(uri="x", poses=str(tmp_path / f"{name}.csv"))
        with pytest.raises(InputError, match=said):
            check_poses_given(other, "method.name=m", posed=True)
    with pytest.raises(ValueError, match="pair has no effect beside poses"):
        PairedSource(uri="x", poses="p", pair="{stem}.png")
