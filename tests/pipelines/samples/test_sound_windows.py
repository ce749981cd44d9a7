"""Sounds in the project's own stream: the same tasks, blocks and accounts as of pictures."""

import io
import wave
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from augment.sound.sound_recipe import SoundGroup, SoundViews
from pipelines import schema
from pipelines.corpus.entry import Selection
from pipelines.corpus.file_kinds import kind_of, kind_of_bytes
from pipelines.corpus.listed_rows import LEFT_OUT, LISTED, rows_of
from pipelines.corpus.local_files import local_entries, local_places
from pipelines.media.contract import REASONS, Limits
from pipelines.samples.of_views import series_of
from pipelines.stream.first_samples import FirstSamples
from pipelines.stream.ingest import Ingest, run_items
from pipelines.stream.orders import keyed

AUDIO = Selection(medium="audio")


def wav(samples: np.ndarray, rate: int = 8_000) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setparams((1, 2, rate, 0, "NONE", ""))
        sound.writeframes(samples.astype("<i2").tobytes())
    return file.getvalue()


def noise(seed: int, length: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(-9_000, 9_000, length).astype(np.int16)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    good = [wav(noise(seed, 3_000 + 500 * seed)) for seed in range(4)]
    for index, data in enumerate(good):
        (tmp_path / f"{index}.wav").write_bytes(data)
    (tmp_path / "cut.wav").write_bytes(good[0][:1_000])
    (tmp_path / "silent.wav").write_bytes(wav(np.zeros(4_000)))
    (tmp_path / "none.mp3").write_bytes(b"no sound at all" * 50)
    (tmp_path / "empty.flac").write_bytes(b"")
    (tmp_path / "picture.jpg").write_bytes(b"\xff\xd8\xff")
    return tmp_path


def listed(folder: Path, selection: Selection) -> pa.Table:
    entries = [entry for place in local_places(str(folder)) for entry in local_entries(place)]
    return pa.Table.from_pylist(list(rows_of(entries, selection)), schema=LISTED)


def outcomes(folder: Path, selection: Selection) -> dict[str, str | None]:
    rows = listed(folder, selection).to_pylist()
    return {Path(row["uri"]).name: row[LEFT_OUT.name] for row in rows}


def test_a_corpus_of_sound_holds_sounds_alone_and_one_of_pictures_none(folder: Path) -> None:
    found = outcomes(folder, AUDIO)
    assert found["0.wav"] is None and found["none.mp3"] is None
    assert found["empty.flac"] == "zero bytes" and found["picture.jpg"] == "no sound (.jpg)"
    pictures = outcomes(folder, Selection())
    assert pictures["0.wav"] == "no image (.wav)" and pictures["picture.jpg"] is None


def test_sounds_of_any_name_are_told_by_their_first_bytes(folder: Path) -> None:
    (folder / "nameless").write_bytes(wav(noise(1, 2_000)))
    (folder / "words").write_bytes(b"words" * 100)
    found = outcomes(folder, Selection(medium="audio", any_name=True))
    assert found["nameless"] is None and found["words"] == "no sound (by name or content)"
    assert outcomes(folder, Selection(any_name=True))["nameless"] == "no image (by name or content)"


@pytest.mark.parametrize(
    ("head", "suffix"),
    [
        (b"RIFF\0\0\0\0WAVEfmt ", "wav"),
        (b"fLaC\0\0\0\x22", "flac"),
        (b"OggS\0\2" + bytes(22) + b"\x01\x1e\x01vorbis", "ogg"),
        (b"ID3\4\0\0", "mp3"),
        (b"\xff\xfb\x90\x64\0\0", "mp3"),
        (b"\0\0\0\x20ftypM4A \0\0\0\0", "m4a"),
        (b"FORM\0\0\0\0AIFFCOMM", "aiff"),
    ],
)
def test_first_bytes_and_names_tell_the_same(head: bytes, suffix: str) -> None:
    told = kind_of_bytes(head.ljust(512, b"\0"))
    assert told == (schema.AUDIO, suffix) == kind_of(f"a.{suffix}")


def test_a_text_in_utf_16_is_no_mp3() -> None:
    assert kind_of_bytes("\ufeffwords".encode("utf-16-le").ljust(512, b"\0")).what == ""


def blocks(folder: Path, views: SoundViews, epoch: int = 0, seed: int = 1) -> dict[str, np.ndarray]:
    table = listed(folder, AUDIO)
    rows = table.filter(table[LEFT_OUT.name].is_null()).select(schema.MANIFEST.names)
    rows = rows.sort_by(schema.URI).append_column(schema.ROW, pa.array(range(rows.num_rows)))
    series = series_of(views, seed)
    assert series is not None
    work = Ingest(
        FirstSamples(keyed(rows, epoch=epoch, start=0)),
        series[1],
        7,
        Limits(),
        quarantine=str(folder / "quarantine"),
        run="test",
        series=series[0],
    )
    found = list(run_items(pa.table({"start": [0], "stop": [rows.num_rows]}), ingest=work))
    return {name: np.concatenate([block[name] for block in found]) for name in found[0]}


def test_windows_stream_as_fixed_rows_and_bad_sounds_are_counted(folder: Path) -> None:
    views = SoundViews(size=2_000, rate=8_000, groups={"windows": SoundGroup(count=2)})
    columns = blocks(folder, views)
    assert columns["windows"].shape == (7, 2, 2_000) and columns["windows"].dtype == np.int16
    names = ["0", "1", "2", "3", "cut", "none", "silent"]
    told = {
        name: REASONS[reason - 1] if reason else ""
        for name, reason in zip(names, columns[schema.REASON], strict=True)
    }
    assert told == {
        **dict.fromkeys("0123", ""),
        "cut": "truncated",
        "none": "unknown_type",
        "silent": "silent",
    }
    assert np.array_equal(columns["windows"][4], columns["windows"][3])  # a neighbour's
    source = noise(3, 4_500)
    for window in columns["windows"][3]:
        starts = np.flatnonzero(source == window[0])
        assert any(np.array_equal(source[start : start + 2_000], window) for start in starts)


def test_where_windows_lie_is_drawn_by_epoch_and_sample(folder: Path) -> None:
    views = SoundViews(size=2_000, rate=8_000)
    again, once = blocks(folder, views), blocks(folder, views)
    later = blocks(folder, views, epoch=1)
    assert np.array_equal(once["windows"], again["windows"])
    assert not np.array_equal(once["windows"][0], later["windows"][0])
