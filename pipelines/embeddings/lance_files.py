"""Opens Lance datasets where the project's URIs point, by Lance's own library."""

import importlib.util
import warnings
from types import ModuleType
from typing import Any

from pipelines.storage import uris

SUFFIX = ".lance"
VERSIONS = "_versions"  # in every dataset that was committed
_PATIENCE = {"client_max_retries": "10", "client_retry_timeout": "300"}


def check_installed() -> None:
    """Refuse to go on without Lance; does not import it, as it warns of forks from then on.

    Raises:
        ValueError: it is not installed.
    """
    if importlib.util.find_spec("lance") is None:
        raise ValueError("format=lance needs Lance: pip install 'afield[lance]'")


def library() -> ModuleType:
    """Import Lance.

    Raises:
        ValueError: it is not installed.
    """
    check_installed()
    import lance
    import lance.file
    import lance.fragment

    # Ray starts its processes by fork and exec, which does no harm.
    warnings.filterwarnings("ignore", message="lance is not fork-safe")
    return lance


def place_of(uri: str) -> tuple[str, dict[str, str] | None]:
    """Return a dataset's place as Lance wants it, and the storage options of its client."""
    fs, path = uris.filesystem(uri)
    if uris.is_local(uri):
        return path, None
    if uris.is_s3(uri):
        from pipelines.storage.clients import s3

        return f"s3://{path}", s3.options_of_others(fs, path.partition("/")[0]) | _PATIENCE
    return uris.absolute(uri), dict(_PATIENCE)


def open_dataset(uri: str) -> Any:
    """Open the newest version of a dataset.

    Raises:
        ValueError: there is none, or Lance is not installed.
    """
    place, options = place_of(uri)
    return library().dataset(place, storage_options=options)
