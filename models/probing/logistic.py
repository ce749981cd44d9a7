"""Logistic regression on frozen features, along a path of weight decays."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from models.probing.neighbours import check_features

ROWS_AT_A_TIME = 1 << 16


class Line(NamedTuple):
    """A linear classifier.

    Attributes:
        weight: (C, D).
        bias: (C,).
    """

    weight: Tensor
    bias: Tensor


class Standard(NamedTuple):
    """How features are brought to mean 0 and standard deviation 1.

    Attributes:
        mean, std: (D,) float32.
    """

    mean: Tensor
    std: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Standardise features (N, D)."""
        return (x.float() - self.mean) / self.std


def standard_of(x: Tensor) -> Standard:
    """Measure features (N, D)."""
    std, mean = torch.std_mean(x.float(), dim=0, correction=0)
    # a constant feature's std is rounding error
    return Standard(mean, torch.where(std > 1e-6 * mean.abs(), std, 1.0))


class Rows:
    """Features as they are regressed on, standardised some rows at a time: many are never there
    twice.

    Args:
        x: (N, D), any float dtype.
        standard: How they are standardised; None: not at all.
    """

    def __init__(self, x: Tensor, standard: Standard | None = None) -> None:
        self.x = x
        self.standard = standard or torch.Tensor.float
        few = len(x) <= ROWS_AT_A_TIME
        self._only = self.standard(x) if few else None

    def __iter__(self) -> Iterator[tuple[slice, Tensor]]:
        """Yield where a block of rows lies, and the block (n, D) float32."""
        if self._only is not None:
            yield slice(0, len(self.x)), self._only
            return
        for start in range(0, len(self.x), ROWS_AT_A_TIME):
            place = slice(start, start + ROWS_AT_A_TIME)
            yield place, self.standard(self.x[place])


@torch.no_grad()
def logistic_path(
    train_x: Tensor,
    targets: Tensor,
    test_x: Tensor,
    *,
    num_classes: int,
    weight_decays: Sequence[float],
    standard: Standard | None = None,
    max_iterations: int = 200,
) -> Tensor:
    """Classify by logistic regression on standardised features, for several weight decays.

    The strongest is fitted first, from zero, and each next one starts where the one before ended.

    Args:
        train_x: Features, (N, D), any float dtype.
        targets: Their classes, (N,) int64 in [0, num_classes): one multinomial regression; or which
            of the classes each has, (N, C) bool: a regression a class.
        test_x: Features to classify, (M, D), on the device of `train_x`.
        num_classes: C.
        weight_decays: Penalties, each >= 0.
        standard: How features are standardised; None: by those of training.
        max_iterations: Of `fit_logistic_regression`.

    Returns:
        Probabilities, (len(weight_decays), M, C) float32; over classes they sum to 1 where a sample
            has one.

    Raises:
        ValueError: a class out of range, or shapes that do not fit.
    """
    check_features(train_x, targets, test_x, num_classes)
    x = Rows(train_x, standard or standard_of(train_x))
    queries = x.standard(test_x)
    told = torch.empty(len(weight_decays), len(test_x), num_classes, device=test_x.device)
    line: Line | None = None
    for place in sorted(range(len(weight_decays)), key=lambda one: -weight_decays[one]):
        line = fit_logistic_regression(
            x,
            targets,
            num_classes=num_classes,
            weight_decay=weight_decays[place],
            max_iterations=max_iterations,
            start=line,
        )
        scores = functional.linear(queries, *line)
        told[place] = scores.softmax(1) if targets.ndim == 1 else scores.sigmoid()
    return told


@torch.no_grad()
def fit_logistic_regression(
    rows: Rows,
    y: Tensor,
    *,
    num_classes: int,
    weight_decay: float,
    max_iterations: int,
    start: Line | None = None,
) -> Line:
    """Minimise mean cross entropy + weight_decay / 2 * |weight|^2 by L-BFGS, in float32.

    The objective is convex, strictly so in the weights where weight_decay > 0: neither a seed nor a
    learning rate is involved. scikit-learn's `C` is 1 / (weight_decay * N). With several classes a
    sample, the cross entropy is the sum of each class's own.

    Args:
        rows: Features of a similar scale, (N, D).
        y: Classes, (N,) int64 in [0, num_classes), or (N, num_classes) bool.
        num_classes: Number of classes.
        weight_decay: Penalty on the weights, >= 0; the biases have none.
        max_iterations: Steps of L-BFGS at most; it stops by itself where the gradient vanishes.
        start: Where to begin; None: at zero.
    """
    num_rows, dim = rows.x.shape
    zeros = torch.zeros(num_classes, dim, device=rows.x.device)
    weight = zeros if start is None else start.weight.clone()
    bias = zeros[:, 0].clone() if start is None else start.bias.clone()
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
        weight.grad = weight_decay * weight
        bias.grad = torch.zeros_like(bias)
        loss = 0.5 * weight_decay * weight.square().sum()
        for place, x in rows:
            entropy, residual = _entropy(functional.linear(x, weight, bias), y[place])
            residual /= num_rows
            weight.grad += residual.T @ x  # (K, D); x.T @ residual takes six times as long
            bias.grad += residual.sum(0)
            loss += entropy / num_rows
        return loss

    optimizer.step(objective)
    return Line(weight, bias)


def _entropy(scores: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return the summed cross entropy of scores (n, K), and its gradient by them, for classes (n,)
    or (n, K)."""
    if y.ndim == 2:
        has = y.to(scores.dtype)
        loss = (functional.softplus(scores) - has * scores).sum()
        return loss, scores.sigmoid_() - has
    row = torch.arange(len(y), device=y.device)
    log_p = scores.log_softmax(1)
    loss = -log_p[row, y].sum()
    residual = log_p.exp_()
    residual[row, y] -= 1
    return loss, residual
