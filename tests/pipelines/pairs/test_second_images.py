"""Second images through the stream: cut by the boxes of the first, or counted as bad."""

import io
import re
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from augment.generator import ViewGenerator
from augment.ops import ColorJitter, Greyscale
from augment.recipe import CropGroup, PairKind, Views
from augment.scenes.hha import hha, hha_image
from jobs.estimating.storage_use import of_a_sample
from pipelines import schema
from pipelines.corpus.entry import Selection
from pipelines.corpus.listed_rows import LISTED, per_clip, rows_of
from pipelines.corpus.listing import look_up
from pipelines.corpus.manifest import Manifest
from pipelines.corpus.manifest_writer import write_manifest
from pipelines.media.contract import REASONS, Limits
from pipelines.pairs.files_beside import FilesBeside
from pipelines.pairs.second_images import SecondImages
from pipelines.stream import quarantine
from pipelines.stream.ingest import Ingest, run_items
from pipelines.stream.orders import ManifestOrder
from pipelines.stream.shapes import Columns, Crops

HEIGHT = 60
WIDTH = 80
SIZE = 24
NUM = 6
GROUP = "global_crops"
VIEWS = Views(
    size=SIZE,
    groups={
        GROUP: CropGroup(
            count=2, scale=(0.2, 1.0), color_jitter=ColorJitter(p=1), greyscale=Greyscale(p=1)
        ),
        "local_crops": CropGroup(size=8),
    },
)
ROWS, COLUMNS = np.mgrid[:HEIGHT, :WIDTH]
WHERE = np.stack([COLUMNS * 3, ROWS * 4, np.full_like(ROWS, 9)], axis=2).astype(np.uint8)
DEPTH = (ROWS * 1000 + COLUMNS).astype(np.uint16)  # most of them above 8 bits


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def indexed(folder: Path, files: list[Path], **selection: tuple[str, ...]) -> Manifest:
    chosen = Selection(**selection)
    rows = rows_of([look_up(str(file)) for file in files], chosen)
    table = per_clip(pa.Table.from_pylist(list(rows), schema=LISTED), per_video=1)
    return write_manifest(str(folder / "manifest"), str(folder), [table], chosen)


def loose(folder: Path, second: np.ndarray) -> Manifest:
    """Index images whose every pixel says where it is, with second images in the folder beside."""
    for name in ("rgb", "depth"):
        (folder / name).mkdir()
    for number in range(NUM):
        (folder / f"rgb/{number}.png").write_bytes(png(WHERE))
        (folder / f"depth/{number}.png").write_bytes(png(second))
    return indexed(folder, sorted((folder / "rgb").iterdir()))


