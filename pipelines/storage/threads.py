"""Threads that wait for storage, one pool of a kind a process."""

from concurrent.futures import ThreadPoolExecutor
from functools import cache


@cache
def pool(kind: str, count: int) -> ThreadPoolExecutor:
    """Return this process's pool of a kind, which nobody shuts down.

    A generator must not have one of its own: where it is dropped half-way in a reference cycle, the
    garbage collector closes it at any place of any thread, and would wait there for the pool's
    threads. Inside the start of another thread, which holds a lock of `threading`, for ever.

    Args:
        kind: What the threads do, their name; work of a kind must not wait for work of the same
            kind.
        count: Most threads.
    """
    return ThreadPoolExecutor(count, thread_name_prefix=kind)
