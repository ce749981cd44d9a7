"""SimCLR: what goes into its loss and what it reports."""

import math
from typing import get_args

import pytest
import skimage.data
import torch
from torch import Tensor

from augment.presets import simclr_views
from models.contrastive.simclr import SimCLR, SimCLRConfig
from models.encoders.factory import EncoderConfig
from models.losses import nt_xent
from models.method import Batch
from models.registry import build_method

SIZE = 16


def build(**settings: float | str) -> SimCLR:
    config = SimCLRConfig(hidden_dim=32, projection_dim=16, **settings)  # type: ignore[arg-type]
    method = build_method(
        config, EncoderConfig(name="resnet18_small", width=8), simclr_views(SIZE), 0
    )
    assert isinstance(method, SimCLR)
    return method


def tiles(count: int) -> Tensor:
    """Disjoint tiles of a photograph, roughly normalised, (B, 3, 16, 16)."""
    image = torch.from_numpy(skimage.data.coffee()).permute(2, 0, 1).float() / 255 - 0.5
    cut = image.unfold(1, SIZE, SIZE).unfold(2, SIZE, SIZE).permute(1, 2, 0, 3, 4).flatten(0, 1) * 4
    return cut[:: len(cut) // count][:count].contiguous()


def make_batch(views: Tensor) -> Batch:
    num_samples = views.shape[1]
    return Batch(
        views={"global_crops": views},
        sample_id=torch.arange(num_samples),
        row=torch.arange(num_samples),
        epoch=torch.zeros(num_samples, dtype=torch.int64),
        valid=torch.ones(num_samples, dtype=torch.bool),
    )


def test_loss_is_nt_xent_of_both_views_encoded_in_one_batch() -> None:
    method = build(temperature=0.3)
    views = torch.stack([tiles(8), tiles(8).flip(-1)])
    seen: list[int] = []
    method.encoder.register_forward_hook(
        lambda module, inputs, output: seen.append(inputs[0].shape[0])
    )
    loss = method(make_batch(views))["loss"]
    assert seen == [16]
    z = method.projection_head(method.encoder(views.flatten(0, 1))).view(2, 8, 16)
    torch.testing.assert_close(loss, nt_xent(z, temperature=0.3))


@pytest.mark.parametrize("loss", get_args(SimCLRConfig.model_fields["loss"].annotation))
def test_every_loss_trains_in_nt_xents_place(loss: str) -> None:
    method = build(loss=loss, temperature=6.0 if loss == "soft_nearest_neighbour" else 0.2)
    batch = make_batch(torch.stack([tiles(8), tiles(8).flip(-1)]))
    optimizer = torch.optim.AdamW(method.parameters(), lr=3e-3)
    losses = []
    for _ in range(8):
        value = method(batch)["loss"]
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(value.item())
    assert 0 <= losses[-1] < 0.7 * losses[0], losses


def test_a_margin_reaches_the_loss() -> None:
    batch = make_batch(torch.stack([tiles(8), tiles(8).flip(-1)]))
    near, far = (
        build(loss="contrastive", margin=margin)(batch)["loss"].item() for margin in (0.5, 1.8)
    )
    assert near < far


def test_equal_views_are_each_others_nearest() -> None:
    out = build()(make_batch(tiles(8).expand(2, -1, -1, -1, -1)))
    assert out["contrast_top1"].item() == 1.0
    assert out["loss"].item() < math.log(15)


def test_views_of_other_images_are_not_matched() -> None:
    images = tiles(8)
    # each view's twin belongs to another sample
    out = build()(make_batch(torch.stack([images, images.roll(1, dims=0)])))
    assert out["contrast_top1"].item() == 0.0
    assert out["loss"].item() > math.log(15)


def test_invalid_samples_are_neither_anchors_nor_candidates() -> None:
    images = tiles(8)
    twin = images.clone()
    # the bad half's second views are the good half's twins: they would draw every match away
    twin[4:] = images[:4]
    views = torch.stack([images, twin])
    views[1, :4] = images[:4]
    batch = make_batch(views)
    batch["valid"][4:] = False
    assert build()(batch)["contrast_top1"].item() == 1.0


def test_embedding_is_the_encoders_and_not_the_heads() -> None:
    method = build()
    views = torch.stack([tiles(8), tiles(8).flip(-1)])
    out = method(make_batch(views))
    torch.testing.assert_close(out["embedding"], method.encoder(views.flatten(0, 1))[:8].detach())


def test_projection_head_is_two_layers_with_batch_norm() -> None:
    kinds = [type(layer).__name__ for layer in build().projection_head]
    assert kinds == ["Linear", "BatchNorm1d", "ReLU", "Linear", "BatchNorm1d"]


def test_the_n_pair_loss_alone_chooses_the_lengths_of_embeddings() -> None:
    for loss in get_args(SimCLRConfig.model_fields["loss"].annotation):
        method = build(loss=loss)
        head, x = method.projection_head, torch.randn(64, method.encoder.embed_dim)
        before = head(x).norm()
        with torch.no_grad():
            [layer for layer in head if isinstance(layer, torch.nn.Linear)][-1].weight.mul_(3)
        assert (head(x).norm() > 2 * before) == (loss == "n_pairs"), loss


def test_loss_is_float32_under_autocast() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = build()(make_batch(torch.stack([tiles(4), tiles(4).flip(-1)])))["loss"]
    assert loss.dtype == torch.float32 and torch.isfinite(loss)


def test_negatives_would_be_lost_by_accumulation_so_it_is_refused() -> None:
    assert SimCLR.accumulates is False


def test_temperature_must_be_positive() -> None:
    with pytest.raises(ValueError, match="temperature"):
        SimCLRConfig(temperature=0.0)
