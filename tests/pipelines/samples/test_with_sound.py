"""Sound beside the frames of videos in the project's own stream: one pass, one row a clip."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from augment.presets import plain_views
from pipelines import schema
from pipelines.corpus.entry import Selection
from pipelines.corpus.listed_rows import LEFT_OUT, LISTED, rows_of
from pipelines.corpus.local_files import local_entries, local_places
from pipelines.media.clips import Sampling
from pipelines.media.contract import REASONS, Limits
from pipelines.media.sounds.soundtrack import Soundtrack
from pipelines.samples.with_sound import with_sound
from pipelines.stream.first_samples import FirstSamples
from pipelines.stream.ingest import Ingest, run_items
from pipelines.stream.orders import keyed
from pipelines.stream.shapes import Crops, of_media
from tests.pipelines.media.sounds.films import RATE, film, sweep

SIZE = 1_600
BESIDE = Soundtrack(RATE, SIZE, (0.2, 1.0))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("films")
    (made / "a.mkv").write_bytes(film(sweep(3.0), 3.0))
    (made / "b.mkv").write_bytes(film(sweep(3.0) // 2, 3.0))
    (made / "mute.mkv").write_bytes(film(None, 2.0))
    (made / "silent.mkv").write_bytes(film(np.zeros(2 * RATE, np.int16), 2.0))
    return made


def block(folder: Path, soundtrack: Soundtrack | None, epoch: int = 0) -> dict[str, np.ndarray]:
    entries = [entry for place in local_places(str(folder)) for entry in local_entries(place)]
    table = pa.Table.from_pylist(list(rows_of(entries, Selection())), schema=LISTED)
    rows = table.filter(table[LEFT_OUT.name].is_null()).select(schema.MANIFEST.names)
    rows = rows.sort_by(schema.URI).append_column(schema.ROW, pa.array(range(rows.num_rows)))
    crops = Crops(plain_views(16, (1.0, 1.0)), 1, photometric=False)
    work = Ingest(
        FirstSamples(keyed(rows, epoch=epoch, start=0)),
        with_sound(of_media(crops, 4), soundtrack),
        rows.num_rows,
        Limits(),
        quarantine=None,
        run="test",
        sampling=Sampling(4, as_frames=False, seed=1, soundtrack=soundtrack),
    )
    items = pa.table({"start": [0], "stop": [rows.num_rows]})
    (found,) = run_items(items, ingest=work)
    return found


def reasons(columns: dict[str, np.ndarray]) -> list[str]:
    return [REASONS[reason - 1] if reason else "" for reason in columns[schema.REASON]]


def test_sound_is_a_column_of_one_shape_and_what_has_none_is_counted(folder: Path) -> None:
    columns = block(folder, BESIDE)
    assert columns[schema.SOUND].shape == (4, 2, SIZE)
    assert columns[schema.SOUND].dtype == np.int16
    assert reasons(columns) == ["", "", "no_audio", "silent"]
    assert columns[schema.SOUND][:2].any(axis=2).all()
    assert np.array_equal(columns[schema.SOUND][3], columns[schema.SOUND][1])  # a neighbour's
    without = block(folder, None)
    assert schema.SOUND not in without and reasons(without) == [""] * 4
    # the frames are the same, with sound and without
    assert np.array_equal(columns["global_crops"][:2], without["global_crops"][:2])


def test_what_is_heard_is_drawn_by_epoch_and_sample(folder: Path) -> None:
    once, again, *later = (block(folder, BESIDE, each)[schema.SOUND] for each in (0, *range(8)))
    assert np.array_equal(once, again)
    for stretch in range(2):  # the films are short: two epochs may draw the same moment
        assert any(not np.array_equal(once[0, stretch], one[0, stretch]) for one in later)


def test_an_image_has_no_sound(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "a.mkv").write_bytes((folder / "a.mkv").read_bytes())
    (tmp_path / "b.jpg").write_bytes(_jpeg())
    assert reasons(block(tmp_path, BESIDE)) == ["", "no_audio"]


def _jpeg() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (32, 32), (90, 20, 60)).save(file, "JPEG")
    return file.getvalue()
