"""CAPI: its two losses and what each trains, the balance at each place, and the asked patches."""

import math

import pytest
import torch
from torch.nn import functional

from models.encoders.factory import EncoderConfig
from models.masked.capi import CAPI, CAPIConfig
from models.registry import build_method
from tests.models.masked.photograph import make_batch, tiles

VIT = EncoderConfig(name="vit_tiny_small", width=8)


def build(**settings: object) -> CAPI:
    sizes = {"num_clusters": 8, "asked_fraction": 0.3, "predictor_depth": 1, "predictor_heads": 2}
    config = CAPIConfig(**{**sizes, **settings})  # type: ignore[arg-type]
    method = build_method(config, VIT, CAPI.default_views(32), 0)
    assert isinstance(method, CAPI)
    return method


def test_losses_equal_a_naive_loop() -> None:
    method = build()
    batch = make_batch(tiles(4))
    images = batch["views"]["global_crops"][0]
    patches = functional.normalize(method.encoder.tokens(images).patches, dim=-1)
    scores = patches @ method.clusters.weight.T + method.clusters.bias
    shares = torch.empty_like(scores)
    for place in range(64):
        mine = (scores[:, place] / 0.06).exp()
        for _ in range(3):
            mine = mine / mine.sum(0)
            mine = mine / mine.sum(1, keepdim=True)
        shares[:, place] = mine
    expected = -(shares.detach() * (scores / 0.12).log_softmax(-1)).sum(-1).mean()
    mask, asked = method._draw(batch)
    assert asked.shape == (4, 19) and mask.gather(1, asked).all()
    answers = method._predict(images, mask, asked)
    errors = []
    for sample in range(4):
        for index, place in enumerate(asked[sample].tolist()):
            log_p = (answers[sample, index] / 0.12).log_softmax(-1)
            errors.append(-(shares[sample, place] * log_p).sum())
    out = method(batch)
    torch.testing.assert_close(out["cluster_loss"], expected.detach(), rtol=1e-4, atol=1e-5)
    told = torch.stack(errors).mean().detach()
    torch.testing.assert_close(out["prediction_loss"], told, rtol=1e-4, atol=1e-5)
    total = out["prediction_loss"] + out["cluster_loss"]
    torch.testing.assert_close(out["loss"].detach(), total)


def test_neither_loss_reaches_what_the_other_trains() -> None:
    method = build()
    method(make_batch(tiles(4)))["loss"].backward()
    ours = {key: p.grad.clone() for key, p in method.named_parameters() if p.grad is not None}
    frozen = build()
    frozen.clusters.requires_grad_(False)
    frozen(make_batch(tiles(4)))["loss"].backward()
    theirs = {key: p.grad for key, p in frozen.named_parameters() if p.grad is not None}
    assert ours.keys() - theirs.keys() == {"clusters.weight", "clusters.bias"}
    assert all(torch.equal(ours[key], gradient) for key, gradient in theirs.items())
    assert not any(p.requires_grad for p in method.encoder.parameters())


def test_a_cluster_cannot_stand_for_a_place_where_places_are_balanced_alone() -> None:
    places = 5 * functional.one_hot(torch.arange(8)).float()
    scores = places.expand(16, -1, -1)  # every image: the cluster of its place, (B, N, K)
    valid = torch.ones(16, dtype=torch.bool)
    assert build()._assign(scores, valid).amax(-1).max().item() == pytest.approx(1 / 8, abs=1e-3)
    over_all = build(each_place=False)._assign(scores, valid)
    assert over_all.diagonal(dim1=1, dim2=2).min() > 0.99


def test_the_clusters_learn_at_a_rate_of_their_own_and_chance_is_log_k() -> None:
    method = build(cluster_lr_scale=0.25)
    (own,) = (group for group in method.param_groups() if group["name"] == "clusters")
    assert own["lr_scale"] == 0.25 and len(own["params"]) == 2
    torch.nn.init.zeros_(method.classify.weight)
    assert method(make_batch(tiles(4)))["prediction_loss"].item() == pytest.approx(math.log(8))


def test_hidden_pixels_do_not_reach_the_answers() -> None:
    method = build()
    batch = make_batch(tiles(3))
    images = batch["views"]["global_crops"][0]
    mask, asked = method._draw(batch)
    pixels = mask.view(3, 1, 8, 8).repeat_interleave(4, 2).repeat_interleave(4, 3)
    changed = torch.where(pixels, torch.randn_like(images), images)
    assert torch.equal(method._predict(changed, mask, asked), method._predict(images, mask, asked))


def test_the_teacher_hardly_moves_at_first() -> None:
    method = build(momentum=0.9, momentum_warmup_fraction=0.5)
    weight = method.student_encoder.vit.norm.weight  # type: ignore[union-attr]
    followed = method.encoder.vit.norm.weight  # type: ignore[union-attr]
    for step, momentum in ((1, 0.99), (5, 0.95), (10, 0.9), (20, 1.0)):
        with torch.no_grad():
            weight.fill_(2.0)
            followed.fill_(1.0)
        method.after_step(step, 20)
        assert followed.mean().item() == pytest.approx(2 - momentum)
