"""Looking once at the videos of a manifest: kept, gone on with, and used by every worker alike."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from jobs.curate import curate
from jobs.curating.curate_sections import CurateConfig
from jobs.index import IndexConfig, index
from jobs.retraining.corpus import list_anew
from jobs.retraining.retrain_sections import complete
from jobs.setup.command_line import parse
from jobs.setup.failures import InputError, RunError
from jobs.setup.inputs import manifest_of
from jobs.training.clip_config import ClipConfig
from pipelines import schema
from pipelines.corpus.curated_version import DECIDED, write_curated, write_selection
from pipelines.corpus.manifest import open_manifest
from pipelines.media.contract import Limits
from pipelines.motion.curve_files import Curves, carry, video_ids
from pipelines.stream import ingest, quarantine, shapes
from pipelines.stream.plan import Plan
from tests.pipelines.media.videos import sound, video

pytestmark = pytest.mark.usefixtures("ray_session")


def scene(start: int, num_frames: int, moving: bool = True) -> list[np.ndarray]:
    """A square that goes right, or stands, on grey of its own; its number tells the frame."""
    frames = []
    for number in range(start, start + num_frames):
        pixels = np.full((48, 64, 3), 60 + 2 * start, np.uint8)
        left = 4 + 2 * (number - start) % 40 if moving else 4
        pixels[4:20, left : left + 16] = 250
        frames.append(pixels)
    return frames


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten videos whose frames tell their number, and a file of sound that calls itself one."""
    root = tmp_path / "videos"
    root.mkdir()
    for number in range(10):
        data = video(20 + number, gop=8, kind="matroska" if number % 2 else "mp4")
        (root / f"{number}.{'mkv' if number % 2 else 'mp4'}").write_bytes(data)
    (root / "sound.mp4").write_bytes(sound())
    return root


def run(source: Path, out: Path, *words: str) -> dict[str, Any]:
    given = [f"source.uri={source}", f"out={out}", "clip.curves=true", *words]
    return index(parse(lambda values: (IndexConfig, values), given))


def files_of(out: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (out / "motion").glob("*.parquet")}


