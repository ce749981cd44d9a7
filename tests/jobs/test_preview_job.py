"""jobs.preview: the sheet shows training's own draws, for any pretraining recipe, from a folder or
a manifest."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from augment.generator import ViewGenerator
from jobs.cluster import launch
from jobs.preview import PreviewConfig, complete, contact_sheet, draw, preview
from jobs.setup.command_line import main, parse
from jobs.setup.failures import InputError
from jobs.setup.inputs import make_manifest
from jobs.training.run_config import build
from pipelines.corpus.manifest import Manifest
from pipelines.media.image import decode
from pipelines.stream.plan import Plan

SMALL = ["encoder.name=vit_tiny_small", "encoder.width=8", "views.size=32"]
MAE = [
    "method.name=mae",
    "method.decoder_dim=16",
    "method.decoder_depth=1",
    "method.decoder_heads=2",
]


def config(source: object, out: object, *words: str) -> PreviewConfig:
    return parse(complete, [f"source.uri={source}", f"out={out}", *words])


@pytest.fixture(scope="module")
def manifest(
    ray_session: None, image_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Manifest:
    return make_manifest(str(image_folder), str(tmp_path_factory.mktemp("preview") / "manifest"))


def test_views_are_those_of_training_pixel_by_pixel(manifest: Manifest, tmp_path: Path) -> None:
    wanted = config(manifest.uri, tmp_path / "a.png", "simclr_small", "seed=3")
    drawn = draw(wanted, manifest, num_images=3, epoch=2)
    start = 2 * manifest.num_rows
    rows = next(Plan.fresh(manifest, seed=3).rows(start, start + 3)).to_pylist()
    assert drawn.batch["sample_id"].tolist() == [row["sample_id"] for row in rows]
    generator, keys = (
        ViewGenerator(wanted.views, 3),
        (torch.full((3,), 2), drawn.batch["sample_id"]),
    )
    images = [decode(Path(row["uri"]).read_bytes(), max_pixels=10**6) for row in rows]
    crops = {
        name: torch.from_numpy(crop) for name, crop in generator.make_crops(images, *keys).items()
    }
    assert torch.equal(
        drawn.views["global_crops"], generator.photometric(crops, *keys)["global_crops"]
    )


def test_given_samples_are_replayed_as_in_their_epoch(manifest: Manifest, tmp_path: Path) -> None:
    wanted = config(manifest.uri, tmp_path / "a.png", "simclr_small")
    whole = draw(wanted, manifest, num_images=200, epoch=1)
    ids = whole.batch["sample_id"]
    again = draw(wanted, manifest, num_images=8, epoch=1, sample_ids=[int(ids[150]), int(ids[7])])
    assert again.batch["sample_id"].tolist() == [int(ids[7]), int(ids[150])]  # the epoch's order
    assert torch.equal(again.views["global_crops"], whole.views["global_crops"][[7, 150]])
    assert again.captions["global_crops"] == [
        whole.captions["global_crops"][row] for row in (7, 150)
    ]
    with pytest.raises(InputError, match="sample_ids 12345"):
        draw(wanted, manifest, num_images=8, epoch=0, sample_ids=[12345])


def test_another_epoch_shows_other_views(manifest: Manifest, tmp_path: Path) -> None:
    wanted = config(manifest.uri, tmp_path / "a.png", "simclr_small")
    first, second = (draw(wanted, manifest, num_images=200, epoch=epoch) for epoch in (0, 1))
    order = [batch["sample_id"].argsort() for batch in (first.batch, second.batch)]
    assert first.batch["sample_id"][order[0]].equal(second.batch["sample_id"][order[1]])
    assert not first.views["global_crops"][order[0]].equal(second.views["global_crops"][order[1]])


@pytest.mark.long
def test_sheet_of_a_folder_has_a_row_an_image_and_a_column_a_view(
    ray_session: None, image_folder: Path, tmp_path: Path
) -> None:
    sizes = {}
    for num_images in (2, 4):
        out = tmp_path / f"{num_images}.png"
        result = preview(config(image_folder, out, "simclr_small", f"num_images={num_images}"))
        assert result == {"images": num_images, "unreadable": 0, "result": str(out)}
        sheet = Image.open(out).convert("RGB")
        assert np.asarray(sheet).std() > 20  # photographs, not paper
        sizes[num_images] = sheet.size
    assert sizes[4][0] == sizes[2][0] and sizes[4][1] > 1.5 * sizes[2][1]


def test_what_a_method_shows_of_its_views_stands_beside_them(
    manifest: Manifest, tmp_path: Path
) -> None:
    wanted = config(manifest.uri, tmp_path / "mae.png", *SMALL, *MAE)
    drawn = draw(wanted, manifest, num_images=4, epoch=0)
    shown = build(wanted).eval().show(drawn.batch)
    assert set(shown) == {"visible"}  # an untrained decoder paints nothing worth a look
    wide, narrow = contact_sheet(drawn, shown), contact_sheet(drawn)
    assert wide.height == narrow.height and wide.width > narrow.width + 112


def test_second_images_are_cut_as_the_views_and_kept_for_the_method(
    manifest: Manifest, tmp_path: Path
) -> None:
    itself = "source.pair=./{name}"
    drawn = draw(
        config(manifest.uri, tmp_path / "a.png", *SMALL, *MAE, itself),
        manifest,
        num_images=4,
        epoch=0,
    )
    assert torch.equal(drawn.batch["targets"]["pair"], drawn.views["global_crops"])


def test_a_method_that_cannot_be_built_is_refused_before_ray_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "session", lambda *_, **__: pytest.fail("Ray was started"))
    wanted = config("images", tmp_path / "a.png", "encoder.width=8", "views.size=32", *MAE)
    with pytest.raises(InputError, match=r"encoder\.name=resnet18_small"):
        preview(wanted)


@pytest.mark.long
def test_unreadable_images_are_left_out_and_counted(
    ray_session: None, image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "images"
    shutil.copytree(image_folder / "scene0", folder)
    for path in sorted(folder.iterdir())[:5]:
        path.write_bytes(b"no image at all")
    result = preview(config(folder, tmp_path / "a.png", "simclr_small", "num_images=25"))
    assert (result["images"], result["unreadable"]) == (20, 5)
    assert "left out 5 of 25 samples: 5 x unknown_type" in capsys.readouterr().err


def test_a_folder_without_a_readable_image_is_an_input_error(
    ray_session: None, tmp_path: Path
) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(b"no image at all")
    with pytest.raises(InputError, match="none of the 1 images can be read"):
        preview(config(folder, tmp_path / "a.png", "simclr_small"))


@pytest.mark.parametrize(
    "words", [["num_steps=10"], ["num_epochs=3"], [], ["global_batch_size=255", "optim.lr=1"]]
)
def test_a_pretraining_recipe_works_unchanged(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    made = config("images", "a.png", "simclr_small", *words)
    assert made.views.num_views == 2 and made.num_images == 8
    unused = ", ".join(word.partition("=")[0] for word in words)
    assert capsys.readouterr().err == (f"no effect on this job: {unused}\n" if words else "")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["source.uri=/nowhere/at/all", "out=a.png"], "/nowhere/at/all does not exist"),
        (["source.uri=s3://me:secret@bucket/x", "out=a.png"], "carries credentials"),
        (["source.uri=images", "out=a.gif"], "out"),
        (["source.uri=images", "out=a.png", "num_images=0"], "num_images"),
        (["source.uri=images", "out=a.png", "num_imags=4"], "nearest known key is num_images"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(
    ray_session: None, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main("preview", "", complete, preview, ["simclr_small", *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert message in error and "secret" not in error


@pytest.mark.long
def test_json_names_the_picture(
    manifest: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a.png"
    words = ["simclr_small", f"source.uri={manifest.uri}", f"out={out}", "num_images=1"]
    assert main("preview", "", complete, preview, [*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 1
    assert main("preview", "", complete, preview, words) == 0
    assert capsys.readouterr().out == f"{out}\n"
