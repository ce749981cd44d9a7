"""Common fate against a plain loop, what does not matter to it, and what it finds."""

import math

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score
from torch import Tensor
from torch.nn import functional

from models.encoders.factory import EncoderConfig
from models.method import Batch
from models.motion.common_fate import CommonFate, CommonFateConfig
from models.motion.flow_pictures import flow_arrows, flow_colours
from models.registry import build_method
from tests.small_methods import NUM_SAMPLES, make_batch

FRAMES = EncoderConfig(name="resnet18_small", width=8, time="frames")


def build(size: int = 16, encoder: EncoderConfig = FRAMES, **settings: float) -> CommonFate:
    config = CommonFateConfig.model_validate(
        {"embed_dim": 8, "grid": 8, "num_places": 10, **settings}
    )
    made = build_method(config, encoder, CommonFate.default_views(size), 0)
    assert isinstance(made, CommonFate)
    return made


def test_the_loss_is_that_of_a_plain_loop_over_places() -> None:
    method, batch = build(), make_batch("common_fate")
    batch["valid"][3] = False
    method.eval()
    with torch.no_grad():
        embedded = method.pixel_embeddings(batch["views"]["global_crops"][0][:, 0])
        flow = functional.avg_pool2d(batch["targets"]["flow"][:, 0, 0].float(), 2)
        places = method._places(batch)
        assert places.shape == (NUM_SAMPLES, 10)
        total, count = 0.0, 0
        for row in batch["valid"].nonzero().flatten().tolist():
            centred = flow[row].flatten(1) - flow[row].flatten(1).mean(dim=1, keepdim=True)
            deviation = centred.square().sum(0).mean().sqrt()
            chosen = places[row].tolist()
            for one in chosen:
                apart = [
                    (centred[:, one] - centred[:, other]).norm() / deviation for other in chosen
                ]
                wanted = torch.softmax(-(torch.stack(apart) ** 2) / (2 * 0.5**2), dim=0)
                mine = embedded[row].flatten(1)
                alike = [
                    functional.cosine_similarity(mine[:, one], mine[:, other], dim=0) / 0.1
                    for other in chosen
                ]
                told = torch.softmax(torch.stack(alike), dim=0)
                total += float((wanted * (wanted / told).log()).sum())
                count += 1
        out = method(batch)
    assert out["loss"].item() == pytest.approx(total / count, rel=1e-4)
    assert out["moving"] == 1


def test_embeddings_that_are_all_alike_have_the_loss_of_even_distributions() -> None:
    method, batch = build(), make_batch("common_fate")
    with torch.no_grad():
        for part in (method.head[2].weight, method.head[2].bias):
            part.fill_(0.1)
        out = method(batch)
    assert out["loss"].item() == pytest.approx(out["even"].item(), rel=1e-4)
    assert 0 < out["loss"].item() < math.log(10)


def test_neither_the_cameras_motion_nor_its_speed_nor_the_way_things_move_matters() -> None:
    method, batch = build(), make_batch("common_fate")
    method.eval()
    expected = method(batch)["loss"].item()
    flow = batch["targets"]["flow"]
    for other in (flow + 3, 2 * flow, flow.flip(3), -flow):
        batch["targets"]["flow"] = other
        assert method(batch)["loss"].item() == pytest.approx(expected, rel=1e-3)


def test_clips_whose_parts_do_not_move_apart_are_not_asked_about() -> None:
    method, batch = build(), make_batch("common_fate")
    batch["targets"]["flow"][:6] = 5.0  # all of it alike: the camera
    out = method(batch)
    assert out["moving"] == 0.5
    batch["targets"]["flow"][:] = 0
    out = method(batch)
    assert out["loss"] == 0 and out["moving"] == 0


def test_transformers_of_frames_serve_and_encoders_of_whole_clips_do_not() -> None:
    small = EncoderConfig(name="vit_tiny_small", width=16, time="frames", pooling="mean")
    assert build(encoder=small).pixel_embeddings(torch.zeros(2, 3, 16, 16)).shape == (2, 8, 8, 8)
    inflated = EncoderConfig(name="resnet18_small", width=8, time="inflated")
    with pytest.raises(ValueError, match=r"set encoder\.time=frames"):
        build(encoder=inflated)


