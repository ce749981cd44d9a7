"""Retrieval against pytorch-metric-learning and loops."""

import pytest
import torch
from pytorch_metric_learning.distances import CosineSimilarity
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from pytorch_metric_learning.utils.inference import CustomKNN
from torch import Tensor

from models.probing.retrieval import Items, retrieve


def items(num: int, seed: int) -> Items:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(num) % 4
    x = torch.nn.functional.one_hot(labels, 6) + torch.randn(num, 6, generator=generator)
    return Items(x, labels, torch.arange(num) + 1000 * seed)


@pytest.mark.parametrize("own_gallery", [True, False])
def test_retrieval_equals_pytorch_metric_learning(own_gallery: bool) -> None:
    queries = items(50, seed=1)
    gallery = queries if own_gallery else items(37, seed=2)
    found = retrieve(queries, gallery, ks=(1,), chunk=7)
    judge = AccuracyCalculator(
        include=("mean_average_precision", "precision_at_1"),
        knn_func=CustomKNN(CosineSimilarity()),
    )
    told = judge.get_accuracy(
        queries.x, queries.targets, gallery.x, gallery.targets, ref_includes_query=own_gallery
    )
    assert found.average_precision.mean().item() == pytest.approx(told["mean_average_precision"])
    assert found.hits[0].float().mean().item() == pytest.approx(told["precision_at_1"])


def test_copies_of_the_query_are_neither_found_nor_missed() -> None:
    x = torch.eye(3)[[0, 0, 0, 1]]
    targets = torch.tensor([0, 0, 1, 0])
    copies = Items(x, targets, torch.tensor([7, 7, 8, 9]))
    found = retrieve(copies, copies, ks=(1, 5))
    # the first finds the third, which is of another class, then the last
    assert found.average_precision.tolist()[:2] == [0.5, 0.5]
    assert found.hits[:, 0].tolist() == [False, True]
    assert found.average_precision[2].isnan()  # nothing is of its class


def test_equal_similarities_earn_no_luck() -> None:
    same = torch.ones(4, 2)
    targets = torch.tensor([0, 0, 1, 1])
    found = retrieve(*[Items(same, targets, torch.arange(4))] * 2, ks=(1, 3))
    assert found.average_precision.tolist() == pytest.approx([1 / 3] * 4)
    assert found.hits.tolist() == [[False] * 4, [True] * 4]


def test_one_shared_class_of_several_is_relevant() -> None:
    hot: Tensor = torch.tensor([[1, 1, 0], [0, 1, 0], [0, 0, 1]], dtype=torch.bool)
    several = Items(torch.eye(3) + 0.1, hot, torch.arange(3))
    found = retrieve(several, several, ks=(2,))
    assert found.hits[0].tolist() == [True, True, False]
