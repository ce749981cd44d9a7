"""How deep images are read is measured once, recorded, warned of, and kept by the artifact."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from jobs.setup.failures import InputError
from jobs.setup.inputs import make_manifest
from jobs.setup.sections import SourceConfig
from jobs.setup.value_range import limits_for, recorded, settled, warn_of_flat
from models import artifact
from models.artifact import Artifact
from models.encoders.factory import EncoderConfig, build_encoder
from pipelines.corpus.manifest import Manifest
from pipelines.media.contract import Limits
from tests.pipelines.media.test_deep import RAMP, png

pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.fixture(scope="module")
def twelve(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six files of twelve bits in sixteen."""
    folder = tmp_path_factory.mktemp("twelve")
    for number in range(6):
        (folder / f"{number}.png").write_bytes(png(np.roll(RAMP, number)))
    return folder


@pytest.fixture(scope="module")
def manifest(twelve: Path, tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> Manifest:
    return make_manifest(str(twelve), str(tmp_path_factory.mktemp("made") / "manifest"))


def test_percentiles_are_measured_once_and_recorded(
    twelve: Path, manifest: Manifest, tmp_path: Path
) -> None:
    source = SourceConfig(uri=str(twelve), value_range="percentiles")
    with pytest.raises(ValueError, match="was not measured"):
        source.limits()
    window = settled(source, manifest, str(tmp_path)).limits().value_range
    assert isinstance(window, tuple) and window == recorded(str(tmp_path))
    assert window == pytest.approx((20, 4075), abs=10)
    (tmp_path / "value_range.json").write_text("[1, 2]")
    assert settled(source, manifest, str(tmp_path)).value_range == (1, 2)


def test_a_corpus_without_deep_images_has_no_percentiles(
    image_folder: Path, tmp_path: Path
) -> None:
    plain = make_manifest(str(image_folder), str(tmp_path / "manifest"))
    with pytest.raises(InputError, match="no image of more than 8 bits"):
        settled(SourceConfig(uri=str(image_folder), value_range="percentiles"), plain)


def test_images_that_come_out_nearly_constant_are_counted_in_one_line(
    manifest: Manifest, capsys: pytest.CaptureFixture[str]
) -> None:
    warn_of_flat(manifest, Limits())
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: 6 of 6 deep images") and "0..4095" in line
    warn_of_flat(manifest, Limits(value_range=(0.0, 4095.0)))
    assert capsys.readouterr().err == ""


def test_an_artifact_keeps_how_its_images_were_read(tmp_path: Path) -> None:
    made = _artifact(tmp_path / "a", value_range=[0.0, 4095.0], bands=[3, 2, 1])
    assert limits_for(made, Limits()) == Limits(value_range=(0.0, 4095.0), bands=(3, 2, 1))
    given = Limits(value_range="type", bands=(1,))
    assert limits_for(made, given) == given
    plain = _artifact(tmp_path / "b")
    assert limits_for(plain, Limits()) == replace(Limits())


def _artifact(folder: Path, **reading: object) -> Artifact:
    config = EncoderConfig(name="resnet18_small", width=8)
    artifact.save(
        str(folder),
        build_encoder(config, 16),
        config={"encoder": config.model_dump(mode="json"), "seed": 0},
        preprocess={"image_size": 16, "mean": [0.5] * 3, "std": [0.2] * 3, **reading},
        provenance={},
    )
    return artifact.load(str(folder))


def test_only_what_is_not_the_default_makes_another_experiment(twelve: Path) -> None:
    assert SourceConfig(uri="a").reading() == {}
    changed = SourceConfig(uri="a", value_range=(0, 4095), bands=(3, 2, 1))
    assert changed.reading() == {"value_range": [0.0, 4095.0], "bands": [3, 2, 1]}
