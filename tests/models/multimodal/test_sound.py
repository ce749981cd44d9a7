"""Predicting sound: clusters are those of k-means, a frame's cluster is that of its own sound."""

import math

import pytest
import torch
from torch.nn import functional

from augment.sound.sound_texture import GROUPS, texture
from models.clustering.k_means import k_means
from models.encoders.factory import EncoderConfig
from models.method import Batch
from models.multimodal.sound import Sound, SoundConfig
from models.registry import build_method
from tests.small_methods import SIZE, make_batch, rows_of

ENCODER = EncoderConfig(name="resnet18_small", width=8)


def built(**settings: object) -> Sound:
    config = Sound.small.model_copy(update=settings)
    method = build_method(config, ENCODER, Sound.default_views(SIZE), 0)
    assert isinstance(method, Sound)
    return method


def clustered() -> Sound:
    method = built(first_rows=12)
    method(make_batch("sound"))
    method.after_step(1, 10)
    return method


def statistics(batch: Batch) -> torch.Tensor:
    return texture(batch["targets"]["sound"][:, 0].float() / 32_768, 8_000)


def test_clusters_are_those_of_k_means_of_statistics_whose_kinds_weigh_alike() -> None:
    method = clustered()
    found = statistics(make_batch("sound")).half().float()
    weight = torch.cat([torch.full((count,), count**-0.5) for count in GROUPS])
    deviation = found.std(0, correction=0)
    varies = deviation > 1e-6
    points = torch.zeros_like(found)
    points[:, varies] = ((found - found.mean(0)) / deviation * weight)[:, varies]
    centroids, label = k_means(points, 3, iterations=50, seed=0)
    torch.testing.assert_close(method.centroids, centroids, rtol=1e-3, atol=1e-4)
    assert torch.equal(method.shares, torch.bincount(label, minlength=3) / 12)
    assert torch.equal(method._label(statistics(make_batch("sound"))), label)


def test_the_loss_is_the_cross_entropy_of_each_valid_samples_own_cluster() -> None:
    method = clustered().eval()
    batch = make_batch("sound")
    batch["valid"][[0, 5]] = False
    label = method._label(statistics(batch))
    logits = method.classifier(method.encoder(batch["views"]["global_crops"][0]))
    losses = [
        functional.cross_entropy(logits[i], label[i]).item() for i in range(12) if i not in (0, 5)
    ]
    out = method(batch)
    assert out["loss"].item() == pytest.approx(sum(losses) / 10, rel=1e-4)
    assert out["largest_cluster"].item() == pytest.approx(method.shares.max().item())


def test_at_chance_the_loss_is_the_logarithm_of_the_clusters() -> None:
    method = clustered()
    torch.nn.init.zeros_(method.classifier.weight)
    torch.nn.init.zeros_(method.classifier.bias)
    assert method(make_batch("sound"))["loss"].item() == pytest.approx(math.log(3), abs=1e-6)


def test_nothing_is_learnt_before_there_are_enough_sounds_or_a_second_epoch() -> None:
    method = built(first_rows=100)
    half = rows_of(make_batch("sound"), slice(6))
    half["valid"][0] = False  # not kept
    assert method(half)["loss"].item() == 0
    method.after_step(1, 10)
    assert int(method.num_kept) == 5 and not method.shares.any()
    method(rows_of(make_batch("sound", epoch=1), slice(6, 12)))
    method.after_step(2, 10)
    assert int(method.num_kept) == 11 and method.shares.sum().item() == pytest.approx(1)


def test_clusters_stay_as_they_are_once_they_are_found() -> None:
    method = clustered()
    before = {name: buffer.clone() for name, buffer in method.named_buffers()}
    method(make_batch("sound", epoch=1))
    method.after_step(2, 10)
    for name in ("kept", "num_kept", "mean", "scale", "centroids", "shares"):
        assert torch.equal(before[name], dict(method.named_buffers())[name]), name


def test_micro_batches_are_kept_one_after_the_other() -> None:
    method, parts = built(first_rows=12), make_batch("sound")
    for rows in (slice(6), slice(6, 12)):
        method(rows_of(parts, rows))
    method.after_step(1, 10)
    torch.testing.assert_close(method.kept, clustered().kept)


def test_fewer_sounds_or_samples_than_clusters_are_refused() -> None:
    with pytest.raises(ValueError, match=r"method\.first_rows=2 must be at least .*clusters=3"):
        built(first_rows=2)
    with pytest.raises(ValueError, match=r"num_clusters must be at most the 20 samples, got 30"):
        SoundConfig().check_rows(20)


def test_what_is_drawn_is_in_range() -> None:
    for method, names in ((built(), {"heard"}), (clustered(), {"heard", "cluster"})):
        shown = method.show(make_batch("sound"))
        assert shown.keys() == names
        for pictures in shown.values():
            assert pictures.shape == (12, 3, 112, 112)
            assert pictures.min() >= 0 and pictures.max() <= 1
