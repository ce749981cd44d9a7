"""Captions that do not fit their picture go: by a cosine, or but for a share that fits best."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from models import artifact
from pipelines import schema
from pipelines.captions.caption_table import CaptionTable
from pipelines.curation.assigned import CLUSTERS
from pipelines.curation.caption_fit import CaptionFit
from pipelines.curation.centres import Centres
from pipelines.curation.decisions import BALANCE, MISFIT, Decisions, Rules
from pipelines.curation.duplicates import nothing_gone
from pipelines.media.contract import Limits
from tests.captioned import TEXTS, save_captioned


def test_a_sample_is_compared_with_all_of_its_captions_and_one_without_is_not(
    tmp_path: Path,
) -> None:
    uri = str(tmp_path / "pairs")
    save_captioned(uri)
    table = tmp_path / "captions.csv"
    lines = ["file,caption", f"a.jpg,{TEXTS[0]}", f"a.jpg,{TEXTS[1]}", f"c.jpg,{TEXTS[2]}"]
    table.write_text("\n".join(lines))
    fit = CaptionFit(CaptionTable(str(table), None, str(tmp_path)), uri, Limits())
    rows = pa.table(
        {
            schema.URI: [str(tmp_path / name) for name in ("a.jpg", "b.jpg", "c.jpg")],
            schema.MEMBER: pa.nulls(3, pa.string()),
        }
    )
    vectors = np.random.default_rng(0).normal(size=(3, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    found = fit.cosines(rows, vectors)
    texts = artifact.load(uri).embed_texts(TEXTS[:3]).numpy()
    expected = [(vectors[0] @ texts[:2].T).mean(), np.nan, vectors[2] @ texts[2]]
    np.testing.assert_allclose(found, expected, rtol=1e-4)


class Laid:
    """Samples of two clusters, every second one with captions."""

    def __init__(self, fits: np.ndarray) -> None:
        self.centres = Centres(np.eye(2, 4, dtype=np.float32), ())
        count = len(fits)
        columns = [np.arange(count), np.arange(count) % 2, np.full(count, 0.9), fits]
        self.table = pa.table(
            [pa.array(one, from_pandas=True) for one in columns], names=CLUSTERS.names
        ).cast(CLUSTERS)

    def tables(self) -> list[pa.Table]:
        return [self.table.slice(0, 3), self.table.slice(3)]


def reasons(fits: np.ndarray, folder: Path, **rules: float) -> dict[int, tuple[str | None, float]]:
    settings = {"max_distance": None, "num_samples": None, "seed": 0} | rules
    decisions = Decisions(Laid(fits), nothing_gone(), Rules(**settings), str(folder))  # type: ignore[arg-type]
    rows = pa.concat_tables(decisions.tables()).to_pylist()
    return {row[schema.SAMPLE_ID]: (row[schema.REASON], row["cosine"]) for row in rows}


def test_what_fits_less_than_asked_goes_with_its_cosine_and_what_has_no_caption_stays(
    tmp_path: Path,
) -> None:
    fits = np.array([0.5, np.nan, 0.1, 0.4, -0.2, np.nan, 0.3, 0.29])
    found = reasons(fits, tmp_path, min_fit=0.3)
    gone = {sample: cosine for sample, (reason, cosine) in found.items() if reason == MISFIT}
    assert gone == pytest.approx({2: 0.1, 4: -0.2, 7: 0.29})
    assert found[1] == (None, pytest.approx(0.9))


def test_a_share_that_fits_best_stays(tmp_path: Path) -> None:
    fits = np.random.default_rng(0).uniform(-0.5, 0.9, 1000)
    fits[::10] = np.nan
    found = reasons(fits, tmp_path, fitting_share=0.7)
    gone = [sample for sample, (reason, _) in found.items() if reason == MISFIT]
    assert len(gone) == pytest.approx(0.3 * 900, abs=4)
    assert max(fits[gone]) < np.nanquantile(fits, 0.3) + 0.001


def test_samples_are_shared_out_among_those_whose_captions_fit(tmp_path: Path) -> None:
    fits = np.array([0.5, 0.5, 0.5, 0.5, -0.5, -0.5, -0.5, -0.5])
    found = reasons(fits, tmp_path, min_fit=0.0, num_samples=2)
    told = [reason for reason, _ in found.values()]
    assert told.count(MISFIT) == 4 and told.count(BALANCE) == 2 and told.count(None) == 2
