"""Contrastive random walk against a walker that goes edge by edge, and its guards."""

import itertools
import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from augment.masking import MaskKey
from models.encoders.factory import EncoderConfig
from models.registry import build_method
from models.temporal.crw import ContrastiveRandomWalk, CRWConfig, returning, round_trips
from models.temporal.patch_cuts import cut_patches, grid_boxes
from tests.small_methods import NUM_FRAMES, make_batch

FRAMES = EncoderConfig(name="resnet18_small", width=4, time="frames")


def build(**settings: object) -> ContrastiveRandomWalk:
    values = {"grid": 3, "patch_share": 0.5, "projection_dim": 8, **settings}
    config = CRWConfig.model_validate(values)
    made = build_method(config, FRAMES, ContrastiveRandomWalk.default_views(16), 0)
    assert isinstance(made, ContrastiveRandomWalk)
    return made


def chances(seed: int, *shape: int) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=draw, dtype=torch.float64).softmax(-1)


def test_walks_are_sums_over_all_paths() -> None:
    there, back = chances(0, 2, 2, 3, 3), chances(1, 2, 2, 3, 3)
    walks = round_trips(there, back)
    for sample, start, end in itertools.product(range(2), range(3), range(3)):
        one = sum(there[sample, 0, start, turn] * back[sample, 0, turn, end] for turn in range(3))
        two = sum(
            there[sample, 0, start, a]
            * there[sample, 1, a, turn]
            * back[sample, 1, turn, b]
            * back[sample, 0, b, end]
            for a, turn, b in itertools.product(range(3), repeat=3)
        )
        assert walks[0][sample, start, end] == pytest.approx(one)
        assert walks[1][sample, start, end] == pytest.approx(two)
    for walk in walks:
        torch.testing.assert_close(walk.sum(-1), torch.ones(2, 3, dtype=torch.float64))


def test_the_loss_is_that_of_a_plain_loop() -> None:
    method, batch = build(edge_dropout=0, temperature=0.3).eval(), make_batch("crw")
    batch["valid"][3] = False
    clips = batch["views"]["global_crops"][0]
    key = MaskKey(method.seed, batch["epoch"], batch["sample_id"])
    losses, returns = [], []
    with torch.no_grad():
        patches = method.patches(clips, key)
        for row in batch["valid"].nonzero().flatten().tolist():
            nodes = [
                functional.normalize(
                    method.projection_head(method.encoder.frames(frame.unsqueeze(0))[0]), dim=1
                )
                for frame in patches[row]
            ]
            for turn in range(1, NUM_FRAMES):
                path = [*range(turn + 1), *range(turn - 1, -1, -1)]
                walk = torch.eye(9)
                for here, then in itertools.pairwise(path):
                    walk = walk @ (nodes[here] @ nodes[then].T / 0.3).softmax(1)
                losses.append(-walk.diagonal().log().mean().item())
            returns.append((walk.argmax(1) == torch.arange(9)).float().mean().item())
        out = method(batch)
    assert out["loss"].item() == pytest.approx(sum(losses) / len(losses), rel=1e-4)
    assert out["return_top1"].item() == pytest.approx(sum(returns) / len(returns), abs=1e-6)


def test_where_all_patches_are_alike_the_walker_returns_by_chance() -> None:
    method, batch = build(edge_dropout=0), make_batch("crw")
    with torch.no_grad():
        method.projection_head.weight.zero_()
    assert method(batch)["loss"].item() == pytest.approx(math.log(9), rel=1e-5)


def test_walks_back_and_forth_are_alike_where_edges_are() -> None:
    """With edges that are as likely in either direction, to walk there and back is to walk back
    and there."""
    one = torch.randn(2, 1, 4, 4, dtype=torch.float64).exp()
    even = one / one.sum((2, 3), keepdim=True)
    [walk] = round_trips(even, even.mT)
    torch.testing.assert_close(walk, walk.mT)
    assert returning(torch.eye(4).expand(2, -1, -1)).tolist() == [0.0, 0.0]


def test_edges_are_taken_away_in_training_alone_and_never_all_of_a_patch() -> None:
    method, batch = build(edge_dropout=0.6), make_batch("crw")
    key = MaskKey(0, batch["epoch"], batch["sample_id"])
    edges = torch.zeros(12, 5, 9, 9)
    thinned = method._thinned(edges, key, "there")
    gone = thinned == -torch.inf
    assert 0.5 < gone.float().mean() < 0.65
    assert not gone.all(-1).any()
    other = method._thinned(edges, key, "back") == -torch.inf
    assert not torch.equal(gone, other)
    assert torch.equal(method.eval()._thinned(edges, key, "there"), edges)


def test_patches_of_whole_pixels_are_exact_copies() -> None:
    frames = torch.randn(2, 3, 3, 16, 16)
    boxes = grid_boxes(3, 8, 16)
    assert boxes[:, :2].tolist() == [[x, y] for y in (0, 4, 8) for x in (0, 4, 8)]
    cut = cut_patches(frames, boxes.expand(2, 3, -1, -1), 8)
    for number, (left, top, side) in enumerate(boxes.int().tolist()):
        expected = frames[..., top : top + side, left : left + side]
        torch.testing.assert_close(cut[:, :, number], expected, rtol=1e-4, atol=1e-5)


def test_patches_are_drawn_by_the_sample_within_their_own_place() -> None:
    method, batch = build(jitter=[0.5, 0.5]), make_batch("crw")
    key = MaskKey(0, batch["epoch"], batch["sample_id"])
    ramp = torch.arange(16.0).expand(12, 2, 3, 16, 16)  # a pixel says where it lies
    seen = method.patches(ramp, key)
    assert seen.shape == (12, 2, 9, 3, 8, 8)
    left = torch.tensor([0.0, 4.0, 8.0] * 3)
    assert (seen.amin((3, 4, 5)) >= left - 0.5).all()
    assert (seen.amax((3, 4, 5)) <= left + 7.5).all()
    assert not torch.equal(seen[:, 0], seen[:, 1])
    again = MaskKey(0, batch["epoch"][4:5], batch["sample_id"][4:5])
    assert torch.equal(method.patches(ramp[4:5], again), seen[4:5])


def test_a_clip_that_stands_still_is_easy_and_one_of_noise_is_not() -> None:
    """The control: what the task asks can be told of a still clip by any encoder, so it teaches
    nothing there; and nothing tells it where frames have nothing in common."""
    method, batch = build(edge_dropout=0, jitter=[1, 1], temperature=1e-4), make_batch("crw")
    method.eval()
    clips = batch["views"]["global_crops"]
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        clips[:] = clips[:, :, :1].clone()
        still = method(batch)["return_top1"].item()
        clips[:] = torch.randn(clips.shape, generator=generator)
        noise = method(batch)["return_top1"].item()
    assert still > 0.9
    assert noise < 0.4


def test_what_cannot_walk_is_refused() -> None:
    with pytest.raises(ValueError, match="patches of less than 8 px"):
        build(patch_share=0.25)
    with pytest.raises(ValueError, match="0 < LOW <= HIGH"):
        build(jitter=[0.9, 0.7])
    batch = make_batch("crw")
    batch["views"]["global_crops"] = batch["views"]["global_crops"][:, :, :1]
    with pytest.raises(ValueError, match=r"clip\.num_frames>=2"):
        build()(batch)
