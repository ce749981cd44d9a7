"""An encoder of sounds from its artifact to features, by the stream that probes and exports use."""

import wave
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from augment.sound.log_mel import statistics
from jobs.setup.value_range import limits_for
from models import artifact
from models.encoders.factory import EncoderConfig, build_encoder
from pipelines import schema
from pipelines.corpus.entry import Entry, Selection
from pipelines.corpus.listed_rows import LISTED, rows_of
from pipelines.embeddings.features import Extractor, Features
from pipelines.media.contract import Limits
from pipelines.samples.of_views import seen_by
from pipelines.stream.first_samples import FirstSamples
from pipelines.stream.ingest import Ingest, run_items
from pipelines.stream.orders import keyed


@pytest.fixture
def place(tmp_path: Path) -> str:
    config = EncoderConfig(name="wave_gru", width=4)
    torch.manual_seed(7)
    encoder = build_encoder(config, 1_600)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.mul_(1.1)
    uri = str(tmp_path / "artifact")
    artifact.save(
        uri,
        encoder,
        config={"encoder": config.model_dump(), "seed": 7},
        preprocess={"image_size": 1_600, "rate": 8_000, "std": 0.1},
        provenance={},
    )
    return uri


def test_an_artifact_of_sounds_says_how_it_wants_them(place: str) -> None:
    loaded = artifact.load(place)
    assert loaded.of_sounds is not None and loaded.num_frames is None
    assert (loaded.of_sounds.rate, loaded.image_size) == (8_000, 1_600)
    assert loaded.encoder.media == "audio"
    windows = torch.tensor([[16_384] * 1_600], dtype=torch.int16)
    assert torch.equal(loaded.preprocess(windows), torch.full((1, 1_600), 5.0))
    assert limits_for(loaded, Limits()) == Limits()


def test_features_of_the_middle_of_each_sound_come_through_the_stream(
    place: str, tmp_path: Path
) -> None:
    samples = np.random.default_rng(0).integers(-9_000, 9_000, (3, 4_000)).astype("<i2")
    rows = []
    for index, sound in enumerate(samples):
        path = tmp_path / f"{index}.wav"
        with wave.open(str(path), "wb") as file:
            file.setparams((1, 2, 8_000, 0, "NONE", ""))
            file.writeframes(sound.tobytes())
        entry = Entry(str(path), path.stat().st_size, "etag")
        rows += list(rows_of([entry], Selection(medium="audio")))
    table = pa.Table.from_pylist(rows, schema=LISTED).select(schema.MANIFEST.names)
    table = table.append_column(schema.ROW, pa.array(range(3)))
    loaded = artifact.load(place)
    read = seen_by(loaded, times=True)
    assert read is not None
    order = FirstSamples(keyed(table, epoch=0, start=0))
    work = Ingest(order, read[1], 3, Limits(), None, "test", series=read[0], content=True)
    (block,) = run_items(pa.table({"start": [0], "stop": [3]}), ingest=work)
    middle = samples[:, 1_200:2_800]
    assert np.array_equal(block[schema.IMAGE], middle)
    assert np.isnan(block[schema.START_S]).all() and len(set(block[schema.CONTENT])) == 3
    columns = {kind: Features(place, kind) for kind in ("pretrained", "untrained", "colour")}
    found = Extractor(columns)({1_600: torch.from_numpy(block[schema.IMAGE])})
    heard = torch.from_numpy(middle.astype(np.float32) / 32_768)
    with torch.no_grad():
        torch.testing.assert_close(found["pretrained"], loaded(heard / 0.1))
    assert not torch.allclose(found["pretrained"], found["untrained"])
    torch.testing.assert_close(found["colour"], statistics(heard, 8_000))
