"""The client of a server of MLflow, which is an extra."""

import importlib.util
import os
import re
from typing import Any

# MLflow reports its use to its makers unless it is told not to, and tries for minutes to reach a
# server that is not there.
_SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}
_USER_INFO = re.compile(r"://[^/@\s]*@")


def check_server(key: str, server: str) -> None:
    """Refuse the URI of a server that carries credentials.

    Raises:
        ValueError: it does; where they belong.
    """
    if _USER_INFO.search(server):
        raise ValueError(
            f"{key} carries credentials: give them as MLFLOW_TRACKING_USERNAME and"
            " MLFLOW_TRACKING_PASSWORD"
        )


def check_installed(key: str) -> None:
    """Make sure that the client is installed.

    Raises:
        ValueError: it is not; what to install.
    """
    if importlib.util.find_spec("mlflow") is None:
        raise ValueError(f"{key} needs MLflow's client: pip install 'afield[mlflow]'")


def client_of(key: str, server: str) -> Any:
    """Return a client.

    Args:
        key: Of the command line, by which the server was given.
        server: Its URI.

    Raises:
        ValueError: its URI carries credentials, or the client is not installed.
    """
    check_server(key, server)
    check_installed(key)
    os.environ.update({name: value for name, value in _SETTINGS.items() if name not in os.environ})
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=server, registry_uri=server)
