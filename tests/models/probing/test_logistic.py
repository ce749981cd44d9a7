import pytest
import torch
from torch import Tensor
from torch.nn import functional

from models.probing import logistic
from models.probing.logistic import Rows, fit_logistic_regression, logistic_path


def clusters(num: int, seed: int, spread: float = 0.6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(num) % 3
    centres = torch.tensor([[3.0, 0, 0, 1], [0, 3, 0, 1], [0, 0, 3, 1]])
    return centres[y] + spread * torch.randn(num, 4, generator=generator), y


def told_by_line(
    train_x: Tensor,
    train_y: Tensor,
    test_x: Tensor,
    *,
    num_classes: int,
    weight_decay: float = 1e-4,
) -> Tensor:
    told = logistic_path(
        train_x, train_y, test_x, num_classes=num_classes, weight_decays=[weight_decay]
    )
    return told[0].argmax(1)


def test_logistic_regression_reaches_the_minimum() -> None:
    x, y = clusters(90, seed=0, spread=2)
    fitted = fit_logistic_regression(
        Rows(x), y, num_classes=3, weight_decay=1e-2, max_iterations=200
    )
    weight, bias = (parameter.double().requires_grad_() for parameter in fitted)
    loss = (
        functional.cross_entropy(x.double() @ weight.T + bias, y)
        + 0.5 * 1e-2 * weight.square().sum()
    )
    loss.backward()
    assert weight.grad.abs().max() < 1e-4  # strictly convex in the weights: this is the minimum
    assert bias.grad.abs().max() < 1e-4


def test_logistic_regression_of_uninformative_features_gives_class_frequencies() -> None:
    y = torch.tensor([0, 0, 0, 1])
    weight, bias = fit_logistic_regression(
        Rows(torch.zeros(4, 2)), y, num_classes=2, weight_decay=1e-2, max_iterations=50
    )
    assert weight.abs().max() == 0
    torch.testing.assert_close(bias.softmax(0), torch.tensor([0.75, 0.25]), rtol=1e-3, atol=1e-3)


def test_linear_probe_separates_what_is_separable_and_repeats_itself() -> None:
    train_x, train_y = clusters(90, seed=0)
    test_x, test_y = clusters(60, seed=1)
    first = told_by_line(train_x, train_y, test_x, num_classes=3)
    assert (first == test_y).float().mean() > 0.95
    assert torch.equal(first, told_by_line(train_x, train_y, test_x, num_classes=3))


def test_linear_probe_does_not_depend_on_scale_or_offset_of_features() -> None:
    train_x, train_y = clusters(90, seed=0, spread=3)
    test_x, _ = clusters(200, seed=1, spread=3)
    expected = told_by_line(train_x, train_y, test_x, num_classes=3, weight_decay=1e-2)
    scale, offset = torch.tensor([1e3, 1e-3, 1, 20]), torch.tensor([50.0, 0.0, -3.0, 100.0])
    moved = told_by_line(
        train_x * scale + offset, train_y, test_x * scale + offset, num_classes=3, weight_decay=1e-2
    )
    assert (moved == expected).float().mean() > 0.99


def test_a_feature_constant_in_training_but_for_rounding_does_not_decide() -> None:
    train_x, train_y = clusters(90, seed=0)
    test_x, test_y = clusters(60, seed=1)
    train_x[:, 3], test_x[:, 3] = (
        1 + 1.2e-7 * (train_y == 0),
        1.0001,
    )  # constant but for the last bit
    assert (told_by_line(train_x, train_y, test_x, num_classes=3) == test_y).float().mean() > 0.95


def test_probes_take_features_made_in_inference_mode() -> None:
    with torch.inference_mode():
        train_x, train_y = clusters(30, seed=0)
        test_x, test_y = clusters(30, seed=1)
    assert (told_by_line(train_x, train_y, test_x, num_classes=3) == test_y).float().mean() > 0.9


def test_a_warm_start_along_the_path_ends_where_a_cold_one_does() -> None:
    train_x, train_y = clusters(90, seed=0, spread=2)
    test_x, _ = clusters(30, seed=1, spread=2)
    decays = [1e-2, 1.0, 1e-1]
    cold = [
        logistic_path(train_x, train_y, test_x, num_classes=3, weight_decays=[one])[0]
        for one in decays
    ]
    warm = logistic_path(train_x, train_y, test_x, num_classes=3, weight_decays=decays)
    torch.testing.assert_close(warm, torch.stack(cold), atol=1e-3, rtol=0)


@pytest.mark.parametrize("several", [False, True])
def test_many_rows_are_taken_some_at_a_time(several: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    train_x, train_y = clusters(90, seed=0, spread=2)
    test_x, _ = clusters(30, seed=1, spread=2)
    targets = functional.one_hot(train_y, 3).bool() if several else train_y

    def told() -> torch.Tensor:
        return logistic_path(train_x, targets, test_x, num_classes=3, weight_decays=[1e-2, 1.0])

    whole = told()
    monkeypatch.setattr(logistic, "ROWS_AT_A_TIME", 17)
    torch.testing.assert_close(told(), whole, atol=1e-3, rtol=0)


def test_several_classes_a_sample_are_regressions_of_their_own() -> None:
    x, y = clusters(90, seed=0, spread=2)
    hot = functional.one_hot(y, 3).bool()
    hot[:20, 0] = True
    together = fit_logistic_regression(
        Rows(x), hot, num_classes=3, weight_decay=1e-2, max_iterations=200
    )
    for one in range(3):
        weight, bias = (part[one].double().requires_grad_() for part in together)
        own = functional.binary_cross_entropy_with_logits(
            x.double() @ weight + bias, hot[:, one].double()
        )
        (own + 0.5 * 1e-2 * weight.square().sum()).backward()
        assert weight.grad is not None and weight.grad.abs().max() < 5e-4
        assert bias.grad is not None and bias.grad.abs() < 5e-4
