"""Super-resolution: its loss by parts, a content network that stays, and what the gain counts
from."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from models import artifact
from models.encoders.factory import EncoderConfig, build_encoder
from models.generative.super_resolution import SuperResolution, SuperResolutionConfig
from models.preprocess import Preprocess
from models.registry import build_method
from tests.small_methods import SIZE, make_batch

VIT = EncoderConfig(name="vit_tiny_small", width=8)
RESNET = EncoderConfig(name="resnet18_small", width=8)


def build(encoder: EncoderConfig = VIT, **settings: Any) -> SuperResolution:
    config = SuperResolutionConfig(
        num_blocks=1, generator_width=8, discriminator_width=4, **settings
    )
    method = build_method(config, encoder, SuperResolution.default_views(SIZE), 0)
    assert isinstance(method, SuperResolution)
    return method


@pytest.fixture
def content(tmp_path: Path) -> str:
    uri = str(tmp_path / "artifact")
    prepared = Preprocess(image_size=24, mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))
    artifact.save(
        uri,
        build_encoder(RESNET, 24),
        config={"encoder": RESNET.model_dump(mode="json"), "seed": 0},
        preprocess=prepared.model_dump(mode="json"),
        provenance={},
    )
    return uri


def test_loss_is_pixels_and_being_taken_for_real_weighted() -> None:
    method, batch = build(adversarial_weight=0.5, pixel_weight=2.0).eval(), make_batch("mae")
    images = batch["views"]["global_crops"][0]
    blurred = method.enlarged(method.made_small(images))
    painted = method.generator(method.encoder.maps(blurred))
    fooled = functional.softplus(-method.discriminator(painted))
    expected = 2 * functional.mse_loss(painted, images) + 0.5 * fooled.mean()
    torch.testing.assert_close(method(batch)["loss"], expected)


def test_gain_counts_from_the_enlarged_picture_and_one_factor_makes_it_that_small() -> None:
    method, batch = build(factor=4), make_batch("mae")
    assert method.made_small(batch["views"]["global_crops"][0]).shape[2:] == (SIZE // 4, SIZE // 4)
    torch.nn.init.zeros_(method.generator.last.weight)
    true = method.to_rgb(batch["views"]["global_crops"][0])
    enlarged = method.enlarged(method.made_small(batch["views"]["global_crops"][0]))
    mean_colour = method.to_rgb(torch.zeros_like(true))
    errors = [
        (each - true).square().mean((1, 2, 3)) for each in (mean_colour, method.to_rgb(enlarged))
    ]
    gain = -10 * (errors[0] / errors[1]).log10().mean()
    torch.testing.assert_close(method(batch)["psnr_gain"], gain)
    shown = method.show(batch)
    assert list(shown) == ["enlarged"]
    with pytest.raises(ValueError, match=r"method\.factor must divide views\.size=16, got 5"):
        build(factor=5)


def test_detail_that_is_lost_does_not_reach_the_encoder() -> None:
    method, batch = build(), make_batch("mae")
    found = method(batch)
    place = torch.arange(SIZE)
    checkers = ((place.unsqueeze(1) + place) % 2 * 2 - 1).float()  # gone where pixels are averaged
    batch["views"]["global_crops"] += checkers
    worse = method(batch)
    torch.testing.assert_close(worse["embedding"], found["embedding"], atol=0.02, rtol=0)
    assert worse["loss"] > found["loss"] + 0.9


def test_a_content_network_adds_its_distance_stays_as_it_is_and_is_in_the_state(
    content: str,
) -> None:
    batch = make_batch("mae")
    plain, method = build(), build(content=content)
    before = {key: value.clone() for key, value in method.content.state_dict().items()}
    out = method(batch)
    assert out["loss"] > plain(batch)["loss"]
    out["loss"].backward()
    assert all(parameter.grad is None for parameter in method.content.parameters())
    assert method.train().content.training is False
    after = method.state_dict()
    assert all(torch.equal(after[f"content.{key}"], value) for key, value in before.items())
    rgb = torch.rand(2, 3, SIZE, SIZE)
    assert method.content(rgb, rgb).tolist() == [0, 0]
    blurred = method.enlarged(method.made_small(rgb))
    assert (method.content(blurred, rgb) > 0).all()


def test_without_a_content_network_its_weight_has_no_effect_and_that_is_said() -> None:
    assert SuperResolutionConfig().idle() == {"content_weight": "content"}
    assert SuperResolutionConfig(content="a").idle() == {}
