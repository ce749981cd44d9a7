"""Least disagreement: each sense is taught the other's class, every class an equal share."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from models.clustering.sinkhorn import sinkhorn
from models.encoders.factory import EncoderConfig
from models.method import Batch
from models.multimodal.disagreement import Disagreement
from models.registry import build_method
from tests.small_methods import SIZE, make_batch

ENCODER = EncoderConfig(name="resnet18_small", width=4, norm="layer")
NUM_SAMPLES = 12


def built(**settings: object) -> Disagreement:
    config = Disagreement.small.model_copy(update=settings)
    method = build_method(config, ENCODER, Disagreement.default_views(SIZE), 0)
    assert isinstance(method, Disagreement)
    return method


def classes(method: Disagreement, batch: Batch) -> tuple[Tensor, Tensor]:
    """How like its codes each frame and each sound is, (B, K) both."""
    frames = method.projection_head(method.encoder(batch["views"]["global_crops"][0]))
    sounds = method.sound_tower(method.heard(batch)[:, 0])
    pairs = ((frames, method.seen_codes), (sounds, method.heard_codes))
    seen, heard = (
        functional.cosine_similarity(x.unsqueeze(1), codes.unsqueeze(0), dim=2).detach()
        for x, codes in pairs
    )
    return seen, heard


def test_the_loss_is_that_of_a_loop_over_samples_taught_by_the_other_sense() -> None:
    method, batch = built(), make_batch("disagreement")
    batch["valid"][[0, 5]] = False
    seen, heard = classes(method, batch)
    samples = [i for i in range(NUM_SAMPLES) if i not in (0, 5)]
    total, right = 0.0, 0
    for told, teaches in ((seen, heard), (heard, seen)):
        weight = torch.ones(len(samples))
        shares = sinkhorn(teaches[samples], weight, epsilon=0.05, iterations=10)
        for i, label in zip(samples, shares.argmax(1).tolist(), strict=True):
            scores = [math.exp(float(value)) for value in told[i]]
            total -= math.log(scores[label] / sum(scores)) / (2 * len(samples))
            right += scores[label] == max(scores)
    out = method(batch)
    assert out["loss"].item() == pytest.approx(total, rel=1e-3)
    assert out["taught_top1"].item() == pytest.approx(right / (2 * len(samples)))
    same = [float(seen[i].argmax() == heard[i].argmax()) for i in samples]
    assert out["agreement"].item() == pytest.approx(sum(same) / len(same))


def test_where_every_class_is_alike_the_loss_is_the_logarithm_of_their_number() -> None:
    method = built()
    for codes in (method.seen_codes, method.heard_codes):
        codes.data[:] = codes.data[:1].clone()
    found = method(make_batch("disagreement"))
    assert found["loss"].item() == pytest.approx(math.log(3), abs=1e-5)
    assert found["class_entropy"].item() == pytest.approx(math.log(3), abs=1e-5)


def test_the_order_of_samples_and_of_classes_does_not_matter() -> None:
    method, batch, turned = built(), make_batch("disagreement"), make_batch("disagreement")
    expected = method(batch)
    turned["views"] = {name: views.flip(1) for name, views in turned["views"].items()}
    turned["targets"] = {name: values.flip(0) for name, values in turned["targets"].items()}
    torch.testing.assert_close(method(turned)["loss"], expected["loss"])
    for codes in (method.seen_codes, method.heard_codes):
        codes.data[:] = codes.data[[2, 0, 1]].clone()
    torch.testing.assert_close(method(batch)["loss"], expected["loss"])


def kinds() -> tuple[Batch, Tensor]:
    """Frames and sounds of three kinds: a colour goes with a pitch; and the kinds, (B,)."""
    kind = torch.arange(NUM_SAMPLES) % 3
    batch = make_batch("disagreement")
    draws = torch.Generator().manual_seed(0)
    frames = torch.eye(3)[kind][:, :, None, None].repeat(1, 1, SIZE, SIZE) * 2
    frames = frames + torch.randn(frames.shape, generator=draws) * 0.3
    seconds = torch.arange(2_000) / 8_000
    pitch = torch.tensor([300.0, 900.0, 2_700.0])[kind].unsqueeze(1)
    sounds = (2 * math.pi * pitch * seconds).sin() + torch.randn(12, 2_000, generator=draws) * 0.1
    batch["views"] = {"global_crops": frames.unsqueeze(0)}
    batch["targets"] = {"sound": (sounds * 9_000).to(torch.int16).unsqueeze(1)}
    return batch, kind


def learnt(*, balanced: bool) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
    """The classes that frames and sounds are given in the end, the kinds, and what was logged."""
    method = built(temperature=0.1)
    if not balanced:
        method._class = lambda scores, valid: scores.argmax(1)  # type: ignore[method-assign]
    for codes in (method.seen_codes, method.heard_codes):  # one class is preferred to begin with
        codes.data[:] = functional.normalize(codes.data[:1] + 0.3 * codes.data, dim=1)
    optimizer = torch.optim.AdamW(method.parameters(), lr=3e-3)
    batch, kind = kinds()
    for _ in range(60):
        optimizer.zero_grad()
        out = method(batch)
        out["loss"].backward()
        optimizer.step()
    seen, heard = classes(method, batch)
    return seen.argmax(1), heard.argmax(1), kind, out


def test_equal_shares_alone_keep_all_from_saying_one_class() -> None:
    seen, heard, kind, out = learnt(balanced=True)
    assert torch.equal(seen, heard) and out["agreement"] == 1
    assert len({(int(k), int(c)) for k, c in zip(kind, seen, strict=True)}) == 3
    assert len(seen.unique()) == 3 and out["class_entropy"] > 0.9 * math.log(3)
    seen, heard, kind, out = learnt(balanced=False)
    assert out["agreement"] == 1 and len(seen.unique()) == 1
