"""jobs.reporting.pictures: the rules by which images are chosen and placed."""

import io

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from jobs.reporting import pictures


def embedded(sizes: tuple[int, ...], spread: float = 0.2) -> tuple[Tensor, Tensor]:
    """Return embeddings of length 1 around so many directions, and each one's group."""
    generator = torch.Generator().manual_seed(0)
    group = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    noise = spread * torch.randn(len(group), 12, generator=generator)
    return functional.normalize(torch.eye(12)[group] + noise, dim=1), group


def photographs(count: int) -> Tensor:
    return torch.randint(0, 256, (count, 3, 16, 16), dtype=torch.uint8)


def test_rows_are_the_most_typical_image_of_each_group_largest_group_first() -> None:
    unit, group = embedded((9, 30, 20), spread=0.05)
    queries = pictures._typical(unit, 3)
    assert group[queries].tolist() == [1, 2, 0]
    for query in queries.tolist():
        members = (group == group[query]).nonzero()[:, 0]
        distance = (unit[members] - unit[members].mean(0)).square().sum(1)
        assert members[distance.argmin()] == query


@pytest.mark.parametrize("count", [2, 3, 7, 50])
def test_few_images_and_collapsed_embeddings_have_both_pictures(count: int) -> None:
    alike = functional.normalize(torch.ones(count, 4), dim=1)
    for unit in (alike, embedded((count,))[0]):
        for draw in (pictures.atlas, pictures.neighbours):
            picture = draw(unit, photographs(count))
            assert picture.name.endswith(".jpg") and "nan" not in picture.finding
            assert Image.open(io.BytesIO(picture.data)).format == "JPEG"


def test_findings_say_what_was_compared() -> None:
    unit, _ = embedded((300, 300))
    originals = photographs(600)
    assert pictures.atlas(unit, originals).finding.startswith("336 images placed by")
    finding = pictures.neighbours(unit, originals).finding
    assert finding.startswith("Nearest among 600 images to the most typical of 8 k-means groups")
    among_all = (unit @ unit.T)[~torch.eye(600, dtype=torch.bool)].mean()
    assert finding.endswith(f"any two {among_all:.2f}")
