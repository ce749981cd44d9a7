"""Compiles the kernels and keeps the machine code on disk, under a hash of every source it came
from.

Numba's own cache goes by the file of the kernel alone. A kernel here is made of the code of
several files, so a change in one of them would leave the stale kernel in use without a word.
Machine code also names the module that it is of, and loading it imports that. The same files are
`augment.kernels` to the jobs of a clone and `afield.augment.kernels` to who imports afield, where
`augment` may be nothing or somebody else's: each has a folder of its own.
"""

import contextlib
import fcntl
import hashlib
import os
import pickle
import shutil
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

import llvmlite
import numba
from numba.core.caching import CompileResultCacheImpl, FunctionCache

Function = TypeVar("Function", bound=Callable[..., Any])

_PREFIX = "kernels-"  # of a folder of machine code; the hash follows
_KEPT = 3  # folders of earlier sources: who goes back and forth between two states finds both


def compiled(**options: Any) -> Callable[[Function], Function]:
    """Return a decorator that compiles a function on its first call, without the interpreter lock.

    Args:
        options: Passed on to `numba.njit`.
    """

    def compile_later(function: Function) -> Function:
        dispatcher: Any = numba.njit(nogil=True, **options)(function)
        try:
            dispatcher._cache = _Cache(function)  # as `cache=True` does, with Numba's own class
        except RuntimeError as error:  # neither here nor in the home folder may anything be written
            warnings.warn(f"kernels are compiled anew in every process: {error}", stacklevel=2)
        return cast(Function, dispatcher)

    return compile_later


@cache
def sources_hash() -> str:
    """Return a hash of this folder's sources, of their name as modules and of the versions of what
    compiles them."""
    digest = hashlib.sha256(f"{__name__} {numba.__version__} {llvmlite.__version__}".encode())
    paths = sorted(Path(__file__).parent.glob("*.py"))
    if not paths:  # a zip file, say
        raise RuntimeError("their sources are not there")
    for path in paths:
        digest.update(f"\0{path.name}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


class _Locator:
    """A folder of the current sources' machine code, inside the folder that Numba has chosen."""

    def __init__(self, chosen: Any) -> None:
        self._base = Path(chosen.get_cache_path())
        self._py_file = chosen._py_file  # of which Numba's warnings speak

    def get_cache_path(self) -> str:
        """Return the folder that holds the machine code."""
        return str(self._base / f"{_PREFIX}{sources_hash()}")

    def get_source_stamp(self) -> str:
        """Return what the sources are known by."""
        return sources_hash()

    def ensure_cache_path(self) -> None:
        """Make the folder; a new one takes the place of the oldest."""
        folder = Path(self.get_cache_path())
        if folder.is_dir():
            return
        folder.mkdir(parents=True, exist_ok=True)
        others = [path for path in self._base.glob(f"{_PREFIX}*") if path != folder]
        for stale in sorted(others, key=_changed)[:-_KEPT]:
            shutil.rmtree(stale, ignore_errors=True)


class _Implementation(CompileResultCacheImpl):
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        self._locator = _Locator(self._locator)


class _Cache(FunctionCache):
    """Numba's cache of one function. What it cannot read or write costs a compilation, no more."""

    _impl_class = _Implementation

    def load_overload(self, signature: Any, target: Any) -> Any:
        """Return the machine code for a signature, None where there is none."""
        with contextlib.suppress(OSError, EOFError, pickle.UnpicklingError):
            return super().load_overload(signature, target)
        return None

    def save_overload(self, signature: Any, result: Any) -> None:
        """Keep the machine code for a signature."""
        with contextlib.suppress(OSError), self._locked():
            super().save_overload(signature, result)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Let one process write at a time: two of them would give one file name to two results."""
        self._impl.locator.ensure_cache_path()
        descriptor = os.open(Path(self.cache_path) / "lock", os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _changed(path: Path) -> float:
    """Return when a folder was last written to; one that has gone comes first."""
    with contextlib.suppress(OSError):
        return path.stat().st_mtime
    return 0.0
