"""DINOv2: KoLeo and Gram anchoring against naive calculations and closed forms, and the phase in
which the anchor holds."""

import copy
import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from models.joint_embedding.dinov2 import DINOv2, DINOv2Config, gram_change, koleo_loss
from models.registry import build_method
from tests.small_methods import ENCODERS, SIZE, make_batch


def build(**settings: object) -> DINOv2:
    sizes = {"hidden_dim": 32, "bottleneck_dim": 16, "num_prototypes": 12}
    config = DINOv2Config.model_validate({**sizes, **settings})
    method = build_method(config, ENCODERS[1], DINOv2.default_views(SIZE), 0)
    assert isinstance(method, DINOv2)
    return method


def points(num: int, dim: int) -> Tensor:
    return torch.randn(num, dim, generator=torch.Generator().manual_seed(0))


def test_koleo_is_minus_the_log_distance_to_the_nearest_valid_neighbour_by_a_loop() -> None:
    z = points(20, 5)
    valid = torch.ones(20, dtype=torch.bool)
    valid[[3, 11]] = False
    unit = functional.normalize(z, dim=1).double()
    losses = []
    for i in range(20):
        others = [float((unit[i] - unit[j]).norm()) for j in range(20) if j != i and valid[j]]
        losses.append(-math.log(min(others)))
    expected = sum(loss for loss, ok in zip(losses, valid, strict=True) if ok) / 18
    assert koleo_loss(z, valid).item() == pytest.approx(expected, rel=1e-5)
    assert koleo_loss(3 * z, valid).item() == pytest.approx(expected, rel=1e-5)


def test_koleo_of_known_clouds() -> None:
    everyone = torch.ones(4, dtype=torch.bool)
    assert koleo_loss(torch.eye(4), everyone).item() == pytest.approx(-math.log(2**0.5), rel=1e-5)
    opposite = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    assert koleo_loss(opposite, everyone[:2]).item() == pytest.approx(-math.log(2), rel=1e-5)
    alone = torch.tensor([True, False])
    assert koleo_loss(opposite, alone).item() == 0.0
    z = torch.ones(4, 3, requires_grad=True)  # at one point: large, and its gradient a number
    loss = koleo_loss(z, everyone)
    loss.backward()
    assert 10 < loss.item() < 20 and z.grad is not None and z.grad.isfinite().all()


def test_koleo_spreads_features_evenly() -> None:
    centre = points(1, 8)
    z = (centre + 0.2 * points(64, 8)).requires_grad_()  # in one corner of the sphere
    valid = torch.ones(64, dtype=torch.bool)
    optimizer = torch.optim.Adam([z], lr=0.05)

    def spread() -> tuple[float, float]:
        unit = functional.normalize(z.detach(), dim=1)
        nearest = torch.cdist(unit, unit).fill_diagonal_(9).amin(1)
        return unit.mean(0).norm().item(), nearest.min().item()

    off_centre, nearest = spread()
    for _ in range(200):
        optimizer.zero_grad()
        koleo_loss(z, valid).backward()
        optimizer.step()
    assert off_centre > 0.9 and nearest < 0.1
    off_centre, nearest = spread()
    assert off_centre < 0.25 and nearest > 0.4


def test_gram_change_has_a_closed_form_and_does_not_see_rotations_or_lengths() -> None:
    apart = torch.eye(3)[None]
    alike = torch.ones(1, 3, 3)
    torch.testing.assert_close(gram_change(apart, alike), torch.tensor([6 / 9]))
    tokens = points(10, 6).view(2, 5, 6)
    turn = torch.linalg.qr(points(6, 6))[0]
    torch.testing.assert_close(gram_change(2 * tokens @ turn, tokens), torch.zeros(2))
    other = points(40, 6)[30:].view(2, 5, 6)
    expected = []
    for image in range(2):
        changes = [
            functional.cosine_similarity(tokens[image, i], tokens[image, j], dim=0)
            - functional.cosine_similarity(other[image, i], other[image, j], dim=0)
            for i in range(5)
            for j in range(5)
        ]
        expected.append(torch.stack(changes).square().mean())
    torch.testing.assert_close(gram_change(tokens, other), torch.stack(expected))


def train(method: DINOv2, steps: range, num_steps: int) -> list[dict[str, float]]:
    optimizer = torch.optim.SGD(method.parameters(), lr=0.05)
    told = []
    for step in steps:
        optimizer.zero_grad()
        out = method(make_batch("dinov2", epoch=step))
        out["loss"].backward()
        optimizer.step()
        method.after_step(step + 1, num_steps)
        told.append({name: value.item() for name, value in out.items() if value.ndim == 0})
    return told


@pytest.mark.usefixtures("shallow")
def test_the_anchor_is_the_teacher_of_its_moment_and_holds_from_then_on() -> None:
    # 7 / 10 is less than 0.7 in single precision
    method = build(gram_start=0.7, momentum=0.5)
    before = train(method, range(7), 10)
    assert not any("gram" in each for each in before)
    for kept, teacher in zip(
        method.gram_teacher.parameters(), method.encoder.parameters(), strict=True
    ):
        assert torch.equal(kept, teacher) and not kept.requires_grad
    kept_state = copy.deepcopy(method.gram_teacher.state_dict())
    after = train(method, range(7, 10), 10)
    assert all(each["gram"] > 0 for each in after)
    weights = {"image_loss": 1.0, "patch_loss": 1.0, "koleo": 0.1, "gram": 2.0}
    for each in after:
        expected = sum(weight * each[name] for name, weight in weights.items())
        assert each["loss"] == pytest.approx(expected, rel=1e-5)
    for name, value in method.gram_teacher.state_dict().items():
        assert torch.equal(value, kept_state[name])


@pytest.mark.usefixtures("shallow")
@pytest.mark.parametrize("resumed_at", [6, 7, 8])
def test_a_run_resumed_around_the_anchors_beginning_goes_on_exactly(resumed_at: int) -> None:
    straight = build(gram_start=0.7)
    train(straight, range(5, resumed_at), 10)
    resumed = build(gram_start=0.7)
    resumed.load_state_dict(copy.deepcopy(straight.state_dict()))
    steps = range(resumed_at, 10)
    assert train(resumed, steps, 10) == train(straight, steps, 10)


def test_without_an_anchor_no_third_encoder_is_held() -> None:
    assert not any("gram" in name for name in build().state_dict())
    assert any("gram" in name for name in build(gram_start=0.5).state_dict())


def test_images_and_patches_have_heads_apart_and_balanced_targets() -> None:
    method, batch = build(), make_batch("dinov2")
    assert not {"center", "patch_center"} & set(method.state_dict())
    looked = method.look(batch)
    outputs = method.teacher_head(looked.teacher)
    outputs[..., 3] += 2.0  # all favour one prototype
    targets = method.aim(outputs, torch.ones(outputs.shape[:2]))
    torch.testing.assert_close(targets.sum(-1), torch.ones(outputs.shape[:2]))
    shares = targets.flatten(0, 1).mean(0)
    assert shares.max() < 2 / 12
