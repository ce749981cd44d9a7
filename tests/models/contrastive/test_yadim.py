"""YADIM: only the last map, of any convolutional encoder, under the changes of CPC and AMDIM
together."""

import math

import pytest
import torch
from torch import nn

from augment.rng import uniform
from models.contrastive.amdim import AMDIM
from models.contrastive.cpc_v2 import CPCv2
from models.contrastive.yadim import YADIM, YADIMConfig
from models.encoders.factory import EncoderConfig
from models.registry import build_method
from tests.small_methods import ENCODERS, NUM_SAMPLES, SIZE, make_batch

PLACES = (SIZE // 8) ** 2


def build(encoder: EncoderConfig = ENCODERS[0], size: int = SIZE, **settings: float) -> YADIM:
    config = YADIMConfig(**{"score_dim": 16} | settings)  # type: ignore[arg-type]
    method = build_method(config, encoder, YADIM.default_views(size), 0)
    assert isinstance(method, YADIM)
    return method


def test_loss_is_each_place_of_the_other_last_map_from_one_drawn_place_by_a_loop() -> None:
    method, batch = build(cost=0.1, clip=5.0), make_batch("yadim")
    batch["valid"][4] = False
    features = method.encoder.maps(batch["views"]["global_crops"].flatten(0, 1))
    places = method.head(features).unflatten(0, (2, -1)).detach()
    total = []
    for view in (0, 1):
        u = uniform(
            1, seed=0, epoch=batch["epoch"], sample_id=batch["sample_id"], view=view, op="place"
        )
        for i in batch["valid"].nonzero().flatten().tolist():
            # (B, L)
            scores = places[1 - view] @ places[view, i, int(u[i] * PLACES)] / math.sqrt(16)
            others = batch["valid"].clone()
            cost = scores[others].square().mean().item()
            others[i] = False
            rest = (5 * (scores[others] / 5).tanh()).flatten()
            found = 5 * (scores[i] / 5).tanh()
            total += [
                float(torch.cat([rest, own[None]]).logsumexp(0) - own) + 0.1 * cost for own in found
            ]
    assert method(batch)["loss"].item() == pytest.approx(sum(total) / len(total), rel=1e-4)


def test_knowing_nothing_costs_the_log_of_the_candidates() -> None:
    method = build()
    for parameter in method.head.parameters():
        nn.init.zeros_(parameter)
    expected = math.log(1 + (NUM_SAMPLES - 1) * PLACES)
    assert method(make_batch("yadim"))["loss"].item() == pytest.approx(expected, rel=1e-5)


def test_embedding_is_the_mean_of_the_last_map() -> None:
    method, batch = build(), make_batch("yadim")
    both = method.encoder(batch["views"]["global_crops"].flatten(0, 1))
    torch.testing.assert_close(method(batch)["embedding"], both[:NUM_SAMPLES].detach())


def test_views_undergo_what_cpc_v2_and_amdim_change() -> None:
    changes = set(YADIM.default_views(SIZE).groups["global_crops"].changes())
    # those of patches
    of_cpc = set(CPCv2.default_views(SIZE).groups["global_crops"].changes()) | {
        "channel_drop",
        "affine",
    }
    assert changes == of_cpc | set(AMDIM.default_views(SIZE).groups["global_crops"].changes())


@pytest.mark.parametrize(
    ("name", "embed_dim"),
    [("resnet10t", 512), ("torchvision:resnet18", 512), ("vit_tiny_patch16_224", 192)],
)
def test_any_encoder_that_embeds_by_its_map_is_taken_as_it_is(name: str, embed_dim: int) -> None:
    method = build(EncoderConfig(name=name), 64)
    images = torch.randn(2, 2, 3, 64, 64)
    batch = make_batch("yadim")
    small = {key: value[:2] for key, value in batch.items() if key != "views"}
    out = method({"views": {"global_crops": images}, **small})  # type: ignore[typeddict-item]
    assert out["embedding"].shape == (2, embed_dim) and out["loss"].isfinite()
    out["loss"].backward()
    assert all(p.grad is not None for p in method.parameters() if p.requires_grad)


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("convnext_atto", r"embeds by more than its feature maps.*set encoder\.pooling=mean"),
        ("amdim", r"embeds by more than its feature maps.*take resnet18_small"),
        ("torchvision:densenet121", "gives no feature maps"),
    ],
)
def test_an_encoder_of_which_the_maps_would_train_only_a_part_is_refused(
    name: str, remedy: str
) -> None:
    with pytest.raises(ValueError, match=rf"encoder\.name={name} {remedy}"):
        build(EncoderConfig(name=name), 32)


def test_with_a_pooling_over_the_map_the_rest_of_a_network_stands_by_frozen() -> None:
    encoder = build(EncoderConfig(name="convnext_atto", pooling="mean"), 64).encoder
    frozen = {name for name, p in encoder.named_parameters() if not p.requires_grad}
    assert frozen == {"network.head.norm.weight", "network.head.norm.bias"}
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(encoder(images), encoder.maps(images).mean(dim=(2, 3)))
