import pickle
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from augment.generator import ViewGenerator
from augment.picture import Picture
from augment.presets import simclr_views
from augment.recipe import CropGroup, Views
from pipelines import ray_internals, schema
from pipelines.corpus.file_kinds import media_of
from pipelines.corpus.listed_rows import sample_id
from pipelines.media.contract import REASONS, Limits
from pipelines.media.image import decode
from pipelines.media.jpeg import decode_jpeg
from pipelines.stream import ingest, quarantine, sealed, shapes
from pipelines.stream.first_samples import WithOriginal
from pipelines.stream.ingest import Ingest, run_items
from pipelines.stream.orders import Listed, Order, keyed
from pipelines.stream.payload import FileInParts, content_of
from pipelines.stream.sealed import Deal
from pipelines.stream.shapes import Centre, Crops


def listed(files: list[Path]) -> Listed:
    rows = [
        {
            "sample_id": sample_id(str(file), None, ""),
            "uri": str(file),
            "offset": 0,
            "length": file.stat().st_size if file.exists() else 1,
            "member": None,
            "etag": "",
            "media": media_of(file.name),
            "clip": None,
        }
        for file in files
    ]
    return Listed(pa.Table.from_pylist(rows, schema=schema.MANIFEST))


def work(order: Order, folder: Path | None, shape: shapes.Shape, block_rows: int = 8) -> Ingest:
    return Ingest(
        order, shape, block_rows, Limits(), quarantine=str(folder) if folder else None, run="test"
    )


def items(*ranges: tuple[int, int]) -> pa.Table:
    return pa.table({"start": [start for start, _ in ranges], "stop": [stop for _, stop in ranges]})


@pytest.fixture
def files(image_folder: Path) -> list[Path]:
    return sorted(image_folder.rglob("*.*"))[:40]


def test_blocks_are_whole_and_in_order(files: list[Path]) -> None:
    blocks = list(run_items(items((0, 16), (16, 40)), ingest=work(listed(files), None, Centre(16))))
    assert [len(block[schema.VALID]) for block in blocks] == [8, 8, 8, 8, 8]
    assert np.concatenate([block[schema.POSITION] for block in blocks]).tolist() == list(range(40))
    assert all(
        block["image"].shape == (8, 3, 16, 16) and block["image"].dtype == np.uint8
        for block in blocks
    )


def test_every_row_carries_its_share_of_the_time(files: list[Path]) -> None:
    before = time.time()
    order = work(listed(files), None, Centre(16), block_rows=16)
    first, *_, last = run_items(items((0, 40)), ingest=order)
    for block in (first, last):
        seconds = {
            name: block[name].sum() for name in (schema.FETCH_S, schema.DECODE_S, schema.CROP_S)
        }
        assert all(0 < value < time.time() - before for value in seconds.values())
        assert all(len(set(block[name])) == 1 for name in seconds)
        assert block[schema.RETRIES].sum() == 0
    assert before < first[schema.READY_AT][0] < last[schema.READY_AT][0] < time.time()
    assert sum(column.nbytes for column in first.values()) == order.block_rows * order.row_bytes()


def test_crops_are_those_of_the_sample_whatever_the_block(files: list[Path]) -> None:
    crops = Crops(simclr_views(16), 3, photometric=False)
    large = next(run_items(items((0, 8)), ingest=work(listed(files), None, crops, block_rows=8)))
    small = list(run_items(items((4, 8)), ingest=work(listed(files), None, crops, block_rows=2)))
    assert np.array_equal(
        np.concatenate([block["global_crops"] for block in small]), large["global_crops"][4:]
    )
    image = decode(files[5].read_bytes(), max_pixels=10**7)
    keys = torch.zeros(1, dtype=torch.int64), torch.tensor(large[schema.SAMPLE_ID][5:6])
    assert np.array_equal(
        ViewGenerator(crops.views, crops.seed).make_crops([image], *keys)["global_crops"][0],
        large["global_crops"][5],
    )


def test_a_task_that_only_cuts_never_imports_torch(files: list[Path], tmp_path: Path) -> None:
    shape = WithOriginal(Crops(simclr_views(32), 3, photometric=False), 32)
    expected = next(run_items(items((0, 4)), ingest=work(listed(files), None, shape)))
    (tmp_path / "work").write_bytes(pickle.dumps(work(listed(files), None, shape)))
    script = f"""
import pickle, sys
from pathlib import Path
import pyarrow as pa
ingest = pickle.loads(Path({str(tmp_path / "work")!r}).read_bytes())
from pipelines.stream.ingest import run_items
[block] = run_items(pa.table({{"start": [0], "stop": [4]}}), ingest=ingest)
found = {{"torch", "models.artifact"}} & set(sys.modules)
assert not found, found
Path({str(tmp_path / "block")!r}).write_bytes(pickle.dumps(block))
"""
    root = Path(ingest.__file__).parents[2]
    subprocess.run([sys.executable, "-c", script], cwd=root, check=True)
    block = pickle.loads((tmp_path / "block").read_bytes())
    assert block[schema.VALID].all() and set(block) == set(expected)
    for name in {schema.SAMPLE_ID, *shape.empty(1)}:
        assert np.array_equal(block[name], expected[name]), name


