"""What V-JEPA hides and asks for, and that its guard is needed."""

import pytest
import torch

from augment.masking import MaskKey
from augment.multi_block import MultiBlock, tubes, usual_context
from models.encoders.factory import EncoderConfig
from models.registry import build_method
from models.temporal.vjepa import VJEPA, VJEPAConfig
from tests.small_methods import make_batch, shallow_transformers

TUBELETS = EncoderConfig(name="vit_tiny_small", width=8, time="tubelets")
SHORT = MultiBlock((8, 8), 8, (0.15, 0.15), (0.75, 1.5), (1.0, 1.0))


def build(**settings: object) -> VJEPA:
    small = VJEPA.small.model_dump() | settings
    with shallow_transformers():
        made = build_method(VJEPAConfig.model_validate(small), TUBELETS, VJEPA.default_views(16), 0)
    assert isinstance(made, VJEPA)
    return made


def test_what_is_asked_for_is_hidden_at_every_instant_and_the_context_shows_none_of_it() -> None:
    sample = torch.arange(200)
    num_context = usual_context(SHORT)
    drawn = tubes(SHORT, num_context, 3, MaskKey(0, torch.zeros_like(sample), sample))
    assert drawn.context.shape == (200, 3 * num_context)
    assert drawn.asked.shape == (200, 3 * (64 - num_context))
    for row in range(200):
        seen = set(drawn.context[row].tolist())
        asked = set(drawn.asked[row][drawn.counted[row]].tolist())
        assert not seen & asked
        places = {token % 64 for token in asked}
        assert asked == {place + 64 * time for place in places for time in range(3)}
        assert len(asked) == drawn.counted[row].sum()
        hidden = (~drawn.in_context[row]).sum().item()
        assert len(places) == min(hidden, 64 - num_context)


def test_the_loss_is_that_of_a_plain_loop_over_masks_samples_and_tokens() -> None:
    method, batch = build().eval(), make_batch("vjepa")
    clips = batch["views"]["global_crops"][0]
    with torch.no_grad():
        told = method.encoder.tokens(clips).patches
        wanted = torch.nn.functional.layer_norm(told, told.shape[-1:])
        total = 0.0
        for drawn in method._draw(clips, batch):
            seen = method.student_encoder.tokens(clips, drawn.context).patches
            guess = method.predictor(seen, drawn.context, drawn.asked.unsqueeze(1), times=3)[:, 0]
            for row in range(len(clips)):
                errors = [
                    (guess[row, index] - wanted[row, token]).abs().mean().item()
                    for index, token in enumerate(drawn.asked[row].tolist())
                    if drawn.counted[row, index]
                ]
                total += sum(errors) / len(errors)
        loss = method(batch)["loss"].item()
    assert abs(loss - total / (2 * len(clips))) < 1e-5


@pytest.mark.slow
def test_without_its_guard_the_tokens_forget_the_clip_while_the_loss_falls() -> None:
    method, batch = build(stop_gradient=False, short_blocks=2), make_batch("vjepa")
    optimizer = torch.optim.AdamW(method.parameters(), lr=3e-3)
    seen = []
    for _ in range(40):
        out = method(batch)
        optimizer.zero_grad()
        out["loss"].backward()
        optimizer.step()
        seen.append((out["loss"].item(), out["patch_variation"].item()))
    assert seen[-1][0] < 0.5 * seen[0][0]
    assert seen[-1][1] < 0.5 * seen[0][1]