def test_flow_is_drawn_on_the_colour_wheel() -> None:
    flow = torch.zeros(1, 2, 1, 3)
    flow[0, 0, 0, 0] = 4
    flow[0, 0, 0, 1] = -4
    right, left, nothing = flow_colours(flow)[0, :, 0].unbind(dim=1)
    assert right.tolist() == pytest.approx([1, 0, 0], abs=1e-5)
    assert left.tolist() == pytest.approx([0, 1, 1], abs=1e-5)
    assert nothing.tolist() == pytest.approx([1, 1, 1])


def test_arrows_point_where_the_parts_of_a_frame_move() -> None:
    flow = torch.zeros(1, 2, 32, 32)
    flow[:, 0, :16, :16] = 3  # a quarter moves to the right
    drawn = flow_arrows(torch.full((1, 3, 32, 32), 0.5), flow)
    assert drawn.shape == (1, 3, 128, 128)
    ink = (drawn[0, 2] - 0.1).abs() < 1e-6  # its blue
    assert ink[:64, :64].any() and not ink[64:].any() and not ink[:, 72:].any()
    shaft = ink[8, 8:23]  # from the middle of the first part of 16 px, nine tenths of its width
    assert shaft.all() and not ink[8, :8].any()
    assert ink[:, 17:22].sum() > ink[:, 9:14].sum()  # heads
    down = flow_arrows(torch.full((1, 3, 32, 32), 0.5), flow.flip(1).transpose(2, 3))
    assert torch.equal(drawn[0, 2], down[0, 2].T)
    assert (flow_arrows(torch.full((1, 3, 32, 32), 0.5), torch.zeros(1, 2, 32, 32)) == 0.5).all()


def things(num: int, seed: int) -> tuple[Batch, Tensor]:
    """Frames of a disc on stripes, each of a texture and a motion of its own, and its masks
    (B, S, S)."""
    rng = np.random.default_rng(seed)
    size = 32
    rows, columns = np.mgrid[:size, :size]
    frames, flows, masks = [], [], []
    for _ in range(num):
        centre, radius = rng.uniform(10, 22, 2), rng.uniform(5, 8)
        disc = (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 < radius**2
        angle, phase = rng.uniform(0, np.pi), rng.uniform(0, 6)
        stripes = np.sin((rows * np.cos(angle) + columns * np.sin(angle)) / 1.5 + phase)
        spots = rng.normal(size=(size, size))
        frames.append(np.where(disc, spots, stripes)[None].repeat(3, 0))
        mine, others = rng.uniform(-3, 3, (2, 2))
        flows.append(np.where(disc, mine[:, None, None], others[:, None, None]))
        masks.append(disc)
    clips = torch.from_numpy(np.stack(frames)).float()[None, :, None].expand(-1, -1, 2, -1, -1, -1)
    ids = torch.arange(num) + 1000 * seed
    batch = Batch(
        views={"global_crops": clips},
        sample_id=ids,
        row=ids,
        epoch=torch.zeros_like(ids),
        valid=torch.ones(num, dtype=torch.bool),
        targets={"flow": torch.from_numpy(np.stack(flows)).half()[:, None, None]},
    )
    return batch, torch.from_numpy(np.stack(masks))


def found(method: CommonFate, batch: Batch, masks: Tensor) -> float:
    """Mean adjusted Rand index of two groups of places, by k-means, with the masks."""
    method.eval()
    with torch.no_grad():
        embedded = functional.normalize(
            method.pixel_embeddings(batch["views"]["global_crops"][0][:, 0]), dim=1
        )
    method.train()
    truth = functional.avg_pool2d(masks.float()[:, None], 32 // method.side)[:, 0] > 0.5
    scores = []
    for places, mask in zip(embedded.flatten(2).transpose(1, 2), truth.flatten(1), strict=True):
        groups = KMeans(2, n_init=2, random_state=0).fit_predict(places.numpy())
        scores.append(adjusted_rand_score(mask.numpy(), groups))
    return float(np.mean(scores))


@pytest.mark.slow
def test_places_of_one_moving_thing_are_found_in_still_pictures_not_seen_before() -> None:
    torch.manual_seed(0)
    method = build(size=32, grid=16, num_places=96)
    unseen, masks = things(12, seed=99)
    before = found(method, unseen, masks)
    optimizer = torch.optim.AdamW(method.parameters(), lr=3e-3)
    for step in range(40):
        batch, _ = things(16, seed=step)
        optimizer.zero_grad()
        method(batch)["loss"].backward()
        optimizer.step()
    after = found(method, unseen, masks)
    assert after > 0.5 and after > before + 0.2, (before, after)
