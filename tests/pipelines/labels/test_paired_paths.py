"""pipelines.labels.paired_paths: what belongs to an image by its path, and nobody else's."""

import pytest

from pipelines.labels.paired_paths import NONE, SEVERAL, pair_paths


@pytest.mark.parametrize(
    ("images", "things", "found"),
    [
        (["a/1", "b/1"], ["b/1", "a/1"], [1, 0]),
        (["train/a/1"], ["a/1", "1"], [0]),
        (["a/1"], ["masks/a/1"], [0]),
        (["a/1"], ["b/1"], [NONE]),  # the same name in another folder is another image's
        (["1"], ["a/1", "b/1"], [SEVERAL]),
        (["a/1", "b/1"], ["1"], [SEVERAL, SEVERAL]),  # whose is it?
        (["a/1"], ["a/1", "a/1"], [SEVERAL]),
        (["11"], ["1"], [NONE]),
        ([], ["1"], []),
    ],
)
def test_paths_belong_together_where_one_is_how_the_other_ends(
    images: list[str], things: list[str], found: list[int]
) -> None:
    assert pair_paths(images, range(len(images)), things).tolist() == found


def test_a_file_that_is_in_two_sets_keeps_what_belongs_to_it() -> None:
    assert pair_paths(["a/1", "1"], [7, 7], ["a/1"]).tolist() == [0, 0]
