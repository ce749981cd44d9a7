"""Joining a Ray that runs already: what is wrong with it is said in one line, within seconds."""

import logging
import os
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError

from jobs.cluster import ray_cluster
from jobs.setup.failures import InputError

PACKAGES = ("afield", "augment", "models", "pipelines", "jobs")
ANSWER_S = 10.0  # a head answers in milliseconds
JOIN_S = 60.0  # a driver joins in seconds, with packages to upload
LONGEST = 300  # characters of what Ray says

REMEDIES = {
    "dead": (
        "cannot be reached ({detail}): start Ray there with `ray start --head`, mend the address, "
        "or take cluster.address=local"
    ),
    "silent": (
        "takes connections and does not answer as a Ray head does: give the port that "
        "`ray start --head` printed, 6379 by default"
    ),
    "other": (
        "is no Ray head ({detail}): give the port that `ray start --head` printed, 6379 by default "
        "(8265 is its dashboard's, 10001 is Ray Client's)"
    ),
    "client": (
        "is Ray Client's, through which Ray Data does not run: run the job on a node of the "
        "cluster with HOST:PORT, or with `ray job submit`"
    ),
    "no_token": (
        "wants a token and none was sent: set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN to the "
        "cluster's token (`ray get-auth-token` on its head prints it)"
    ),
    "wrong_token": (
        "refuses the token: set RAY_AUTH_TOKEN (or RAY_AUTH_TOKEN_PATH, or ~/.ray/auth_token) to "
        "the cluster's own, which `ray get-auth-token` on its head prints"
    ),
}


def join(address: str, runtime_env: Mapping[str, Any]) -> None:
    """Call `ray.init` for a cluster that runs already, and have nothing count that jobs which have
    ended asked it for.

    Raises:
        InputError: it cannot be joined; why, and what to set.
    """
    if address.startswith("ray://"):
        raise InputError(f"cluster.address {address} {REMEDIES['client']}")
    try:
        _ask(address)
        print(f"joining the cluster at {address}", file=sys.stderr, flush=True)
        with _limited(address):
            ray.init(
                address=address,
                runtime_env=dict(runtime_env),
                logging_level=logging.ERROR,
                log_to_driver=False,
            )
        ray_cluster.drop_requests_of_ended_jobs()
    except (OSError, RuntimeError, ValueError, RayError) as error:
        if isinstance(error, InputError):
            raise
        said = " ".join(str(error).split())[:LONGEST]
        raise InputError(f"cluster.address {address} cannot be joined: {said}") from error


def _ask(address: str) -> None:
    head = ray_cluster.head_address(address)
    refusal = ray_cluster.ask_head(head, ANSWER_S)
    if refusal is not None:
        shown = address if address == head else f"{address} ({head})"
        remedy = REMEDIES[refusal.kind].format(detail=refusal.detail)
        raise InputError(f"cluster.address {shown} {remedy}")


@contextmanager
def _limited(address: str) -> Iterator[None]:
    """End the process where joining takes too long: Ray itself goes on trying and cannot be asked
    to stop."""

    def give_up() -> None:
        print(
            f"error: cluster.address {address} answers and cannot be joined in {JOIN_S:.0f} s: "
            "run the job on a node of that cluster, or with `ray job submit`",
            file=sys.stderr,
            flush=True,
        )
        os._exit(2)

    timer = threading.Timer(JOIN_S, give_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def beside_the_code(root: Path) -> list[str]:
    """Name what lies in a clone beside the packages: data and runs that nobody wants uploaded."""
    return [f"/{path.name}" for path in sorted(root.iterdir()) if path.name not in PACKAGES]
