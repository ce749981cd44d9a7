"""Rendered scenes as files: what a URI names, what is refused, and a listing through Ray."""

import io

import pyarrow as pa
import pytest
import torch
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor

from augment.scenes.renderer import render
from pipelines.corpus.listing import list_source
from pipelines.storage import uris

URI = "synthetic://scenes?seed=3&num=1200&size=16"
WHOLE = "synthetic://scenes/seed=3,num=1200,size=16"


def test_settings_of_a_uri_are_in_its_path_and_what_is_left_out_has_a_default() -> None:
    assert uris.absolute(URI) == WHOLE == uris.absolute(WHOLE)
    assert uris.absolute("synthetic://scenes") == "synthetic://scenes/seed=0,num=1000,size=64"
    for uri, problem in (
        ("synthetic://scenes?seeds=1", "unknown key seeds: choose from seed, num, size"),
        ("synthetic://scenes?num=0", "num must be a whole number from 1 to"),
        ("synthetic://scenes?size=x", "size must be a whole number from 8 to 1024"),
        ("synthetic://cats", "synthetic://cats is not known: write synthetic://scenes"),
    ):
        with pytest.raises(ValueError, match=problem):
            uris.absolute(uri)


def test_a_file_is_the_picture_of_its_scene_and_as_long_as_it_is_said_to_be() -> None:
    file = f"{WHOLE}/000001/000001007.ppm"
    data = uris.read_bytes(file)
    assert len(data) == uris.size(file) and uris.read_range(file, 5, 9) == data[5:9]
    found = pil_to_tensor(Image.open(io.BytesIO(data)))
    made = render(seed=3, scene=torch.tensor([1007]), size=16).images[0]
    assert torch.equal(found, (made * 255).round().byte())
    for missing in ("000001/000000007.ppm", "000002", "000001/000001200.ppm", "000000/x.ppm"):
        assert not uris.exists(f"{WHOLE}/{missing}")


def test_they_are_listed_as_samples_like_any_other_files(ray_session: None) -> None:
    table = pa.concat_tables(list_source(URI))
    assert table.num_rows == 1200 and len(set(table["uri"].to_pylist())) == 1200
    assert set(table["media"].to_pylist()) == {"image"}
