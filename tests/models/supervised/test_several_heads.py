"""Heads side by side learn each as if it were alone."""

import pytest
import torch

from models.optim import OptimConfig
from models.registry import build_method
from models.steps.optimizers import Optimizers
from models.supervised.finetune import FinetuneConfig
from models.supervised.head import HeadConfig, HeadCopies
from models.supervised.several_heads import HeadSetting, SeveralHeadsConfig
from models.supervised.supervised import Supervised
from tests.models.supervised.test_supervised import VIT, batch_of, brightness

SIZE = 32
STEPS = 5
ALONE = HeadConfig(name="attentive", classes=("dark", "bright"))
SETTINGS = (
    HeadSetting(lr_scale=0.3, weight_decay=0.0),
    HeadSetting(lr_scale=3.0, weight_decay=0.5),
)
SEVERAL = SeveralHeadsConfig(head=ALONE.model_copy(update={"copies": 2}), settings=SETTINGS)


def learnt(config: FinetuneConfig | SeveralHeadsConfig, optim: OptimConfig) -> Supervised:
    method = build_method(config, VIT, Supervised.default_views(SIZE), 0)
    assert isinstance(method, Supervised)
    optimizers = Optimizers(method, method.param_groups(), optim, 256)
    images, label = brightness()
    for step in range(STEPS):
        optimizers.set_schedule(step, STEPS)
        method(batch_of(images, label=label))["loss"].backward()
        optimizers.step()
    return method


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_a_head_among_several_ends_where_it_ends_alone(name: str) -> None:
    optim = OptimConfig(name=name, lr=0.05, clip_grad_norm=0.1, final_weight_decay=0.2)
    heads = learnt(SEVERAL, optim).head
    assert isinstance(heads, HeadCopies)
    for head, own in zip(heads.heads, SETTINGS, strict=True):
        update = {"lr": 0.05 * own.lr_scale, "weight_decay": own.weight_decay}
        config = FinetuneConfig(head=ALONE, trained="head", label_smoothing=0.0)
        alone = learnt(config, optim.model_copy(update=update)).head
        for key, value in alone.state_dict().items():
            torch.testing.assert_close(head.state_dict()[key], value, msg=key)


def test_every_head_answers_for_itself() -> None:
    method = learnt(SEVERAL, OptimConfig(name="adamw", lr=0.05)).eval()
    images, _ = brightness(4)
    with torch.no_grad():
        scores = method.head.scores(method.encoder, images)
        assert isinstance(method.head, HeadCopies)
        for number, head in enumerate(method.head.heads):
            torch.testing.assert_close(scores[:, :, number], head.scores(method.encoder, images))
    assert (scores[:, :, 0] != scores[:, :, 1]).all()


def test_a_head_by_itself_is_described_as_before_there_were_several() -> None:
    assert "copies" not in ALONE.model_dump(mode="json")
    assert SEVERAL.head.model_dump(mode="json")["copies"] == 2
    with pytest.raises(ValueError, match="number of settings, 2, got 1"):
        SeveralHeadsConfig(head=ALONE, settings=SETTINGS)
