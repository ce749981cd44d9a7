from collections.abc import Iterator

import pytest

from tests.small_methods import shallow_transformers


@pytest.fixture(autouse=True)
def shallow() -> Iterator[None]:
    with shallow_transformers():
        yield
