"""Defaults of an adaptation that trains, where they depend on what is trained."""

from typing import Any

import pytest

from jobs.adapt import complete


@pytest.mark.parametrize(
    ("given", "lr"),
    [
        ({"probe": {"name": "segment"}}, 0.05),
        ({"probe": {"name": "segment", "trained": "head"}, "optim": {"weight_decay": 0}}, 0.05),
        ({"probe": {"name": "segment"}, "optim": {"lr": 0.3}}, 0.3),
        ({"probe": {"name": "segment", "trained": "all"}}, 2e-3),
        ({"probe": {"name": "attentive"}}, 2e-3),
        ({"probe": {"name": "finetune"}}, 1e-2),
    ],
)
def test_where_nothing_is_said_the_rate_suits_what_learns(given: dict[str, Any], lr: float) -> None:
    kind, values = complete({"artifact": "a", "out": "o", **given})
    sets = {f"{split}": {"uri": "u"} for split in ("train", "test")}
    assert kind.model_validate(values | sets).model_dump()["optim"]["lr"] == lr