def in_a_shard(folder: Path, second: np.ndarray) -> Manifest:
    with tarfile.open(folder / "0.tar", "w") as tar:
        for number in range(NUM):
            for name, pixels in ((f"{number}.rgb.png", WHERE), (f"{number}.rgb.depth.png", second)):
                data = png(pixels)
                member = tarfile.TarInfo(f"./{name}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return indexed(folder, [folder / "0.tar"], members=("*.rgb.png",))


def work(
    manifest: Manifest,
    kind: PairKind,
    *,
    rule: str = "../depth/{stem}.png",
    photometric: bool = True,
    folder: Path | None = None,
) -> Ingest:
    files = FilesBeside(rule, manifest.left_out_uri)
    pair = SecondImages(files, kind, camera=(90.0, 85.0, 40.0, 20.0))
    shape = Crops(VIEWS, 3, photometric=photometric, pair=kind)
    return Ingest(
        order=ManifestOrder(manifest),
        shape=shape,
        block_rows=NUM,
        limits=Limits(),
        quarantine=str(folder) if folder else None,
        run="test",
        pair=pair,
    )


def block_of(ingest: Ingest) -> Columns:
    (block,) = run_items(pa.table({"start": [0], "stop": [NUM]}), ingest=ingest)
    return block


def test_a_second_image_is_cut_by_the_boxes_of_the_first(tmp_path: Path) -> None:
    manifest = loose(tmp_path, WHERE)
    plain = block_of(work(manifest, "colours", photometric=False))
    assert plain[schema.VALID].all()
    assert plain[schema.PAIR].shape == (NUM, 2, 3, SIZE, SIZE)
    # both draw where each pixel of a view comes from
    np.testing.assert_array_equal(plain[schema.PAIR], plain[GROUP])
    assert len(np.unique(plain[schema.PAIR].reshape(NUM * 2, -1), axis=0)) == NUM * 2
    mirrored = plain[GROUP][:, :, 0, 0, 0] > plain[GROUP][:, :, 0, 0, -1]
    assert mirrored.any() and not mirrored.all()


def test_colours_change_in_the_first_alone(tmp_path: Path) -> None:
    manifest = loose(tmp_path, WHERE)
    plain = block_of(work(manifest, "colours", photometric=False))
    coloured = block_of(work(manifest, "colours"))
    assert (coloured[GROUP] != plain[GROUP]).any(axis=(2, 3, 4)).all()
    np.testing.assert_array_equal(coloured[schema.PAIR], plain[schema.PAIR])


def test_depths_stay_16_bits_deep_and_lie_where_the_pixels_do(tmp_path: Path) -> None:
    block = block_of(work(loose(tmp_path, DEPTH), "depth", photometric=False))
    depth = block[schema.PAIR][:, :, 0]
    assert block[schema.VALID].all()
    assert block[schema.PAIR].shape == (NUM, 2, 1, SIZE, SIZE)
    assert block[schema.PAIR].dtype == np.int32
    assert np.isin(depth, DEPTH).all()  # none lies between two
    rows, columns = np.divmod(depth, 1000)
    views = block[GROUP].astype(np.float64)
    # one pixel: the nearest may be half of one away, and so may the border of what is averaged
    assert np.abs(columns - views[:, :, 0] / 3).max() <= 1
    assert np.abs(rows - views[:, :, 1] / 4).max() <= 1


def test_hha_is_made_of_the_whole_image_before_it_is_cut(tmp_path: Path) -> None:
    depth = np.where(ROWS < 30, 3000, 90_000 // (ROWS + 1)).astype(np.uint16)
    ingest = work(loose(tmp_path, depth), "hha")
    block = block_of(ingest)
    metres = torch.from_numpy(depth.astype(np.float32) / 1000).unsqueeze(0)
    assert ingest.pair is not None and ingest.pair.camera is not None
    whole = hha_image(hha(metres, torch.tensor([ingest.pair.camera])))[0] * 255
    image = np.ascontiguousarray(whole.round().to(torch.uint8).permute(1, 2, 0).numpy())
    keys = (torch.tensor(block[name]) for name in (schema.EPOCH, schema.SAMPLE_ID))
    expected = ViewGenerator(VIEWS, seed=3).make_crops([image] * NUM, *keys)[GROUP]
    np.testing.assert_array_equal(block[schema.PAIR], expected)
    assert len(np.unique(image[..., 2])) > 1


def test_members_of_shards_have_theirs_in_the_same_shard(tmp_path: Path) -> None:
    manifest = in_a_shard(tmp_path, DEPTH)
    assert manifest.num_rows == NUM
    block = block_of(work(manifest, "depth", rule="{stem}.depth.png", photometric=False))
    assert block[schema.VALID].all()
    rows, columns = np.divmod(block[schema.PAIR][:, :, 0], 1000)
    views = block[GROUP].astype(np.float64)
    assert np.abs(columns - views[:, :, 0] / 3).max() <= 1
    assert np.abs(rows - views[:, :, 1] / 4).max() <= 1


@pytest.mark.parametrize(
    ("kind", "damage", "says"),
    [
        ("depth", None, "no second image .*depth/2.png.*check source.pair"),
        ("depth", b"", "no second image .*or an empty one"),
        ("depth", b"\x89PNG nothing else", "its second image: "),
        ("depth", png(DEPTH)[:150], "its second image: "),
        ("depth", png(DEPTH[:, :70]), "its second image is 70 x 60, the first 80 x 60"),
        ("depth", png(WHERE), "holds RGB pixels, where depth .*source.pair_kind=colours"),
        ("colours", png(WHERE)[:120], "its second image: "),
        ("hha", png(DEPTH[:50]), "its second image is 80 x 50"),
    ],
    ids=["gone", "empty", "no image", "cut off", "narrow", "colours", "cut colours", "low"],
)
def test_a_sample_without_a_usable_second_image_is_bad_and_counted(
    tmp_path: Path, kind: PairKind, damage: bytes | None, says: str
) -> None:
    manifest = loose(tmp_path, WHERE if kind == "colours" else DEPTH)
    broken = tmp_path / "depth/2.png"
    if damage is None:
        broken.unlink()
    else:
        broken.write_bytes(damage)
    block = block_of(work(manifest, kind, folder=tmp_path / "quarantine"))
    bad = np.flatnonzero(~block[schema.VALID])
    assert len(bad) == 1
    assert REASONS[block[schema.REASON][bad[0]] - 1] == "pair"
    rows = quarantine.read(str(tmp_path / "quarantine"))
    assert [row["uri"] for row in rows] == [str(tmp_path / "rgb/2.png")]
    assert rows[0]["reason"] == "pair"
    assert re.search(says, rows[0]["message"])


def test_a_member_without_one_says_what_may_be_wrong(tmp_path: Path) -> None:
    manifest = in_a_shard(tmp_path, DEPTH)
    block_of(work(manifest, "depth", rule="{stem}.ir.png", folder=tmp_path / "quarantine"))
    (row, *_) = quarantine.read(str(tmp_path / "quarantine"))
    assert "no second image" in row["message"] and "source.members" in row["message"]


def test_a_bad_first_image_is_bad_for_its_own_reason(tmp_path: Path) -> None:
    manifest = loose(tmp_path, DEPTH)
    (tmp_path / "rgb/2.png").write_bytes(b"x" * (tmp_path / "rgb/2.png").stat().st_size)
    block = block_of(work(manifest, "depth"))
    (bad,) = np.flatnonzero(~block[schema.VALID])
    assert REASONS[block[schema.REASON][bad] - 1] == "unknown_type"


def test_blocks_have_the_size_that_ray_is_told(tmp_path: Path) -> None:
    for kind in ("colours", "depth"):
        folder = tmp_path / kind
        folder.mkdir()
        ingest = work(loose(folder, WHERE if kind == "colours" else DEPTH), kind)
        assert (
            sum(column.nbytes for column in block_of(ingest).values())
            == ingest.block_rows * ingest.row_bytes()
        )
        alone = replace(ingest.shape, pair=None)
        assert set(block_of(replace(ingest, shape=alone, pair=None))) == set(block_of(ingest)) - {
            schema.PAIR
        }


def test_an_estimate_counts_their_requests_and_bytes(tmp_path: Path) -> None:
    of_each = {
        "loose": (loose, "../depth/{stem}.png", 2),  # its size is asked for first
        "shard": (in_a_shard, "{stem}.depth.png", 1 / NUM),  # they lie side by side
    }
    for name, (make, rule, more) in of_each.items():
        folder = tmp_path / name
        folder.mkdir()
        ingest = work(make(folder, DEPTH), "depth", rule=rule)
        requests, size = of_a_sample(ingest)
        alone = of_a_sample(replace(ingest, pair=None))
        assert requests - alone[0] == pytest.approx(more)
        assert size - alone[1] == len(png(DEPTH))
