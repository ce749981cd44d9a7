"""CLIP and SigLIP: images find their captions; losses as written out by a loop."""

import copy
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from augment.texts.special_tokens import END, PAD, START
from models import artifact
from models.encoders.factory import EncoderConfig
from models.multimodal.clip import CLIP
from models.multimodal.siglip import SigLIP, pairwise_logistic
from models.multimodal.text_encoder import TextEncoder, TextEncoderConfig
from models.preprocess import Preprocess
from models.registry import METHODS, build_method
from models.texts.tokenizer import encode, learn
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
    torch.nn.init.zeros_(method.text_tower.text_projection.weight)
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


def test_the_text_tower_ships_and_is_the_one_that_was_trained(tmp_path: Path) -> None:
    method = build_method(SigLIP.small, ENCODER, SigLIP.default_views(SIZE), 3)
    assert isinstance(method, SigLIP)
    batch = make_batch("siglip")
    optimizer = torch.optim.AdamW(method.parameters(), lr=5e-3)
    method(batch)["loss"].backward()
    optimizer.step()
    method.eval()
    shipped = method.ships()
    assert shipped.text is not None
    texts = ["a dog runs", "two cats sleep", ""]
    shipped.text.tokenizer = learn(texts * 3, 300)
    place = str(tmp_path)
    views = method.views
    artifact.save(
        place,
        shipped.encoder,
        config={"encoder": ENCODER.model_dump(), "seed": 3},
        preprocess={"image_size": SIZE, "mean": views.mean, "std": views.std},
        provenance={},
        text=shipped.text,
    )
    assert {path.name for path in tmp_path.iterdir()} < set(artifact.FILES)
    loaded = artifact.load(place)
    images = batch["views"]["global_crops"][0]
    alike = loaded.joint(images) @ loaded.embed_texts(texts).T
    tokens = torch.from_numpy(encode(shipped.text.tokenizer, texts, 8))
    with torch.no_grad():
        expected = torch.cosine_similarity(
            method.project(method.encoder(images))[:, None], method.text_tower(tokens)[None], dim=2
        )
    torch.testing.assert_close(alike, expected)
    logits = loaded.require_text().logits(loaded.joint(images), loaded.embed_texts(texts))
    bias = method.text_tower.bias
    torch.testing.assert_close(logits, expected * method.log_scale.exp() + bias)
    # before training
    fresh = build_method(SigLIP.small, ENCODER, SigLIP.default_views(SIZE), 3)
    untrained = artifact.untrained(place).require_text().state_dict()
    assert isinstance(fresh, SigLIP)
    for key, value in fresh.text_tower.state_dict().items():
        assert torch.equal(untrained[key], value), key
    assert artifact.untrained(place).embed_texts(texts).shape == (3, 16)


def test_an_artifact_without_a_text_tower_says_how_to_get_one() -> None:
    method = build_method(CLIP.small, ENCODER, CLIP.default_views(SIZE), 0)
    plain = artifact.Artifact(
        method.encoder,
        digest="",
        config={},
        preprocess=Preprocess(image_size=SIZE, mean=(0, 0, 0), std=(1, 1, 1)),
        provenance={},
    )
    with pytest.raises(ValueError, match=r"no text tower: .* source.captions"):
        plain.embed_texts(["a dog"])


@pytest.mark.parametrize("name", ["text.safetensors", "tokenizer.json"])
def test_a_text_tower_of_another_artifact_is_refused(tmp_path: Path, name: str) -> None:
    method = build_method(CLIP.small, ENCODER, CLIP.default_views(SIZE), 0)
    tower = method.ships().text
    assert tower is not None
    tower.tokenizer = learn(["a dog"], 300)
    artifact.save(
        str(tmp_path),
        method.encoder,
        config={"encoder": ENCODER.model_dump(), "seed": 0},
        preprocess={"image_size": SIZE, "mean": (0, 0, 0), "std": (1, 1, 1)},
        provenance={},
        text=tower,
    )
    damaged = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(damaged[:-1] + b" ")
    with pytest.raises(ValueError, match="do not match"):
        artifact.load(str(tmp_path))


def test_what_is_shown_is_darkest_where_image_and_caption_are_most_alike() -> None:
    method, batch = clip().eval(), make_batch("clip")
    (drawn,) = method.show(batch).values()
    views = batch["views"]["global_crops"][0]
    assert drawn.shape == views.shape and drawn.min() >= 0 and drawn.max() <= 1
    _, images, texts = method.compared(batch)
    alike = functional.normalize(images, dim=1) @ functional.normalize(texts, dim=1).T
    middle = drawn[:, 0, SIZE // 2]  # (B, W)
    column = torch.arange(SIZE) * len(views) // SIZE
    image, place = divmod(int(middle.argmin()), SIZE)
    assert alike[image, column[place]] == alike.max()
    assert (drawn[3, 0, 0, column == 3] > drawn[3, 1, 0, column == 3]).all()  # red
    del batch["targets"]
    assert method.show(batch) == {}


@pytest.mark.parametrize("kind", [CLIP, SigLIP])
def test_a_frozen_encoder_stays_to_the_bit_while_captions_learn_to_be_read(
    kind: type[CLIP | SigLIP],
) -> None:
    config = kind.small.model_copy(update={"freeze_encoder": True})
    method = build_method(config, ENCODER, kind.default_views(SIZE), 0).train()
    batch = make_batch(config.name)
    before = copy.deepcopy(method.encoder.state_dict())
    trained = [parameter for parameter in method.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=5e-3)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        out = method(batch)
        out["loss"].backward()
        assert all(parameter.grad is not None for parameter in trained)
        optimizer.step()
        losses.append(out["loss"].item())
    assert losses[-1] < 0.9 * losses[0]
    for key, value in method.encoder.state_dict().items():  # statistics of batch norm too
        assert torch.equal(value, before[key]), key
    names = [p for group in method.param_groups() for p in group["params"]]
    assert len(names) == len(trained)