def test_large_files_are_decoded_as_small_as_their_smallest_view_allows(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    names = [tmp_path / f"{side}.jpg" for side in (40, 400, 1200)]
    for name in names:
        small = Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8))
        small.resize((int(name.stem) * 5 // 4, int(name.stem))).save(name)
    views = Views(size=32, groups={"global_crops": CropGroup(count=2, scale=(0.5, 1.0))})
    crops = Crops(views, 3, photometric=False)
    for shape, column in ((crops, "global_crops"), (Centre(32), "image")):
        rows = work(listed(names), None, shape, block_rows=3)
        block = next(run_items(items((0, 3)), ingest=rows))
        whole = shape.empty(3)
        keys = np.zeros(3, np.int64), block[schema.SAMPLE_ID]
        filler, reductions = shape.filler(whole, *keys), []
        for row, name in enumerate(names):
            image = decode(name.read_bytes(), max_pixels=10**7)
            reductions.append(filler.reduction(row, *image.shape[:2]))
            picture = decode_jpeg(
                name.read_bytes(), max_pixels=10**7, reduce=partial(filler.reduction, row)
            )
            assert picture is not None
            filler.fill(row, picture)
        assert reductions == [1, 4, 8]  # wherever the boxes lie
        assert np.array_equal(block[column], whole[column])
        for row, name in enumerate(names):
            filler.fill(row, Picture.whole(decode(name.read_bytes(), max_pixels=10**7)))
        assert np.abs(block[column].astype(int) - whole[column]).mean() < 1
        assert np.array_equal(block[column][0], whole[column][0]) and not np.array_equal(
            block[column], whole[column]
        )


def test_bad_files_are_quarantined_and_leave_the_others_untouched(
    files: list[Path], tmp_path: Path
) -> None:
    broken, cut, gone = tmp_path / "text.jpg", tmp_path / "cut.jpg", tmp_path / "gone.jpg"
    broken.write_bytes(b"this is no picture at all")
    jpeg = next(file for file in files if file.suffix == ".jpg").read_bytes()
    cut.write_bytes(jpeg[: len(jpeg) // 2])
    mixed = [files[0], broken, files[1], cut, gone, *files[2:5]]
    folder = tmp_path / "quarantine"
    block = next(run_items(items((0, 8)), ingest=work(listed(mixed), folder, Centre(16))))
    assert block[schema.VALID].tolist() == [True, False, True, False, False, True, True, True]
    clean = next(run_items(items((0, 5)), ingest=work(listed(files), None, Centre(16))))
    assert np.array_equal(block["image"][[0, 2, 5, 6, 7]], clean["image"])
    # a neighbour's pixels, for batch statistics
    assert np.array_equal(block["image"][1], block["image"][0])
    rows = {Path(row["uri"]).name: row for row in quarantine.read(str(folder))}
    reasons = {name: (row["stage"], row["reason"]) for name, row in rows.items()}
    assert reasons["gone.jpg"] == ("fetch", "missing")
    assert reasons["text.jpg"] == ("decode", "unknown_type") and reasons["cut.jpg"][0] == "decode"
    assert quarantine.summarise(str(folder)).reasons["missing"] == 1
    alone = str(tmp_path / "alone")
    next(run_items(items((0, 2)), ingest=work(listed(mixed[:2]), Path(alone), Centre(16))))
    assert [Path(row["uri"]).name for row in quarantine.read(alone)] == ["text.jpg"]


def test_a_block_without_any_good_file_is_marked_not_lost(tmp_path: Path) -> None:
    names = [tmp_path / f"{i}.jpg" for i in range(3)]
    block = next(
        run_items(
            items((0, 3)), ingest=work(listed(names), tmp_path / "q", Centre(16), block_rows=3)
        )
    )
    assert not block[schema.VALID].any() and block["image"].shape == (3, 3, 16, 16)


def test_colours_changed_in_the_decode_task_are_those_of_the_worker(files: list[Path]) -> None:
    generator = ViewGenerator(simclr_views(16), seed=1)
    crops, coloured = (
        next(
            run_items(
                items((0, 8)),
                ingest=work(
                    listed(files), None, Crops(generator.views, generator.seed, photometric=done)
                ),
            )
        )
        for done in (False, True)
    )
    keys = [torch.tensor(crops[name]) for name in (schema.EPOCH, schema.SAMPLE_ID)]
    in_worker = generator({"global_crops": torch.from_numpy(crops["global_crops"])}, *keys)[
        "global_crops"
    ]
    in_task = generator(
        {"global_crops": torch.from_numpy(coloured["global_crops"])}, *keys, photometric_done=True
    )
    difference = (in_worker - in_task["global_crops"]).abs() * min(generator.views.std)
    assert difference.max() <= 0.5 / 255 + 1e-5


def filled(
    shape: shapes.Shape, images: list[np.ndarray], epoch: np.ndarray, sample_id: np.ndarray
) -> dict[str, np.ndarray]:
    columns = shape.empty(len(images))
    filler = shape.filler(columns, epoch, sample_id)
    for row, image in enumerate(images):
        filler.fill(row, Picture.whole(image))
    return columns


@pytest.mark.parametrize("photometric", [False, True])
def test_a_clip_is_made_as_its_frames_one_by_one_would_be(photometric: bool) -> None:
    rng = np.random.default_rng(0)
    clips = [rng.integers(0, 256, (3, *size, 3), dtype=np.uint8) for size in ((40, 60), (50, 30))]
    still = rng.integers(0, 256, (44, 44, 3), dtype=np.uint8)
    keys = np.zeros(3, np.int64), np.array([5, -6, 7])
    for shape in (
        Crops(simclr_views(16), 2, photometric=photometric),
        Centre(16),
    ):
        whole = filled(shapes.Clips(shape, num_frames=3), [clips[0], still, clips[1]], *keys)
        for t in range(3):
            for name, frame in filled(shape, [clips[0][t], still, clips[1][t]], *keys).items():
                assert whole[name].dtype == np.uint8
                assert np.array_equal(whole[name][..., t, :, :, :], frame)


@pytest.mark.parametrize(("size", "blocks"), [(16, 32), (224, 1)])
@pytest.mark.parametrize("stop", [96 + 100_000, 10**12])
def test_plan_items_are_whole_blocks_of_bounded_bytes_however_long_the_run(
    size: int, blocks: int, stop: int
) -> None:
    made = Ingest(Listed(pa.table({})), Centre(size), 1024, Limits(), quarantine=None, run="test")
    assert made.item_rows() == 1024 * blocks
    plan = items((96, stop)).append_column("rows", [[made.item_rows()]])
    cut = sealed._cut(plan)
    pieces = [batch.to_pydict() for batch in islice(cut, 3)]
    assert all(len(piece["start"]) <= sealed.CUT_ITEMS for piece in pieces)
    starts = np.concatenate([piece["start"] for piece in pieces])
    stops = np.concatenate([piece["stop"] for piece in pieces])
    assert starts[0] == 96 and np.array_equal(starts[1:], stops[:-1])
    assert set((stops - starts)[:-1].tolist()) == {1024 * blocks}
    assert stops[-1] == stop or len(starts) == 3 * sealed.CUT_ITEMS


@pytest.mark.parametrize("ranks", [1, 2, 5])
@pytest.mark.parametrize("joined", [1, 3, 8])
@pytest.mark.parametrize("steps", [1, 7, 24])
def test_blocks_dealt_in_turn_give_every_rank_its_batches(
    ranks: int, joined: int, steps: int
) -> None:
    deal = Deal(4, ranks, joined)
    table = pa.table({"position": range(4 * ranks * steps)})
    blocks = []
    for start, stop, rows in deal.plan(0, table.num_rows, row_bytes=8):
        for at in range(start, stop, rows):
            item = table.slice(at, min(rows, stop - at))
            blocks += deal.blocks(iter([item.slice(0, 6), item.slice(6)]))
    for rank in range(ranks):
        mine = pa.concat_tables(blocks[rank::ranks])["position"].to_numpy().reshape(-1, 4)
        assert np.array_equal(mine, np.arange(4 * ranks * steps).reshape(steps, ranks, 4)[:, rank])


def test_small_batches_are_joined_as_far_as_a_task_holds_some_of_every_rank() -> None:
    assert Deal.of(256, 1, 6_144) == Deal(256, 1, 8)
    assert Deal.of(256, 1, 30_000) == Deal(256, 1, 2)
    assert Deal.of(256, 1, 1_000) == Deal(256, 1, 8)
    assert Deal.of(256, 8, 1_000) == Deal(256, 8, 4)
    assert Deal.of(256, 32, 1_000) == Deal.of(256, 2, 300_000) == Deal(256)
    for deal in (Deal(256), Deal(256, 1, 8), Deal(256, 5, 4), Deal(256, 3, 1)):
        assert deal.item_rows(1_000) % (deal.ranks * deal.block_rows) == 0
        assert deal.item_rows(1_000) <= 32 * 256
    assert Deal(1024, 3, 2).item_rows(1 << 30) == 6 * 1024  # never less than a block each


def test_what_stands_for_a_bad_sample_is_the_same_however_batches_are_joined(
    files: list[Path], tmp_path: Path
) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no picture")
    order = listed([bad, *files[:2], bad, files[2], bad, bad, *files[3:5], bad, bad, bad])
    made = work(order, None, Centre(16), block_rows=3)
    apart = list(run_items(items((0, 12)), ingest=made))
    (joined,) = run_items(items((0, 12)), ingest=made, deal=Deal(3, 1, 4))
    for name in (schema.VALID, schema.IMAGE):
        assert np.array_equal(np.concatenate([block[name] for block in apart]), joined[name])


@pytest.mark.slow
def test_many_items_are_planned_lazily_and_stay_in_order(
    ray_session: None, files: list[Path]
) -> None:
    made = work(Cycled(listed(files).table), None, Centre(8), block_rows=4)
    many = [(start, start + 4) for start in range(0, 800, 4)]
    assert len(many) > sealed.FEW_ITEMS
    stream = ingest.dataset(made, many)
    planner = ray_internals.last_operator(stream).input_dependencies[0]
    cutter = planner.input_dependencies[0]
    for operator in (planner, cutter):  # one CPU left is enough for all three operators
        assert operator.ray_remote_args["num_cpus"] == sealed.PLANNER_CPUS
    assert type(cutter.input_dependencies[0]).__name__ == "FromBlocks"  # no task of a whole CPU
    # Ray's coordinator holds the function too: opening it there must not import what only the tasks
    # need.
    held = pickle.dumps(ray_internals.last_operator(stream).fn)
    script = "import pickle, sys; pickle.load(sys.stdin.buffer); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], input=held, check=True)
    blocks = list(stream.iter_batches(batch_size=None))
    assert {len(block[schema.VALID]) for block in blocks} == {4}
    assert np.concatenate([block[schema.POSITION] for block in blocks]).tolist() == list(range(800))


@dataclass(frozen=True, eq=False)
class Cycled:
    """A few rows over and over."""

    table: pa.Table

    def rows(self, start: int, stop: int) -> Iterator[pa.Table]:
        wanted = pa.array(np.arange(start, stop) % self.table.num_rows)
        yield keyed(self.table.take(wanted).append_column(schema.ROW, wanted), epoch=0, start=start)


def test_files_of_the_same_bytes_have_the_same_content_wherever_they_lie(
    files: list[Path], tmp_path: Path
) -> None:
    copy, broken, gone = tmp_path / "copy.jpg", tmp_path / "broken.jpg", tmp_path / "gone.jpg"
    copy.write_bytes(files[1].read_bytes())
    broken.write_bytes(b"no picture")
    order = listed([*files[:4], copy, broken, gone])
    asked = replace(work(order, None, Centre(16)), content=True)
    (block,) = run_items(items((0, 7)), ingest=asked)
    content = block[schema.CONTENT].tolist()
    assert content[4] == content[1] and len(set(content)) == 6 and content[6] == 0
    (whole,) = run_items(items((0, 7)), ingest=replace(asked, block_rows=7))
    assert sum(column.nbytes for column in whole.values()) == 7 * asked.row_bytes()
    assert content_of(FileInParts(order.table.slice(1, 1))) == content_of(
        FileInParts(order.table.slice(4, 1))
    )
    assert content_of(FileInParts(order.table.slice(1, 1))) != content_of(
        FileInParts(order.table.slice(2, 1))
    )


def test_content_is_verified_where_that_is_asked_for(files: list[Path]) -> None:
    order = listed(files[:4])  # whose etags are those of no file
    (plain,) = run_items(items((0, 4)), ingest=work(order, None, Centre(16)))
    strict = replace(work(order, None, Centre(16)), verify=True)
    (verified,) = run_items(items((0, 4)), ingest=strict)
    assert plain[schema.VALID].all() and not verified[schema.VALID].any()
    assert set(verified[schema.REASON].tolist()) == {1 + REASONS.index("checksum")}
