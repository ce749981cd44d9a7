import pytest

from jobs.cluster.available import Resources, fits

NODES: list[Resources] = [
    {"CPU": 0.0, "GPU": 0.0},
    {"CPU": 2.0, "GPU": 0.0},
    {"CPU": 4.0, "GPU": 2.0},
]


@pytest.mark.parametrize(
    ("bundles", "fit"),
    [
        ([{"CPU": 1.0}] * 6, True),
        ([{"CPU": 1.0}] * 7, False),
        ([{"CPU": 3.0}] * 2, False),  # six CPUs, and no second node of three
        ([{"CPU": 1.0, "GPU": 1.0}] * 2 + [{"CPU": 1.0}] * 4, True),
        ([{"CPU": 1.0, "GPU": 1.0}] * 3, False),
        ([{"CPU": 1.0}] * 2 + [{"CPU": 2.0, "GPU": 1.0}] * 2, True),  # whatever their order
    ],
)
def test_bundles_fit_where_each_finds_one_node(bundles: list[Resources], fit: bool) -> None:
    assert fits(bundles, NODES) == fit
