"""CMC: each sensor finds the other's embedding of its own sample; halves or second images."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from augment.lab import lab_to_rgb, rgb_to_lab
from models.encoders.factory import EncoderConfig
from models.method import Batch
from models.multimodal.cmc import CMC, CMCConfig
from models.registry import build_method
from tests.small_methods import SIZE, make_batch

SPLIT = EncoderConfig(name="resnet18_small", width=8, norm="layer", split="lab")
PLAIN = EncoderConfig(name="resnet18_small", width=8, norm="layer")


def build(encoder: EncoderConfig = SPLIT, temperature: float = 0.2) -> CMC:
    config = CMCConfig(projection_dim=16, temperature=temperature)
    method = build_method(config, encoder, CMC.default_views(SIZE), 0)
    assert isinstance(method, CMC)
    return method


def paired(second: Tensor | None = None) -> Batch:
    """A batch whose second images are the first in other colours, or these (B, 3, S, S)."""
    batch = make_batch("cmc")
    images = build().to_rgb(batch["views"]["global_crops"][0])
    other = (images.flip(1) if second is None else second).mul(255).round().to(torch.uint8)
    batch["targets"] = {"pair": other.unsqueeze(1)}
    return batch


def by_a_loop(first: Tensor, second: Tensor, valid: list[bool], temperature: float) -> float:
    """Cross entropy of each sample among the valid ones, both ways, one by one."""
    samples = [i for i, ok in enumerate(valid) if ok]
    total = 0.0
    for one, other in ((first, second), (second, first)):
        for i in samples:
            alike = [
                functional.cosine_similarity(one[i], other[j], dim=0).item() / temperature
                for j in samples
            ]
            chance = math.exp(alike[samples.index(i)]) / sum(math.exp(value) for value in alike)
            total -= math.log(chance) / (2 * len(samples))
    return total


@pytest.mark.parametrize("encoder", [SPLIT, PLAIN], ids=["halves", "pairs"])
def test_the_loss_is_that_of_a_loop_over_samples(encoder: EncoderConfig) -> None:
    method, batch = build(encoder), paired()
    batch["valid"][[1, 4]] = False
    images = batch["views"]["global_crops"][0]
    if encoder is SPLIT:
        sensed = method.encoder(images).chunk(2, dim=1)
    else:
        mean, std = (torch.tensor(x).view(3, 1, 1) for x in (method.views.mean, method.views.std))
        second = (batch["targets"]["pair"][:, 0] / 255 - mean) / std
        sensed = (method.encoder(images), method.second_encoder(second))
    first, second = (method.projections[i](each) for i, each in enumerate(sensed))
    expected = by_a_loop(first, second, batch["valid"].tolist(), 0.2)
    assert method(batch)["loss"].item() == pytest.approx(expected, rel=1e-4)


def test_where_all_embeddings_are_alike_it_is_the_log_of_their_number() -> None:
    method, batch = build(), paired()
    for projection in method.projections:
        torch.nn.init.zeros_(projection.weight)
    out = method(batch)
    num_samples = len(batch["valid"])
    assert out["loss"].item() == pytest.approx(math.log(num_samples), abs=1e-5)
    assert out["info_nce_bound"].item() == pytest.approx(0, abs=1e-5)


def test_halves_change_places_and_the_loss_stays() -> None:
    method, batch = build(), paired()
    loss = method(batch)["loss"].item()
    first, second = method.projections
    halves = method.encoder
    images = batch["views"]["global_crops"][0]
    before = halves(images).chunk(2, dim=1)

    class Exchanged(torch.nn.Module):
        def forward(self, seen: Tensor) -> Tensor:
            return torch.cat(before[::-1], dim=1)

    exchanged = torch.nn.ModuleList([second, first])
    method.projections = exchanged
    method.encoder.forward = Exchanged().forward  # type: ignore[method-assign]
    assert method(batch)["loss"].item() == pytest.approx(loss, rel=1e-5)


def test_with_second_images_each_network_sees_its_own_and_the_first_ships() -> None:
    method, batch = build(PLAIN), paired()
    encoder, head, _ = method.ships()
    assert encoder is method.encoder and head is None
    before = method(batch)
    torch.testing.assert_close(before["embedding"], encoder(batch["views"]["global_crops"][0]))
    other = method(paired(torch.rand_like(batch["views"]["global_crops"][0])))
    torch.testing.assert_close(other["embedding"], before["embedding"])
    assert other["loss"].item() != pytest.approx(before["loss"].item(), rel=1e-3)


def test_what_the_halves_share_is_learnt_and_tells_samples_apart() -> None:
    method, batch = build(), paired()
    optimizer = torch.optim.AdamW(method.parameters(), lr=3e-3)
    for _ in range(30):
        optimizer.zero_grad()
        out = method(batch)
        out["loss"].backward()
        optimizer.step()
    assert out["contrast_top1"] > 0.9
    # colours of other samples are those of others: nothing is left to find
    images = method.to_rgb(batch["views"]["global_crops"][0])
    lab = rgb_to_lab(images)
    mixed = lab_to_rgb(torch.cat([lab[:, :1], lab[:, 1:].roll(1, 0)], dim=1))
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (method.views.mean, method.views.std))
    batch["views"]["global_crops"] = ((mixed - mean) / std).unsqueeze(0)
    assert method(batch)["contrast_top1"] < 0.5
