import math
from collections import defaultdict

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from models import probes
from models.probes import bootstrap_interval, fit_logistic_regression, knn_predict, linear_predict


def clusters(num: int, seed: int, spread: float = 0.6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(num) % 3
    centres = torch.tensor([[3.0, 0, 0, 1], [0, 3, 0, 1], [0, 0, 3, 1]])
    return centres[y] + spread * torch.randn(num, 4, generator=generator), y


def knn_by_loops(
    train_x: Tensor, train_y: Tensor, test_x: Tensor, k: int, temperature: float
) -> list[int]:
    predictions = []
    for query in test_x:
        similarities = torch.cosine_similarity(query, train_x).tolist()
        scored = zip(similarities, train_y.tolist(), strict=True)
        votes: dict[int, float] = defaultdict(float)
        for similarity, label in sorted(scored, reverse=True)[:k]:
            votes[label] += math.exp(similarity / temperature)
        predictions.append(max(votes, key=votes.__getitem__))
    return predictions


@pytest.mark.parametrize("k", [1, 7, 40])
def test_knn_equals_a_vote_by_loops(k: int) -> None:
    train_x, train_y = clusters(40, seed=0, spread=3)
    test_x, test_y = clusters(30, seed=1, spread=3)
    expected = knn_by_loops(train_x, train_y, test_x, k, 0.5)
    assert expected != test_y.tolist()  # the classes overlap, or any rule would do
    assert (
        knn_predict(train_x, train_y, test_x, k=k, temperature=0.5, num_classes=3).tolist()
        == expected
    )


def test_knn_does_not_depend_on_its_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    train_x, train_y = clusters(50, seed=0, spread=3)
    test_x, _ = clusters(31, seed=1, spread=3)
    whole = knn_predict(train_x, train_y, test_x, k=20, num_classes=3)
    monkeypatch.setattr(probes, "_TRAIN_ROWS", 7)
    assert torch.equal(knn_predict(train_x, train_y, test_x, k=20, num_classes=3, chunk=4), whole)


def test_knn_weighs_near_neighbours_more() -> None:
    angle = torch.tensor([0.1, 0.9, 0.9])
    train_x = torch.stack([angle.cos(), angle.sin()], 1)
    query = torch.tensor([[5.0, 0.0]])
    for temperature, expected in ((0.05, 0), (10.0, 1)):
        prediction = knn_predict(
            train_x, torch.tensor([0, 1, 1]), query, k=3, temperature=temperature, num_classes=2
        )
        assert prediction.tolist() == [expected]


def test_knn_survives_a_temperature_at_which_exp_overflows() -> None:
    train_x, train_y = clusters(30, seed=0)
    test_x, _ = clusters(30, seed=1)
    nearest = knn_predict(train_x, train_y, test_x, k=1, num_classes=3)
    assert torch.equal(
        knn_predict(train_x, train_y, test_x, k=5, temperature=1e-4, num_classes=3), nearest
    )


def test_logistic_regression_reaches_the_minimum() -> None:
    x, y = clusters(90, seed=0, spread=2)
    fitted = fit_logistic_regression(x, y, num_classes=3, weight_decay=1e-2, max_iterations=200)
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
        torch.zeros(4, 2), y, num_classes=2, weight_decay=1e-2, max_iterations=50
    )
    assert weight.abs().max() == 0
    torch.testing.assert_close(bias.softmax(0), torch.tensor([0.75, 0.25]), rtol=1e-3, atol=1e-3)


def test_linear_probe_separates_what_is_separable_and_repeats_itself() -> None:
    train_x, train_y = clusters(90, seed=0)
    test_x, test_y = clusters(60, seed=1)
    first = linear_predict(train_x, train_y, test_x, num_classes=3)
    assert (first == test_y).float().mean() > 0.95
    assert torch.equal(first, linear_predict(train_x, train_y, test_x, num_classes=3))


def test_linear_probe_does_not_depend_on_scale_or_offset_of_features() -> None:
    train_x, train_y = clusters(90, seed=0, spread=3)
    test_x, _ = clusters(200, seed=1, spread=3)
    expected = linear_predict(train_x, train_y, test_x, num_classes=3, weight_decay=1e-2)
    scale, offset = torch.tensor([1e3, 1e-3, 1, 20]), torch.tensor([50.0, 0.0, -3.0, 100.0])
    moved = linear_predict(
        train_x * scale + offset, train_y, test_x * scale + offset, num_classes=3, weight_decay=1e-2
    )
    assert (moved == expected).float().mean() > 0.99


def test_a_feature_constant_in_training_but_for_rounding_does_not_decide() -> None:
    train_x, train_y = clusters(90, seed=0)
    test_x, test_y = clusters(60, seed=1)
    # constant but for the last bit
    train_x[:, 3], test_x[:, 3] = (
        1 + 1.2e-7 * (train_y == 0),
        1.0001,
    )
    assert (linear_predict(train_x, train_y, test_x, num_classes=3) == test_y).float().mean() > 0.95


def test_probes_take_features_made_in_inference_mode() -> None:
    with torch.inference_mode():
        train_x, train_y = clusters(30, seed=0)
        test_x, test_y = clusters(30, seed=1)
    assert (linear_predict(train_x, train_y, test_x, num_classes=3) == test_y).float().mean() > 0.9
    assert (
        knn_predict(train_x, train_y, test_x, k=5, num_classes=3) == test_y
    ).float().mean() > 0.9


@pytest.mark.parametrize(
    "options", [{"k": 0}, {"k": 31}, {"k": 5, "temperature": 0.0}, {"k": 5, "num_classes": 2}]
)
def test_knn_refuses_what_it_cannot_answer(options: dict[str, float]) -> None:
    train_x, train_y = clusters(30, seed=0)
    with pytest.raises(ValueError, match="must be"):
        knn_predict(train_x, train_y, train_x, **({"num_classes": 3} | options))


def test_bootstrap_interval_is_that_of_images_drawn_with_replacement() -> None:
    correct = np.arange(200) % 4 > 0  # 75 %
    drawn = correct[np.random.default_rng(1).integers(0, 200, size=(10_000, 200))].mean(1)
    expected = np.quantile(drawn, [0.025, 0.975])
    # one image of 200, twice
    assert bootstrap_interval(correct) == pytest.approx(expected, abs=0.0051)
    assert bootstrap_interval(correct) == bootstrap_interval(correct)


def test_bootstrap_interval_narrows_with_images_and_with_a_lower_level() -> None:
    def width(num: int, level: float = 0.95) -> float:
        low, high = bootstrap_interval(np.arange(num) % 2 == 0, level=level)
        return high - low

    assert width(10_000) == pytest.approx(2 * 1.96 * 0.5 / 100, rel=0.05)
    assert width(10_000, level=0.5) == pytest.approx(2 * 0.6745 * 0.5 / 100, rel=0.05)


@pytest.mark.parametrize(("correct", "level"), [(np.zeros(0, bool), 0.95), (np.ones(4, bool), 1.0)])
def test_bootstrap_refuses_no_images_and_a_certain_level(correct: np.ndarray, level: float) -> None:
    with pytest.raises(ValueError, match="must be"):
        bootstrap_interval(correct, level=level)
