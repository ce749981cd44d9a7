"""Clips and their soundtracks: the loss by a loop, hard answers in their time, and what is learnt
with them and without."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from models.encoders.factory import EncoderConfig
from models.method import Batch
from models.multimodal.audio_visual import AudioVisual, AudioVisualConfig
from models.registry import build_method
from tests.small_methods import SIZE, make_batch, rows_of

# batch norm would take away what all clips of a batch have alike
ENCODER = EncoderConfig(name="resnet18_small", width=4, norm="layer", time="frames")
RATE = 8_000
NUM_VIDEOS = 12
NUM_SCENES = 6


def built(**settings: object) -> AudioVisual:
    config = AudioVisual.small.model_copy(update=settings)
    method = build_method(config, ENCODER, AudioVisual.default_views(SIZE), 0)
    assert isinstance(method, AudioVisual)
    return method


def small_batch(epoch: int = 0) -> Batch:
    return make_batch("audio_visual", epoch)


def similarities(method: AudioVisual, batch: Batch) -> tuple[Tensor, Tensor]:
    """Of every clip and every sound (B, B), and of every clip and its other sound (B,)."""
    clips = method.projection_head(method.encoder(batch["views"]["global_crops"][0]))
    own, other = (method.sound_tower(method.heard(batch)[:, each]) for each in range(2))
    clips, own, other = (functional.normalize(x.detach(), dim=1) for x in (clips, own, other))
    return clips @ own.T, (clips * other).sum(1)


def test_the_loss_is_that_of_a_loop_over_pairs_and_a_clips_own_other_sound() -> None:
    method, batch = built(), small_batch()
    batch["valid"][[0, 5]] = False
    batch["targets"]["sound"][[1, 2], 1] = 0  # which have no other sound
    alike, other = similarities(method, batch)
    samples, total = [i for i in range(NUM_VIDEOS) if i not in (0, 5)], 0.0
    for i in samples:
        own = math.exp(float(alike[i, i]) / 0.1)
        others = sum(math.exp(float(alike[i, j]) / 0.1) for j in samples)
        others += 0 if i in (1, 2) else math.exp(float(other[i]) / 0.1)
        clips = sum(math.exp(float(alike[j, i]) / 0.1) for j in samples)
        total -= (math.log(own / others) + math.log(own / clips)) / (2 * len(samples))
    out = method(batch)
    assert out["loss"].item() == pytest.approx(total, rel=1e-4)
    nearer = [float(alike[i, i] > other[i]) for i in samples if i not in (1, 2)]
    assert out["in_time_top1"].item() == pytest.approx(sum(nearer) / len(nearer))
    assert out["shifted"].item() == pytest.approx(8 / 10)


def test_at_chance_a_clip_has_one_wrong_answer_more_than_a_sound() -> None:
    method = built()
    torch.nn.init.zeros_(method.sound_tower.projection[-1].weight)
    found = method(small_batch())
    expected = (math.log(NUM_VIDEOS + 1) + math.log(NUM_VIDEOS)) / 2
    assert found["loss"].item() == pytest.approx(expected, abs=1e-5)
    assert found["info_nce_bound"].item() == pytest.approx(0, abs=1e-5)


def test_the_order_of_samples_does_not_matter() -> None:
    method, batch, turned = built(), small_batch(), small_batch()
    turned["views"] = {name: views.flip(1) for name, views in turned["views"].items()}
    turned["targets"] = {name: values.flip(0) for name, values in turned["targets"].items()}
    for name, value in method(batch).items():
        if value.ndim == 0:
            torch.testing.assert_close(method(turned)[name], value, msg=name)


def test_hard_answers_count_from_their_part_of_the_run_on() -> None:
    method, batch = built(hard_from=0.5), small_batch()
    easy, never = method(batch), built(hard_from=1)(batch)
    assert easy["loss"].item() == never["loss"].item()
    assert 0 < easy["in_time_top1"] < 1 and easy["shifted"] == 1  # which are measured all the same
    method.after_step(4, 10)
    assert method(batch)["loss"].item() == easy["loss"].item()
    method.after_step(5, 10)
    assert method(batch)["loss"].item() == pytest.approx(built()(batch)["loss"].item())
    assert method(batch)["loss"].item() > easy["loss"].item()


def test_a_video_that_has_no_other_sound_has_no_hard_answer() -> None:
    batch, mute = small_batch(), small_batch()
    mute["targets"]["sound"][:, 1] = 0
    with_none, easy = built()(mute), built(hard_from=1)(batch)
    assert with_none["loss"].item() == pytest.approx(easy["loss"].item(), rel=1e-5)
    assert with_none["shifted"] == 0 and with_none["in_time_top1"] == 0


def test_how_loud_a_stretch_is_as_a_whole_tells_nothing() -> None:
    tower = built().sound_tower
    hiss = torch.randn(3, 2_000, generator=torch.Generator().manual_seed(0)) * 0.3
    torch.testing.assert_close(tower(hiss * 0.2), tower(hiss), rtol=1e-3, atol=1e-4)
    assert (tower(hiss) - tower(tone(440.0)[None])).abs().mean() > 0.01


def test_when_in_a_stretch_something_is_heard_is_told() -> None:
    tower = built().sound_tower
    early = torch.zeros(1, 2 * RATE)
    early[:, 4_000:6_000] = tone(440.0)
    told, later = tower(early), tower(early.roll(5_000, dims=1))  # far from the ends
    assert (later - told).norm() > 0.5 * told.norm()


def test_the_tower_of_sounds_is_looked_at_by_itself() -> None:
    method, batch = built(), small_batch()
    found = method.project_beside(batch["targets"])
    assert found.keys() == {"sounds"} and method.project_beside({}) == {}
    torch.testing.assert_close(found["sounds"], method.sound_tower(method.heard(batch)[:, 0]))


def test_a_gap_that_is_none_is_refused() -> None:
    for gap in ((0.0, 1.0), (2.0, 1.0)):
        with pytest.raises(ValueError, match="the lower bound comes first and is above 0"):
            AudioVisualConfig(shift_s=gap)


def tone(pitch: float) -> Tensor:
    return (2 * math.pi * pitch * torch.arange(2_000) / RATE).sin() * 0.3


def events(*, on: bool) -> Batch:
    """Clips of videos that have each a colour and a hum of their own. At times a light is on in all
    of them, and a bell rings, so that it tells no video from another; in the other sound it rings
    where the light is off, and the other way round."""
    batch = rows_of(small_batch(), slice(NUM_SCENES))
    colours = torch.randn(NUM_SCENES, 3, generator=torch.Generator().manual_seed(0))
    clips = colours[None, :, None, :, None, None].repeat(1, 1, 2, 1, SIZE, SIZE)
    clips[..., 4:12, 4:12] = 2.0 if on else -2.0
    hum = torch.stack([tone(300 * 1.3**video) for video in range(NUM_SCENES)])
    rings = hum + tone(3_000)
    sounds = torch.stack([rings, hum] if on else [hum, rings], dim=1)
    batch["views"] = {"global_crops": clips}
    batch["targets"] = {"sound": (sounds * 20_000).to(torch.int16)}
    return batch


def learnt(hard_from: float) -> dict[str, float]:
    """What is told after some steps."""
    method = built(hard_from=hard_from)
    optimizer = torch.optim.AdamW(method.parameters(), lr=3e-3)
    moments = [events(on=on) for on in (True, False)]
    for _ in range(40):
        optimizer.zero_grad()
        told = [method(batch) for batch in moments]
        sum(out["loss"] for out in told).backward()
        optimizer.step()
    names = ("sound_top1", "in_time_top1")
    return {name: sum(float(out[name]) for out in told) / len(told) for name in names}


@pytest.mark.long
def test_hard_answers_ask_for_the_moment_where_easy_ones_are_told_by_the_place() -> None:
    easy, hard = learnt(1), learnt(0)
    assert easy["sound_top1"] > 0.9 and hard["sound_top1"] > 0.9
    assert easy["in_time_top1"] < 0.75 and hard["in_time_top1"] > 0.95
