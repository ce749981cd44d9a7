import pytest
import ray.data

from jobs.cluster import stream_progress
from jobs.cluster.stream_progress import StreamProgress, tell_progress
from pipelines.ray_tasks import map_in_tasks, said_to


def test_a_stream_says_how_far_it_is_how_fast_and_what_it_waits_for(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    lack = ["room for 1 x (1 CPU)", None]
    monkeypatch.setattr(stream_progress.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(stream_progress.waiting, "taken_by_others", lambda: lack.pop(0))
    progress = StreamProgress()
    for at, done in ((0, 0), (9, 900), (10, 1000), (19, 1000), (20, 1000), (30, 1000), (40, 1500)):
        now[0] = at
        progress.look("embedding samples", 2000, done)
    assert capsys.readouterr().err.splitlines() == [
        "embedding samples: 1,000 of 2,000  100/s",
        "embedding samples: 1,000 of 2,000; waiting for room for 1 x (1 CPU)",
        "embedding samples: 1,000 of 2,000; nothing new for 20 s",
        "embedding samples: 1,500 of 2,000  50/s",
    ]


@pytest.mark.usefixtures("ray_session")
def test_ray_data_shows_how_far_a_named_stream_is(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = list[tuple[str, int, int]]()
    monkeypatch.setattr(StreamProgress, "look", lambda _, *told: seen.append(told))
    tell_progress()

    def run(*cpus: float) -> None:
        stream = ray.data.range(8, override_num_blocks=2)
        for each in cpus:
            stream = map_in_tasks(stream, lambda batch: batch, num_cpus=each)
        for _ in said_to(stream, "doubling", 8).iter_batches(batch_size=None):
            pass

    for cpus in ((0.5,), (0.5, 0.25)):  # of different sizes, so that Ray does not fuse them
        run(*cpus)
        assert seen[-1] == ("doubling", 8, 8)
        assert {told[:2] for told in seen} == {("doubling", 8)}
        seen.clear()
    for _ in ray.data.range(8).iter_batches(batch_size=None):
        pass
    assert seen == []
