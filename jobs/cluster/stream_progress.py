"""Says how far the streams of a job are, and what they wait for where they stand still."""

import sys
import time

import ray.data

from jobs.cluster import waiting
from pipelines.ray_internals import StreamWatcher


class StreamProgress(StreamWatcher):
    """Prints a line every few seconds for a stream of which `ray_tasks.said_to` says what it does.

    Ray Data makes one for each run of a stream.
    """

    def __init__(self) -> None:
        self._said = self._since = time.monotonic()  # last: when there was something new
        self._done = 0

    def look(self, doing: str, total: int | None, done: int) -> None:
        """Print how far the stream is, if it is time to."""
        now = time.monotonic()
        if now < self._said + waiting.EVERY_S:
            return
        more = self._more(done - self._done, now)
        of = "" if total is None else f" of {total:,}"
        print(f"{doing}: {done:,}{of}{more}", file=sys.stderr, flush=True)
        self._since = now if done > self._done else self._since
        self._said = now
        self._done = done

    def _more(self, new: int, now: float) -> str:
        """Say how fast it is, or what it waits for."""
        if new:
            return f"  {new / (now - self._said):,.0f}/s"
        if what := waiting.taken_by_others():
            return f"; waiting for {what}"
        return f"; nothing new for {now - self._since:.0f} s"


def tell_progress() -> None:
    """Have every stream that this process makes from now on say how far it is."""
    kinds = ray.data.DataContext.get_current().custom_execution_callback_classes
    if StreamProgress not in kinds:
        kinds.append(StreamProgress)
