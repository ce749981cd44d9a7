"""SimSiam: the stop-gradient, the fixed learning rate of its predictor, and collapse in its own
measure."""

import torch
from torch.nn import functional

from models.joint_embedding.simsiam import SimSiam
from tests.small_methods import build, make_batch


def small() -> SimSiam:
    method, _ = build("simsiam")
    assert isinstance(method, SimSiam)
    return method


def test_loss_and_gradient_are_those_of_predictions_against_fixed_targets() -> None:
    method, batch = small(), make_batch("simsiam")
    method(batch)["loss"].backward()
    actual = {name: parameter.grad.clone() for name, parameter in method.named_parameters()}
    method.zero_grad()
    z = [method.projection_head(method.encoder(view)) for view in batch["views"]["global_crops"]]
    fixed = [torch.from_numpy(projection.detach().numpy().copy()) for projection in z]
    p = [functional.normalize(method.prediction_head(projection), dim=1) for projection in z]
    loss = (
        -sum((p[i] * functional.normalize(fixed[1 - i], dim=1)).sum(1).mean() for i in range(2)) / 2
    )
    torch.testing.assert_close(method(batch)["loss"], loss, rtol=1e-4, atol=1e-5)
    loss.backward()
    for name, parameter in method.named_parameters():
        torch.testing.assert_close(actual[name], parameter.grad, rtol=1e-3, atol=1e-5, msg=name)


def test_the_prediction_head_alone_keeps_its_learning_rate() -> None:
    method = small()
    fixed = {
        id(p) for group in method.param_groups() if group.get("fixed_lr") for p in group["params"]
    }
    assert fixed == {id(parameter) for parameter in method.prediction_head.parameters()}


def test_projections_that_collapsed_have_no_spread() -> None:
    method, batch = small(), make_batch("simsiam")
    healthy = method(batch)["projection_std"].item()
    batch["views"]["global_crops"][:] = batch["views"]["global_crops"][:, :1]
    method.projection_head.eval()  # batch norm would blow rounding up
    method.encoder.eval()
    assert method(batch)["projection_std"].item() < 1e-5 < 0.1 < healthy
