"""Exemplar networks: which samples are classes, and that no other has a part in the loss."""

import math

import pytest
import torch
from torch import Tensor

from augment import rng
from models.contrastive import exemplar
from models.contrastive.exemplar import Exemplar, ExemplarConfig
from models.registry import build_method
from tests.small_methods import ENCODERS, NUM_ROWS, SIZE, make_batch

NO_ROW = 2**63 - 1


def build(num_rows: int = NUM_ROWS, num_exemplars: int = 11, seed: int = 0) -> Exemplar:
    method = build_method(
        ExemplarConfig(num_exemplars=num_exemplars), ENCODERS[0], Exemplar.default_views(SIZE), seed
    )
    assert isinstance(method, Exemplar)
    method.expect_rows(num_rows)
    return method


def smallest_hashes(rows: range, count: int, seed: int = 0) -> list[int]:
    row = torch.tensor(rows)
    u = rng.uniform(
        1, seed=seed, epoch=torch.zeros_like(row), sample_id=row, view=0, op="exemplars"
    )[:, 0].tolist()
    return sorted(sorted(rows, key=lambda r: u[r - rows.start])[:count])


def test_loss_is_the_cross_entropy_of_the_exemplars_views_by_a_loop() -> None:
    method, batch = build(), make_batch("exemplar")
    classes = method.exemplar.tolist()
    chosen = [index for index, row in enumerate(batch["row"].tolist()) if row in classes]
    assert 2 < len(chosen) < len(batch["row"])
    batch["valid"][chosen.pop()] = False
    out = method(batch)
    logits = method.classifier(
        method.encoder(batch["views"]["global_crops"].flatten(0, 1))
    ).unflatten(0, (2, -1))
    losses = [
        -float(logits[view, index].log_softmax(0)[classes.index(int(batch["row"][index]))])
        for view in range(2)
        for index in chosen
    ]
    assert out["loss"].item() == pytest.approx(sum(losses) / len(losses), rel=1e-4)
    assert out["exemplar_fraction"].item() == pytest.approx(len(chosen) / int(batch["valid"].sum()))


def test_at_chance_the_loss_is_the_log_of_the_classes() -> None:
    method = build(num_exemplars=8)
    torch.nn.init.zeros_(method.classifier.weight)
    torch.nn.init.zeros_(method.classifier.bias)
    assert method(make_batch("exemplar"))["loss"].item() == pytest.approx(math.log(8))


def test_swapping_the_views_keeps_the_loss() -> None:
    method, batch = build(), make_batch("exemplar")
    before = method(batch)["loss"].item()
    batch["views"]["global_crops"] = batch["views"]["global_crops"].flip(0)
    assert method(batch)["loss"].item() == pytest.approx(before, rel=1e-4)


def test_other_samples_and_invalid_ones_get_no_gradient() -> None:
    method, batch = build(), make_batch("exemplar")
    method.encoder.eval()  # else batch norm has every sample take part
    batch["valid"][2] = False
    views: Tensor = batch["views"]["global_crops"].requires_grad_()
    method(batch)["loss"].backward()
    assert views.grad is not None
    reached = views.grad.abs().sum((0, 2, 3, 4)) > 0
    assert torch.equal(reached, torch.isin(batch["row"], method.exemplar) & batch["valid"])


def test_a_batch_without_an_exemplar_has_no_loss_but_a_gradient_for_each_parameter() -> None:
    method, batch = build(), make_batch("exemplar")
    batch["row"] += NUM_ROWS
    loss = method(batch)["loss"]
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is not None and not p.grad.any() for p in method.parameters())


@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
def test_exemplars_are_the_rows_of_the_smallest_hashes(
    monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr(exemplar, "_CHUNK_ROWS", chunk)
    assert build(100).exemplar.tolist() == smallest_hashes(range(100), 11)
    assert build(100, seed=3).exemplar.tolist() == smallest_hashes(range(100), 11, seed=3)


def test_a_small_corpus_is_all_exemplars_and_new_rows_take_the_classes_left() -> None:
    method = build(6)
    assert method.exemplar.tolist() == [*range(6), *[NO_ROW] * 5]
    method.expect_rows(6)
    assert method.exemplar.tolist() == [*range(6), *[NO_ROW] * 5]
    method.expect_rows(40)
    full = [*range(6), *smallest_hashes(range(6, 40), 5)]
    assert method.exemplar.tolist() == full == sorted(full)
    method.expect_rows(90)
    assert method.exemplar.tolist() == full


def test_a_resumed_run_keeps_its_exemplars_when_the_manifest_has_grown() -> None:
    method, resumed = build(30), build(0, seed=1)
    resumed.load_state_dict(method.state_dict())
    resumed.expect_rows(500)
    assert torch.equal(resumed.exemplar, method.exemplar) and int(resumed.num_rows) == 500
    batch = make_batch("exemplar")
    assert resumed(batch)["loss"].item() == method(batch)["loss"].item()
