"""Classifiers on frozen features, and how sure their accuracy is. Both probes are deterministic on
one device."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

_TRAIN_ROWS = 65_536  # features compared at once: similarities take chunk * 65_536 * 4 bytes


@torch.no_grad()
def knn_predict(
    train_x: Tensor,
    train_y: Tensor,
    test_x: Tensor,
    *,
    k: int = 200,
    temperature: float = 0.07,
    num_classes: int,
    chunk: int = 512,
) -> Tensor:
    """Let the k nearest training features vote, with weight exp(cosine similarity / temperature).

    Instance discrimination's classifier (arXiv:1805.01978, section 3.4). Memory is bounded by
    `chunk`, whatever the number of features.

    Args:
        train_x: Features, (N, D), any float dtype; need not be normalised.
        train_y: Their classes, (N,) int64 in [0, num_classes).
        test_x: Features to classify, (M, D), on the device of `train_x`.
        k: Neighbours that vote, in 1..N. Paper: 200.
        temperature: Divides the similarities, > 0. Paper: 0.07.
        num_classes: Number of classes.
        chunk: Test rows classified at once; 512 take 128 MiB.

    Returns:
        Predicted classes, (M,) int64.

    Raises:
        ValueError: k, temperature or a class out of range, or shapes that do not fit.
    """
    _check_features(train_x, train_y, test_x, num_classes)
    if not 1 <= k <= len(train_x):
        raise ValueError(
            f"k must be in 1..{len(train_x)}, the number of training features; got {k}"
        )
    if temperature <= 0:
        raise ValueError(f"temperature must be > 0, got {temperature}")
    train_x = functional.normalize(train_x.float(), dim=-1)
    predictions = []
    for query in functional.normalize(test_x.float(), dim=-1).split(chunk):
        similarity, labels = _nearest(query, train_x, train_y, k)
        weight = (
            (similarity - similarity[:, :1]) / temperature
        ).exp()  # exp(s / T) itself overflows at small T
        votes = weight.new_zeros(len(query), num_classes).scatter_add_(1, labels, weight)
        predictions.append(votes.argmax(1))
    return torch.cat(predictions) if predictions else train_y.new_empty(0)


def _nearest(query: Tensor, train_x: Tensor, train_y: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k largest similarities of each query, best first, and their classes, both (M,
    k)."""
    similarity = query.new_empty(len(query), 0)
    labels = train_y.new_empty(len(query), 0)
    for rows, classes in zip(train_x.split(_TRAIN_ROWS), train_y.split(_TRAIN_ROWS), strict=True):
        block, index = (query @ rows.T).topk(min(k, len(rows)), dim=1)
        similarity, order = torch.cat([similarity, block], 1).topk(
            min(k, similarity.shape[1] + block.shape[1]), dim=1
        )
        labels = torch.cat([labels, classes[index]], 1).gather(1, order)
    return similarity, labels


def linear_predict(
    train_x: Tensor,
    train_y: Tensor,
    test_x: Tensor,
    *,
    num_classes: int,
    weight_decay: float = 1e-4,
    max_iterations: int = 200,
) -> Tensor:
    """Classify by multinomial logistic regression on standardised features.

    Args:
        train_x: Features, (N, D), any float dtype.
        train_y: Their classes, (N,) int64 in [0, num_classes).
        test_x: Features to classify, (M, D), on the device of `train_x`.
        num_classes: Number of classes.
        weight_decay: Of `fit_logistic_regression`.
        max_iterations: Of `fit_logistic_regression`.

    Returns:
        Predicted classes, (M,) int64.

    Raises:
        ValueError: a class out of range, or shapes that do not fit.
    """
    _check_features(train_x, train_y, test_x, num_classes)
    std, mean = torch.std_mean(train_x.float(), dim=0, correction=0)
    # a constant feature's std is rounding error
    std = torch.where(std > 1e-6 * mean.abs(), std, 1.0)
    weight, bias = fit_logistic_regression(
        (train_x.float() - mean) / std,
        train_y,
        num_classes=num_classes,
        weight_decay=weight_decay,
        max_iterations=max_iterations,
    )
    return functional.linear((test_x.float() - mean) / std, weight, bias).argmax(1)


