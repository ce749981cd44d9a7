"""A detector learns where things are, and tells it in the pixels of the image that it is given."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from models import artifact
from models.encoders.factory import EncoderConfig
from models.method import Batch
from models.registry import build_method
from models.supervised.detect import Detect, DetectConfig
from models.supervised.head import HeadConfig
from tests.models.supervised.test_supervised import SIZE, VIT, batch_of, step

HEAD = HeadConfig(name="boxes", task="boxes", classes=("dark", "bright"), width=16)


def detect(encoder: EncoderConfig = VIT, **settings: Any) -> Detect:
    made = build_method(DetectConfig(head=HEAD, **settings), encoder, Detect.default_views(SIZE), 0)
    assert isinstance(made, Detect)
    return made


def squares(count: int = 8) -> tuple[Tensor, Tensor]:
    """Grey images with a dark or a bright square of 12 px, and its box."""
    images = torch.zeros(count, 3, SIZE, SIZE)
    boxes = torch.zeros(count, 2, 5)
    boxes[..., 4] = -1
    for index in range(count):
        left = 4 * (index % 5)
        top = 4 * (index // 2 % 5)
        bright = index % 2
        images[index, :, top : top + 12, left : left + 12] = 2.0 * bright - 1
        boxes[index, 0] = torch.tensor([left, top, left + 12, top + 12, bright])
    return images, boxes


def batch(images: Tensor, boxes: Tensor) -> Batch:
    return batch_of(images, boxes=boxes)


@pytest.mark.slow
def test_squares_are_found_and_the_artifact_tells_them_in_the_images_own_pixels(
    tmp_path: Path,
) -> None:
    method = detect(trained="all")
    images, boxes = squares()
    optimiser = torch.optim.AdamW(method.parameters(), 3e-3)
    losses = []
    for _ in range(240):
        optimiser.zero_grad()
        loss = method(batch(images, boxes))["loss"]
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]
    encoder, head, _ = method.eval().ships()
    described = {"encoder": VIT.model_dump(mode="json"), "seed": 0}
    preprocess = {"image_size": SIZE, "mean": (0.5,) * 3, "std": (0.5,) * 3}
    artifact.save(
        str(tmp_path),
        encoder,
        head=head,
        config=described,
        preprocess=preprocess,
        provenance={},
    )
    loaded = artifact.load(str(tmp_path))
    pixels = ((images + 1) * 127.5).round().to(torch.uint8)
    wide = torch.zeros(len(images), 3, 2 * SIZE, 3 * SIZE, dtype=torch.uint8)
    wide[:, :, :, : 2 * SIZE] = pixels.repeat_interleave(2, 2).repeat_interleave(2, 3)
    with torch.inference_mode():
        found = loaded.predict(pixels)
        of_wide = loaded.predict(wide)
    right = 0
    for one, wanted in zip(found, boxes[:, 0], strict=True):
        assert (one.scores[:-1] >= one.scores[1:]).all()
        near = (one.corners[0] - wanted[:4]).abs().max() < 4
        right += bool(near and one.labels[0] == wanted[4])
    assert right >= 6
    for one in of_wide:
        assert (one.corners <= torch.tensor([3 * SIZE, 2 * SIZE, 3 * SIZE, 2 * SIZE])).all()
    with pytest.raises(ValueError, match="uint8"):
        loaded.predict(images)


def test_the_loss_of_an_image_does_not_depend_on_the_others() -> None:
    """So two workers with half of a batch each agree with one."""
    method = detect(trained="head").eval()
    images, boxes = squares()
    boxes[3, 0, 4] = -1  # an image without a box
    whole = method(batch(images, boxes))["loss"]
    halves = [method(batch(images[part], boxes[part]))["loss"] for part in (slice(5), slice(5, 8))]
    torch.testing.assert_close((5 * halves[0] + 3 * halves[1]) / 8, whole)
    invalid = batch(images, boxes)
    invalid["valid"] = torch.arange(8) < 5
    torch.testing.assert_close(method(invalid)["loss"], halves[0])


def test_convolutional_maps_of_odd_sides_have_a_pyramid_too() -> None:
    method = detect(EncoderConfig(name="resnet18_small", width=8))
    images = torch.randn(2, 3, 40, 40)
    outputs = step(method, batch(images, squares(2)[1]))
    assert outputs["loss"].isfinite()
