"""The supervised decoder: what its child survives, what it costs, and what is reported."""

import io
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from pipelines import schema
from pipelines.media.contract import BadSample, Clip, Limits
from pipelines.media.decoder import Decoder
from pipelines.media.image import decode
from pipelines.stream import ingest, quarantine
from pipelines.stream.ingest import Ingest
from pipelines.stream.payload import FileInParts
from pipelines.stream.shapes import Centre
from tests.pipelines.media.videos import number_of, video
from tests.pipelines.stream.test_ingest import listed

MODULE = "tests.pipelines.media.hostile_decoder"
MIDDLE = Clip(4, 1, None, 0.5)


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    made = Decoder(Limits(timeout_s=1.0), MODULE)
    yield made
    made.close()


def png() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.arange(24 * 40 * 3, dtype=np.uint8).reshape(24, 40, 3)).save(buffer, "PNG")
    return buffer.getvalue()


def refusal(decoder: Decoder, data: bytes) -> BadSample:
    with pytest.raises(BadSample) as caught:
        decoder.image(data)
    return caught.value


def test_pixels_are_those_of_decoding_here(decoder: Decoder) -> None:
    pixels = decoder.image(png()).pixels
    assert np.array_equal(pixels, decode(png(), max_pixels=10**6)) and pixels.flags.writeable


def test_jpeg_needs_no_child() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "JPEG")
    alone = Decoder(Limits(), "tests.no_such_module")
    assert alone.image(buffer.getvalue()).pixels.shape == (8, 8, 3)


def test_a_decoder_that_sleeps_or_crashes_costs_its_sample_and_no_other(decoder: Decoder) -> None:
    assert refusal(decoder, b"sleep").reason == "timeout"
    problem = refusal(decoder, b"crash")
    assert problem.reason == "crashed" and "SIGSEGV" in problem.message
    assert decoder.image(png()).pixels.shape == (24, 40, 3)


def test_a_crash_that_does_not_come_again_costs_nothing() -> None:
    once = Decoder(Limits(), MODULE)
    assert once.image(png()).pixels.shape == (24, 40, 3)
    assert once.image(b"die as the second").pixels.shape == (2, 3, 3)
    once.close()


def test_memory_beyond_what_the_pixel_limit_explains_is_refused() -> None:
    small = Decoder(Limits(max_pixels=10**6), MODULE)
    problem = refusal(small, b"grow")
    assert problem.reason == "too_large" and "more than 1,046 MiB" in problem.message
    assert small.image(png()).pixels.shape == (24, 40, 3)
    small.close()


def test_a_child_that_cannot_start_is_no_bad_sample() -> None:
    with pytest.raises(RuntimeError, match=r"tests\.no_such_module ends at once"):
        Decoder(Limits(), "tests.no_such_module").image(png())


def test_cut_files_are_refused_unless_they_are_admitted() -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 80, 3), dtype=np.uint8))
    admitting = Decoder(Limits(allow_truncated=True))
    for kind in ("JPEG", "PNG"):
        buffer = io.BytesIO()
        noise.save(buffer, kind)
        cut = buffer.getvalue()[: len(buffer.getvalue()) // 2]
        with pytest.raises(BadSample, match="truncated"):
            decode(cut, max_pixels=10**6)
        assert admitting.image(cut).pixels.shape == (64, 80, 3)
    admitting.close()


def test_a_video_read_by_parts_is_the_video_read_whole(decoder: Decoder, tmp_path: Path) -> None:
    data = video(110)
    (tmp_path / "a.mp4").write_bytes(b"before" + data + b"after")
    row = listed([tmp_path / "a.mp4"]).table
    row = row.set_column(2, "offset", pa.array([6])).set_column(3, "length", pa.array([len(data)]))
    whole, by_parts = (decoder.clip(source, MIDDLE).pixels for source in (data, FileInParts(row)))
    assert np.array_equal(whole, by_parts) and number_of(whole[0]) == 53


def test_a_file_that_goes_while_it_is_read_leaves_the_decoder_usable(
    decoder: Decoder, tmp_path: Path
) -> None:
    (tmp_path / "a.mp4").write_bytes(video(20))
    row = listed([tmp_path / "a.mp4"]).table
    (tmp_path / "a.mp4").unlink()
    with pytest.raises(BadSample, match="missing"):
        decoder.clip(FileInParts(row), MIDDLE)
    assert decoder.clip(video(20), MIDDLE).pixels.shape == (4, 48, 64, 3)


@pytest.mark.usefixtures("ray_session")
def test_a_stream_goes_on_past_samples_that_hang_and_crash(tmp_path: Path) -> None:
    files = []
    for number, data in enumerate([png(), b"sleep", png(), b"crash", png(), b"grow", png(), png()]):
        files.append(tmp_path / f"{number}.png")
        files[-1].write_bytes(data)
    folder = str(tmp_path / "quarantine")
    limits = Limits(timeout_s=1.0, max_pixels=10**6)
    work = Ingest(
        listed(files), Centre(16), 4, limits, quarantine=folder, run="test", decoder=MODULE
    )
    batches = list(ingest.dataset(work, [(0, 4), (4, 8)]).iter_batches(batch_size=None))
    valid = np.concatenate([batch[schema.VALID] for batch in batches])
    assert valid.tolist() == [True, False, True, False, True, False, True, True]
    reasons = {os.path.basename(row["uri"]): row["reason"] for row in quarantine.read(folder)}
    assert reasons == {"1.png": "timeout", "3.png": "crashed", "5.png": "too_large"}
