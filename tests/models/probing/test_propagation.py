"""Labels carried by features: against a naive loop, and where the answer is known."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from models.probing.propagation import Carrying, Propagation, found_points, spread_points


def naive(how: Carrying, maps: list[Tensor], labels: Tensor) -> list[Tensor]:
    """Carry labels place by place and pair by pair."""
    _, height, width = maps[0].shape
    unit = [functional.normalize(one.double(), dim=0) for one in maps]
    told = [labels.double()]
    for time in range(1, len(maps)):
        context = [0, *range(max(1, time - how.context), time)]
        carried = torch.zeros_like(told[0])
        for y in range(height):
            for x in range(width):
                found = []
                for frame in context:
                    for v in range(height):
                        for u in range(width):
                            if math.hypot(v - y, u - x) <= how.radius:
                                alike = float(unit[time][:, y, x] @ unit[frame][:, v, u])
                                found.append((alike, told[frame][:, v, u]))
                best = sorted(found, key=lambda one: -one[0])[: how.neighbours]
                weights = torch.tensor([math.exp(one[0] / how.temperature) for one in best])
                weights = weights.double() / weights.sum()
                for weight, (_, label) in zip(weights, best, strict=True):
                    carried[:, y, x] += weight * label
        told.append(carried)
    return told


@pytest.mark.parametrize(
    "how",
    [
        Carrying(neighbours=3, context=2, radius=2.3, temperature=0.2),
        Carrying(neighbours=50, context=3, radius=1, temperature=0.5),
        Carrying(neighbours=1, context=0, radius=20, temperature=1),
        Carrying(neighbours=2, context=4, radius=0, temperature=0.07),
    ],
)
def test_labels_are_those_of_the_naive_loop(how: Carrying) -> None:
    draw = torch.Generator().manual_seed(0)
    maps = [torch.randn(6, 4, 5, generator=draw) for _ in range(6)]
    labels = torch.rand(3, 4, 5, generator=draw)
    carried = Propagation(how, maps[0], labels)
    told = naive(how, maps, labels)
    for frame, expected in zip(maps[1:], told[1:], strict=True):
        torch.testing.assert_close(carried(frame).double(), expected, rtol=1e-4, atol=1e-5)


def moving(steps: list[int], size: int = 16) -> list[Tensor]:
    """Make maps of places that all look different, shifted by so many places."""
    scene = torch.randn(8, size, size, generator=torch.Generator().manual_seed(1))
    return [torch.roll(scene, step, dims=2) for step in steps]


def test_a_shifted_object_is_followed_exactly() -> None:
    maps = moving([0, 2, 4, 6, 8])
    labels = torch.zeros(2, 16, 16)
    labels[1, 5:9, 2:6] = 1
    labels[0] = 1 - labels[1]
    carried = Propagation(Carrying(neighbours=1), maps[0], labels)
    for step, frame in zip((2, 4, 6, 8), maps[1:], strict=True):
        told = carried(frame)
        # what came in at the left was never seen before
        assert torch.equal(told[:, :, step:], torch.roll(labels, step, dims=2)[:, :, step:])


def test_an_object_that_jumps_out_of_reach_is_lost() -> None:
    maps = moving([0, 6])
    labels = torch.zeros(1, 16, 16)
    labels[0, 5:9, 2:6] = 1
    told = Propagation(Carrying(neighbours=1, radius=5), maps[0], labels)(maps[1])
    assert told[0, 5:9, 8:12].sum() <= 2  # of 16: by chance alone
    told = Propagation(Carrying(neighbours=1, radius=6), maps[0], labels)(maps[1])
    assert torch.equal(told[0, 5:9, 8:12], torch.ones(4, 4))


def test_of_places_that_look_alike_the_nearest_counts() -> None:
    flat = torch.ones(4, 7, 7)
    labels = torch.rand(2, 7, 7, generator=torch.Generator().manual_seed(2))
    carried = Propagation(Carrying(neighbours=1, context=3), flat, labels)
    for _ in range(5):
        assert torch.equal(carried(flat), labels)


def test_an_object_comes_back_from_the_first_frame_and_not_from_forgotten_ones() -> None:
    scene = moving([0])[0]
    gone = torch.randn(8, 16, 16, generator=torch.Generator().manual_seed(3))
    labels = torch.zeros(1, 16, 16)
    labels[0, 5:9, 2:6] = 1
    carried = Propagation(Carrying(neighbours=1, context=2), scene, labels)
    for _ in range(6):
        carried(gone)
    assert torch.equal(carried(scene), labels)


def test_memory_is_that_of_the_context_however_long_the_video() -> None:
    carried = Propagation(Carrying(context=3), torch.ones(4, 5, 5), torch.ones(1, 5, 5))
    held = {name: value for name, value in vars(carried).items() if isinstance(value, Tensor)}
    before = {name: (value.data_ptr(), value.numel()) for name, value in held.items()}
    for _ in range(12):
        carried(torch.rand(4, 5, 5))
    assert before["_features"][1] == 4 * 4 * 25
    now = {name: vars(carried)[name] for name in held}
    assert before == {name: (value.data_ptr(), value.numel()) for name, value in now.items()}


def test_points_are_found_where_they_were_put() -> None:
    points = torch.tensor([[13.0, 7.0], [40.0, 36.0], [5.0, 5.0], [61.5, 20.25]])
    maps = spread_points(points, (48, 80), (6, 10))
    torch.testing.assert_close(maps.sum((1, 2)), torch.ones(4))
    torch.testing.assert_close(found_points(maps, (48, 80)), points)


def test_a_point_at_the_edge_goes_to_the_place_at_the_edge() -> None:
    maps = spread_points(torch.tensor([[0.0, 47.9]]), (48, 80), (6, 10))
    assert maps[0, 5, 0] == 1