@torch.no_grad()
def fit_logistic_regression(
    x: Tensor, y: Tensor, *, num_classes: int, weight_decay: float, max_iterations: int
) -> tuple[Tensor, Tensor]:
    """Minimise mean cross entropy + weight_decay / 2 * |weight|^2 by L-BFGS, from zero, in float32.

    The objective is convex, strictly so in the weights where weight_decay > 0: neither a seed nor a
    learning rate is involved. scikit-learn's `C` is 1 / (weight_decay * N).

    Args:
        x: Features of a similar scale, (N, D) float32.
        y: Classes, (N,) int64 in [0, num_classes).
        num_classes: Number of classes.
        weight_decay: Penalty on the weights, >= 0; the biases have none.
        max_iterations: Steps of L-BFGS at most; it stops by itself where the gradient vanishes.

    Returns:
        Weight (num_classes, D) and bias (num_classes,).
    """
    weight = x.new_zeros(num_classes, x.shape[1])
    bias = x.new_zeros(num_classes)
    target = functional.one_hot(y, num_classes).to(x.dtype)
    optimizer = torch.optim.LBFGS(
        [weight, bias],
        max_iter=max_iterations,
        history_size=10,
        tolerance_grad=1e-6,
        tolerance_change=1e-9,
        line_search_fn="strong_wolfe",
    )

    def objective() -> Tensor:
        # The gradient by hand: features made in inference mode cannot be saved for autograd.
        log_p = functional.linear(x, weight, bias).log_softmax(1)  # (N, K)
        residual = (log_p.exp() - target) / len(x)
        # (K, D); x.T @ residual takes six times as long
        weight.grad = residual.T @ x + weight_decay * weight
        bias.grad = residual.sum(0)
        return -(target * log_p).sum() / len(x) + 0.5 * weight_decay * weight.square().sum()

    optimizer.step(objective)
    return weight, bias


def bootstrap_interval(
    correct: NDArray[np.bool_], *, level: float = 0.95, num_resamples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of an accuracy, over test images.

    Drawing N of N images with replacement and counting the correct ones is one binomial draw, so no
    image is drawn. The interval covers the choice of test images, not the training seed; it has no
    width where all answers agree.

    Args:
        correct: Whether each test image was classified rightly, (N,) bool.
        level: Share of the resampled accuracies inside the interval, in (0, 1).
        num_resamples: Resampled test sets.
        seed: Seed of the resampling.

    Returns:
        Lower and upper end, each in 0..1.

    Raises:
        ValueError: no image, or a level out of range.
    """
    correct = np.asarray(correct, dtype=bool)
    if correct.ndim != 1 or correct.size == 0:
        raise ValueError(f"correct must be (N,) with N >= 1, got {correct.shape}")
    if not 0 < level < 1:
        raise ValueError(f"level must be in (0, 1), got {level}")
    hits = np.random.default_rng(seed).binomial(correct.size, correct.mean(), size=num_resamples)
    low, high = np.quantile(hits / correct.size, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _check_features(train_x: Tensor, train_y: Tensor, test_x: Tensor, num_classes: int) -> None:
    if train_x.ndim != 2 or test_x.ndim != 2 or train_x.shape[1] != test_x.shape[1]:
        raise ValueError(
            f"features must be (N, D) and (M, D), got {tuple(train_x.shape)} and"
            f" {tuple(test_x.shape)}"
        )
    if train_y.shape != train_x.shape[:1] or len(train_y) == 0:
        raise ValueError(
            f"train_y must be ({len(train_x)},) with at least one row, got {tuple(train_y.shape)}"
        )
    if int(train_y.min()) < 0 or int(train_y.max()) >= num_classes:
        raise ValueError(
            f"train_y must be in 0..{num_classes - 1}, got"
            f" {int(train_y.min())}..{int(train_y.max())}"
        )


@torch.no_grad()
def colour_statistics(images: Tensor) -> Tensor:
    """Describe images by their palette alone, the floor that learnt features must rise above.

    Args:
        images: (B, 3, H, W) uint8.

    Returns:
        (B, 30) float32: mean, standard deviation and a histogram of eight equal bins of each
            channel, all in 0..1.
    """
    pixels = images.flatten(2)  # (B, 3, H*W)
    bins = functional.one_hot((pixels >> 5).long(), 8).float().mean(dim=2)  # (B, 3, 8)
    unit = pixels.float() / 255
    return torch.cat([unit.mean(dim=2), unit.std(dim=2, correction=0), bins.flatten(1)], dim=1)