def test_each_video_is_looked_at_once_and_bad_ones_are_counted(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "m"
    done = run(folder, out, "clip.per_video=3")
    assert (done["rows"], done["videos"], done["bad_videos"]) == (33, 11, {"no_video": 1})
    assert "left out 1 of 11 samples: 1 x no_video" in capsys.readouterr().err
    bad = quarantine.read(f"{out}/motion/bad")
    assert [(Path(row["uri"]).name, row["stage"], row["reason"]) for row in bad] == [
        ("sound.mp4", "decode", "no_video")
    ]
    manifest = open_manifest(str(out))
    rows = manifest.read_row_group(0, 0)
    for uri, found in zip(
        rows[schema.URI].to_pylist(), Curves(manifest.uri, 1).of(rows), strict=True
    ):
        if uri.endswith("sound.mp4"):
            assert found is None
        else:
            assert found is not None and len(found.times) == 20 + int(Path(uri).stem)
    before = files_of(out)
    again = run(folder, out)
    assert (again["videos"], again["bad_videos"]) == (11, {"no_video": 1})
    assert files_of(out) == before
    with pytest.raises(RunError, match=r"1 of 11 samples .* more than source.max_bad_fraction"):
        run(folder, tmp_path / "n", "source.max_bad_fraction=0.05")


def test_what_was_interrupted_is_gone_on_with_and_a_new_version_looks_at_what_is_new(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.motion.motion_survey.TASK_VIDEOS", 4)
    out = tmp_path / "m"
    run(folder, out)
    whole = Curves(str(out), 1).index()
    before = files_of(out)
    assert len(before) == 3 + 1
    lost = sorted(name for name in before if not name.startswith("index"))[0]
    (out / "motion" / lost).unlink()
    (out / "motion" / "index-000001.parquet").unlink()
    with pytest.raises(InputError, match="have them looked at, once"):
        ClipConfig(cross_cuts=False).check(open_manifest(str(out)))
    run(folder, out)
    after = files_of(out)
    assert {name for name in after if after[name] != before[name]} == {
        lost,
        "index-000001.parquet",
    }
    assert Curves(str(out), 1).index().equals(whole)

    (folder / "new.mp4").write_bytes(video(30))
    (folder / "0.mp4").unlink()
    done = run(folder, out)
    assert (done["version"], done["videos"]) == (2, 12)  # one of them is gone, and not forgotten
    newer = files_of(out)
    assert all(newer[name] == after[name] for name in after)
    assert len(newer) == len(after) + 2
    manifest = open_manifest(str(out))
    rows = pa.concat_tables(
        [manifest.read_row_group(part, group) for part, group, _ in manifest.row_groups()]
    )
    known = Curves(str(out), 2).index()["video"].to_pylist()
    assert set(video_ids(rows).tolist()) < set(known) and known == sorted(known)


def test_what_is_made_of_a_version_knows_its_videos(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "m"
    run(folder, out)
    manifest = open_manifest(str(out))
    asked = ClipConfig(motion="weighted")
    # some of its samples, as a retraining takes them
    some = write_selection(
        manifest,
        str(tmp_path / "some"),
        lambda rows: np.arange(rows.num_rows) % 2 == 0,
        {},
    )
    asked.check(some)
    curves = asked.sampling_of(some, 0).curves
    assert curves is not None
    rows = some.read_row_group(0, 0)
    assert 0 < rows.num_rows < manifest.num_rows
    assert len(list(curves.of(rows))) == rows.num_rows
    # a version without some of them, as curation makes it
    first = manifest.read_row_group(0, 0)[schema.SAMPLE_ID][:1]
    gone = {
        name: pa.nulls(1, kind) for name, kind in zip(DECIDED.names, DECIDED.types, strict=True)
    }
    gone |= {schema.SAMPLE_ID: first, schema.REASON: pa.array(["outlier"])}
    curated, _ = write_curated(manifest, [pa.table(gone).cast(DECIDED)], {})
    with pytest.raises(InputError, match="version 2 change: have them looked at"):
        asked.check(curated)
    carry(manifest.uri, 1, 2)
    asked.check(curated)
    asked_for = {"source": {"uri": str(out)}, "out": str(out), "undo": True}
    assert curate(CurateConfig.model_validate(asked_for))["version"] == 3
    asked.check(open_manifest(str(out)))
    assert Curves(manifest.uri, 3).index().equals(Curves(manifest.uri, 1).index())


def test_a_retraining_has_new_videos_looked_at(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "cpc_temporal_small",
        "num_steps=1",
        f"source.uri={folder}",
        f"registry={tmp_path}",
        "name=e",
    ]
    config = parse(complete, [*words, "slot=1", "clip.cross_cuts=false"])
    told = list_anew(config, str(folder), str(tmp_path / "out"), None)
    assert told["rows"] == 11
    assert "left out 1 of 11 samples: 1 x no_video" in capsys.readouterr().err
    before = files_of(tmp_path / "out" / "manifest")
    (folder / "new.mp4").write_bytes(video(30))
    assert list_anew(config, str(folder), str(tmp_path / "out"), None)["version"] == 2
    after = files_of(tmp_path / "out" / "manifest")
    assert len(after) == len(before) + 2 and all(after[name] == before[name] for name in before)
    # a manifest that somebody else keeps is not written to
    listed = manifest_of(str(folder), str(tmp_path / "theirs"))
    with pytest.raises(InputError, match=r"clip\.cross_cuts needs to know .* have them looked at"):
        list_anew(config, listed.uri, str(tmp_path / "out"), None)


def test_missing_curves_are_one_line_with_the_remedy(folder: Path, tmp_path: Path) -> None:
    manifest = manifest_of(str(folder), str(tmp_path / "m"))
    assert ClipConfig().check(manifest) is None
    with pytest.raises(InputError) as problem:
        ClipConfig(motion="weighted").check(manifest)
    assert str(problem.value) == (
        f"clip.motion needs to know how the videos of {manifest.uri} version 1 change: have them"
        f" looked at, once, with python -m jobs.index source.uri={folder} clip.curves=true"
        f" out={manifest.uri}"
    )
    run(folder, tmp_path / "m")
    assert ClipConfig(motion="weighted").check(manifest) is None
    with pytest.raises(InputError, match=r"clip\.crop_bars is for unlabelled videos"):
        ClipConfig(crop_bars=True).check(None)
    rows = manifest.read_row_group(0, 0)
    other = rows.set_column(
        rows.schema.get_field_index("etag"), "etag", pa.array(["another"] * rows.num_rows)
    )
    with pytest.raises(ValueError, match=r"is not among the videos of .*index-000001"):
        list(Curves(manifest.uri, 1).of(other))


def test_motion_by_flow_is_kept_in_files_of_its_own(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "m"
    run(folder, out)
    manifest = open_manifest(str(out))
    by_flow = ClipConfig(motion="weighted", motion_by="dis")
    with pytest.raises(InputError, match=r"clip\.curves=true clip\.flow=dis out="):
        by_flow.check(manifest)
    before = files_of(out)
    assert run(folder, out, "clip.flow=dis")["videos"] == 11
    after = files_of(out)
    assert {name: after[name] for name in before} == before
    assert all(name.endswith("-dis.parquet") for name in after.keys() - before.keys())
    by_flow.check(manifest)
    curves = by_flow.sampling_of(manifest, 0).curves
    assert curves is not None
    found = [one for one in curves.of(manifest.read_row_group(0, 0)) if one is not None]
    assert len(found) == 10
    assert all(one.flow is not None and len(one.flow) == len(one.times) for one in found)
    plain = ClipConfig(motion="weighted").sampling_of(manifest, 0).curves
    assert plain == Curves(manifest.uri, 1)
    (out / "motion" / "index-000001.parquet").unlink()
    ClipConfig(crop_bars=True).check(manifest)  # what was found with flow says as much


def test_one_and_two_workers_and_a_resumed_run_see_the_same_windows(tmp_path: Path) -> None:
    root = tmp_path / "videos"
    root.mkdir()
    for number in range(6):
        frames = [*scene(0, 12, moving=False), *scene(30, 12), *scene(60, 6 + number)]
        (root / f"{number}.mp4").write_bytes(video(len(frames), pictures=frames))
    run(root, tmp_path / "m", "clip.per_video=2")
    manifest = manifest_of(str(tmp_path / "m"), "")
    config = ClipConfig(num_frames=4, frame_stride=2, motion="weighted", cross_cuts=False)
    work = ingest.Ingest(
        Plan.fresh(manifest, 0),
        shapes.Clips(shapes.Centre(48), 4),
        8,
        Limits(),
        quarantine=None,
        run="test",
        sampling=config.sampling_of(manifest, 0),
    )
    one = _stream(work, [(0, 24), (24, 48)])
    two = _stream(replace(work, block_rows=4), [(0, 24), (24, 48)])
    resumed = _stream(work, [(16, 48)])
    for name in one:
        assert np.array_equal(one[name], two[name])
        assert np.array_equal(one[name][16:], resumed[name])
    clips = one[schema.IMAGE]
    assert one[schema.VALID].all() and clips.shape == (48, 4, 3, 48, 48)
    grounds = clips[:, :, :, 40, 24].astype(int)
    assert (np.ptp(grounds, axis=1) < 8).all()  # of one scene
    changes = np.abs(np.diff(clips.astype(int), axis=1)).mean(axis=(1, 2, 3, 4))
    plain = replace(
        work, sampling=ClipConfig(num_frames=4, frame_stride=2).sampling_of(manifest, 0)
    )
    anywhere = _stream(plain, [(0, 24), (24, 48)])[schema.IMAGE]
    assert (np.ptp(anywhere[:, :, :, 40, 24].astype(int), axis=1) > 30).any()
    assert changes.min() > 1  # never the scene that stands still
    epochs = (
        clips[:12][np.argsort(one[schema.SAMPLE_ID][:12])],
        clips[12:24][np.argsort(one[schema.SAMPLE_ID][12:24])],
    )
    assert not np.array_equal(*epochs)


def _stream(work: ingest.Ingest, ranges: list[tuple[int, int]]) -> dict[str, np.ndarray]:
    blocks = list(ingest.dataset(work, ranges).iter_batches(batch_size=None))
    names = (schema.SAMPLE_ID, schema.EPOCH, schema.POSITION, schema.VALID, schema.IMAGE)
    return {name: np.concatenate([block[name] for block in blocks]) for name in names}
