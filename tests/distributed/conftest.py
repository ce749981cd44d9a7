from collections.abc import Iterator

import pytest

from tests.distributed.two_processes import TwoProcesses
from tests.small_methods import shallow_transformers


@pytest.fixture(autouse=True)
def shallow() -> Iterator[None]:
    with shallow_transformers():
        yield


@pytest.fixture(scope="session")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoProcesses]:
    """Two processes of one gloo group: `two_processes(function, *arguments)` returns both
    results."""
    both = TwoProcesses(tmp_path_factory.mktemp("gloo") / "store")
    yield both
    both.stop()
