"""CLIP and SigLIP: images find their captions; losses as written out by a loop."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from models.encoders.factory import EncoderConfig
from models.multimodal.clip import CLIP
from models.multimodal.siglip import SigLIP, pairwise_logistic
from models.multimodal.text_encoder import END, PAD, START, TextEncoder, TextEncoderConfig
from models.registry import METHODS, build_method
from tests.small_methods import SIZE, make_batch

ENCODER = EncoderConfig(name="resnet18_small", width=8)


def clip() -> CLIP:
    method = build_method(CLIP.small, ENCODER, CLIP.default_views(SIZE), 0)
    assert isinstance(method, CLIP)
    return method


def similarities(images: Tensor, texts: Tensor) -> list[list[float]]:
    return [
        [functional.cosine_similarity(image, text, dim=0).item() for text in texts]
        for image in images
    ]


def test_clips_loss_is_that_of_a_loop_over_pairs() -> None:
    method, batch = clip(), make_batch("clip")
    batch["valid"][[0, 5]] = False
    _, images, texts = method.compared(batch)
    alike = similarities(images, texts)
    samples = [i for i, ok in enumerate(batch["valid"].tolist()) if ok]
    total = 0.0
    for i in samples:
        for row in ([alike[i][j] for j in samples], [alike[j][i] for j in samples]):
            scaled = [math.exp(value / 0.07) for value in row]
            total -= math.log(scaled[samples.index(i)] / sum(scaled)) / (2 * len(samples))
    assert method(batch)["loss"].item() == pytest.approx(total, rel=1e-4)


def test_clip_at_chance_is_the_log_of_the_number_of_samples() -> None:
    method, batch = clip(), make_batch("clip")
    torch.nn.init.zeros_(method.text_projection.weight)
    out = method(batch)
    assert out["loss"].item() == pytest.approx(math.log(len(batch["valid"])), abs=1e-5)
    assert out["info_nce_bound"].item() == pytest.approx(0, abs=1e-5)


def test_clips_temperature_never_falls_below_a_hundredth() -> None:
    method = clip()
    with torch.no_grad():
        method.log_scale.fill_(10)
    method.after_step(1, 2)
    assert method(make_batch("clip"))["temperature"].item() == pytest.approx(0.01)


def test_siglips_loss_is_that_of_a_loop_over_pairs() -> None:
    torch.manual_seed(0)
    images, texts = torch.randn(5, 8), torch.randn(5, 8)
    valid = torch.tensor([True, True, False, True, True])
    scale, bias = torch.tensor(7.0), torch.tensor(-3.0)
    alike = similarities(images, texts)
    total = 0.0
    for i in (0, 1, 3, 4):
        for j in (0, 1, 3, 4):
            logit = 7.0 * alike[i][j] - 3.0
            total += math.log1p(math.exp(-logit if i == j else logit)) / 4
    found = pairwise_logistic(images, texts, scale, bias, valid)
    assert found.item() == pytest.approx(total, rel=1e-5)
    # images and captions change places
    assert pairwise_logistic(texts, images, scale, bias, valid).item() == pytest.approx(total)


def test_siglip_where_nothing_is_alike_is_decided_by_the_bias() -> None:
    basis = torch.eye(8)
    found = pairwise_logistic(
        basis[:4], basis[4:], torch.tensor(10.0), torch.tensor(-10.0), torch.ones(4).bool()
    )
    expected = math.log1p(math.exp(10)) + 3 * math.log1p(math.exp(-10))
    assert found.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("kind", [CLIP, SigLIP])
def test_images_find_their_captions_once_they_have_learnt(kind: type[CLIP | SigLIP]) -> None:
    method = build_method(kind.small, ENCODER, kind.default_views(SIZE), 0)
    batch = make_batch(kind.small.name)
    optimizer = torch.optim.AdamW(method.parameters(), lr=5e-3)
    before = method(batch)["caption_top1"]
    for _ in range(60):
        optimizer.zero_grad()
        out = method(batch)
        out["loss"].backward()
        optimizer.step()
    assert before < 0.5 < 0.9 < out["caption_top1"]


def test_what_stands_behind_the_end_changes_nothing_and_what_stands_before_does() -> None:
    torch.manual_seed(0)
    encoder = TextEncoder(TextEncoderConfig(width=16, depth=2, num_heads=2), 40, 8)
    text = torch.tensor([[START, 7, 8, END, PAD, PAD, PAD, PAD]])
    behind = torch.tensor([[START, 7, 8, END, 9, 9, END, 9]])
    other = torch.tensor([[START, 9, 8, END, PAD, PAD, PAD, PAD]])
    turned = torch.tensor([[START, 8, 7, END, PAD, PAD, PAD, PAD]])
    told = encoder(text)
    torch.testing.assert_close(encoder(behind), told)
    for changed in (other, turned):
        assert (encoder(changed) - told).abs().max() > 0.01


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    config = METHODS["clip"].small.model_copy(
        update={"text": TextEncoderConfig(width=10, num_heads=4, depth=1)}
    )
    with pytest.raises(ValueError, match=r"method.text.num_heads 4 does not divide .* 10"):
        build_method(config, ENCODER, CLIP.default_views(SIZE), 0)
