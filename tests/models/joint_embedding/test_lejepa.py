"""LeJEPA: its two terms, the directions of each step, and what the weight guards against."""

import pytest
import torch

from models.joint_embedding.lejepa import LeJEPA, LeJEPAConfig
from models.joint_embedding.sigreg import random_directions, sigreg
from models.registry import build_method
from tests.small_methods import ENCODERS, NUM_SAMPLES, SIZE, make_batch


def build(**settings: float) -> LeJEPA:
    config = LeJEPAConfig(
        **{"hidden_dim": 64, "projection_dim": 8, "num_directions": 64} | settings
    )  # type: ignore[arg-type]
    method = build_method(config, ENCODERS[0], LeJEPA.default_views(SIZE), 0)
    assert isinstance(method, LeJEPA)
    return method


def test_views_are_the_authors() -> None:
    views = LeJEPA.default_views(224).groups
    assert [(group.count, group.size, group.scale) for group in views.values()] == [
        (2, None, (0.3, 1.0)),
        (6, 96, (0.05, 0.3)),
    ]
    colours = [group.model_dump(exclude={"count", "size", "scale"}) for group in views.values()]
    assert colours[0] == colours[1]


def test_every_view_predicts_the_mean_of_the_large_ones_by_a_loop() -> None:
    method, batch = build(), make_batch("lejepa")
    method.eval()
    batch["valid"][[2, 5]] = False
    method.after_step(7, 10)
    crops = [view for group in ("global_crops", "local_crops") for view in batch["views"][group]]
    with torch.no_grad():
        z = torch.stack([method.projection_head(method.encoder(view)) for view in crops])
    total = 0.0
    samples = [i for i in range(z.shape[1]) if i not in (2, 5)]
    for sample in samples:
        centre = (z[0, sample] + z[1, sample]) / 2
        total += sum(float((view[sample] - centre).square().mean()) for view in z) / len(z)
    out = method(batch)
    torch.testing.assert_close(out["prediction"].item(), total / len(samples), rtol=1e-4, atol=1e-6)
    directions = random_directions(64, 8, seed=0, step=torch.tensor(7))
    distance = sigreg(z, batch["valid"], directions)
    torch.testing.assert_close(out["sigreg"], distance.detach(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        out["loss"].detach(), 0.98 * out["prediction"] + 0.02 * out["sigreg"]
    )


def distance_after_training(sigreg_weight: float) -> float:
    """Return how far the projections are from a normal cloud after some steps on one batch."""
    method, batch = build(sigreg_weight=sigreg_weight), make_batch("lejepa")
    optimizer = torch.optim.AdamW(method.parameters(), lr=3e-3)
    for step in range(15):
        optimizer.zero_grad()
        out = method(batch)
        out["loss"].backward()
        optimizer.step()
        method.after_step(step + 1, 15)
    return out["sigreg"].item()


@pytest.mark.slow
def test_without_the_distance_to_a_normal_cloud_everything_collapses() -> None:
    at_one_point = 0.409 * NUM_SAMPLES
    assert distance_after_training(0.0) > 0.95 * at_one_point
    assert distance_after_training(0.5) < 0.3 * at_one_point
