import math
from collections import defaultdict
from typing import Any

import pytest
import torch
from torch import Tensor

from models.probing import neighbours
from models.probing.neighbours import knn_votes


def clusters(num: int, seed: int, spread: float = 0.6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(num) % 3
    centres = torch.tensor([[3.0, 0, 0, 1], [0, 3, 0, 1], [0, 0, 3, 1]])
    return centres[y] + spread * torch.randn(num, 4, generator=generator), y


def told_by_knn(
    train_x: Tensor, train_y: Tensor, test_x: Tensor, *, k: int, **options: Any
) -> Tensor:
    return knn_votes(train_x, train_y, test_x, ks=(k,), **options)[0].argmax(1)


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
        told_by_knn(train_x, train_y, test_x, k=k, temperature=0.5, num_classes=3).tolist()
        == expected
    )


def test_knn_does_not_depend_on_its_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    train_x, train_y = clusters(50, seed=0, spread=3)
    test_x, _ = clusters(31, seed=1, spread=3)
    whole = told_by_knn(train_x, train_y, test_x, k=20, num_classes=3)
    monkeypatch.setattr(neighbours, "_ROWS", 7)
    assert torch.equal(told_by_knn(train_x, train_y, test_x, k=20, num_classes=3, chunk=4), whole)


def test_knn_weighs_near_neighbours_more() -> None:
    angle = torch.tensor([0.1, 0.9, 0.9])
    train_x = torch.stack([angle.cos(), angle.sin()], 1)
    query = torch.tensor([[5.0, 0.0]])
    for temperature, expected in ((0.05, 0), (10.0, 1)):
        prediction = told_by_knn(
            train_x, torch.tensor([0, 1, 1]), query, k=3, temperature=temperature, num_classes=2
        )
        assert prediction.tolist() == [expected]


def test_knn_survives_a_temperature_at_which_exp_overflows() -> None:
    train_x, train_y = clusters(30, seed=0)
    test_x, _ = clusters(30, seed=1)
    nearest = told_by_knn(train_x, train_y, test_x, k=1, num_classes=3)
    assert torch.equal(
        told_by_knn(train_x, train_y, test_x, k=5, temperature=1e-4, num_classes=3), nearest
    )


def test_several_k_and_shares_of_classes_equal_one_k_and_one_class() -> None:
    train_x, train_y = clusters(40, seed=0, spread=3)
    test_x, _ = clusters(30, seed=1, spread=3)
    alone = [
        knn_votes(train_x, train_y, test_x, ks=(k,), temperature=0.5, num_classes=3)[0]
        for k in (20, 1, 7)
    ]
    shares = torch.nn.functional.one_hot(train_y, 3).float()
    for targets in (train_y, shares):
        votes = knn_votes(train_x, targets, test_x, ks=(20, 1, 7), temperature=0.5, num_classes=3)
        torch.testing.assert_close(votes, torch.stack(alone))
    torch.testing.assert_close(votes.sum(2), torch.ones(3, 30))


@pytest.mark.parametrize(
    "options", [{"k": 0}, {"k": 31}, {"k": 5, "temperature": 0.0}, {"k": 5, "num_classes": 2}]
)
def test_knn_refuses_what_it_cannot_answer(options: dict[str, float]) -> None:
    train_x, train_y = clusters(30, seed=0)
    with pytest.raises(ValueError, match="must be"):
        told_by_knn(train_x, train_y, train_x, **({"num_classes": 3} | options))
