"""One policy for requests to object storage that fail: what is worth another try, for how long, and
how many it took.

Throttling, server errors, broken connections and stalls are tried again with exponential back-off
and jitter, for `retry_s` seconds a request. Whatever the server answers on purpose (AccessDenied,
ExpiredToken, NoSuchBucket) is not.
"""

import asyncio
import itertools
import os
import random
import re
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from functools import cache
from typing import Any, TypeVar

from pipelines.storage.clients.tls_faults import tls_fault

Result = TypeVar("Result")

# Every process of a job reads these when it opens its first client; `jobs.cluster.launch` sets
# them.
RETRY_VARIABLE = "AFIELD_STORAGE_RETRY_S"
RETRY_S = 300.0
TIMEOUT_VARIABLE = "AFIELD_STORAGE_TIMEOUT_S"
TIMEOUT_S = 30.0
FIRST_DELAY_S = 0.1
LONGEST_DELAY_S = 10.0
SAID_AFTER_S = 4.0
SAID_EVERY_S = 10.0

_TRANSIENT_STATUS = (408, 429, 500, 502, 503, 504)
_TRANSIENT_CODES = (
    *(
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "RequestLimitExceeded",
        "BandwidthLimitExceeded",
    ),
    # RequestTimeout comes with status 400
    *(
        "RequestTimeout",
        "InternalError",
        "ServiceUnavailable",
        "Busy",
    ),
)
_CLIENTS = ("botocore", "aiobotocore", "aiohttp", "obstore")
_REMEDIES = {
    "ExpiredToken": "get new credentials and give the same command line again",
    "RequestTimeTooSkewed": "set this machine's clock",
    "NoSuchBucket": "check the bucket's name",
    "PermanentRedirect": "set AWS_REGION to the bucket's region",
    "AccessDenied": (
        "check the credentials and the bucket's policy (a missing object reads so where listing is"
        " denied)"
    ),
    "SignatureDoesNotMatch": "check the credentials, the secret key first",
    "ContainerNotFound": "check the container's name",
    "InvalidObjectState": "restore the object from the archive",
    "BlobArchived": "restore the object from the archive",
}


# Answers to a request that was understood and whose keys were right.
_REFUSALS = (
    *("AccessDenied", "InvalidObjectState", "Forbidden", "403"),
    *("AuthorizationPermissionMismatch", "BlobArchived"),
)


class StorageError(OSError):
    """The storage refuses a request, or failed for longer than it is waited for; one line that
    names the URI.

    Never counted as bad data, and trying again at once would not help.

    Args:
        uri: What was asked for.
        what: What is wrong, and the remedy.
    """

    def __init__(self, uri: str, what: str) -> None:
        super().__init__(f"{uri}: {what}")
        self.uri = uri
        self.what = what

    def __reduce__(self) -> tuple[type["StorageError"], tuple[str, str]]:
        return type(self), (self.uri, self.what)


class Refused(StorageError):
    """The storage knows us and refuses this: an object that is somebody else's, or in the archive,
    or a whole bucket.

    Bad data where others of the same bucket are handed out (`uris.hands_out_others`), else as any
    `StorageError`.
    """


class Answered(Exception):
    """What a server answered, as the module of its client tells it.

    Args:
        status: Of HTTP.
        code: The server's word for it.
        message: What it says besides, without secrets.
    """

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(status, code, message)
        self.status = status
        self.code = code
        self.message = message


class Retries:
    """Counts the retries of this process, whichever thread makes them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._total = 0

    def add(self) -> None:
        """Count one retry."""
        with self._lock:
            self._total += 1

    @property
    def total(self) -> int:
        """Return the retries so far."""
        return self._total


RETRIES = Retries()


def retry_s() -> float:
    """Return the seconds for which a failing request is tried."""
    return float(os.environ.get(RETRY_VARIABLE, RETRY_S))


def timeout_s() -> float:
    """Return the seconds without a byte after which a request has stalled."""
    return float(os.environ.get(TIMEOUT_VARIABLE, TIMEOUT_S))


class _Teller:
    """Says on stderr what requests wait for, once they have for a while; once for all threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._next = 0.0

    def tell(self, error: BaseException, waited_s: float) -> None:
        """Say it, if it is time to."""
        now = time.monotonic()
        with self._lock:
            if waited_s < SAID_AFTER_S or now < self._next:
                return
            self._next = now + SAID_EVERY_S
        what = _said(error)
        print(f"waiting for the storage for {waited_s:.0f} s: {what}", file=sys.stderr, flush=True)


_TELLER = _Teller()


class Patience:
    """The tries of one request.

    Args:
        seconds: How long to go on trying.
    """

    def __init__(self, seconds: float) -> None:
        self._begun = time.monotonic()
        self._until = self._begun + seconds
        self._attempts = itertools.count()

    def delay(self, error: BaseException) -> float | None:
        """Return the seconds to wait before another try; None where it would not help or time is
        up."""
        if not is_transient(error) or time.monotonic() >= self._until:
            return None
        RETRIES.add()
        _TELLER.tell(error, time.monotonic() - self._begun)
        limit = min(LONGEST_DELAY_S, FIRST_DELAY_S * 2 ** min(16, next(self._attempts)))
        # jitter: throttled clients must not come back all at once
        return random.uniform(limit / 2, limit)


def patiently(request: Callable[[], Result], seconds: float) -> Result:
    """Make a request, again where it fails for a passing reason."""
    patience = Patience(seconds)
    while True:
        try:
            return request()
        except Exception as error:
            delay = patience.delay(error)
            if delay is None:
                raise
        time.sleep(delay)


async def patiently_async(
    request: Callable[[], Awaitable[Result]],
    seconds: float,
    told: Callable[[Exception], Exception] = lambda error: error,
) -> Result:
    """Make a request in an event loop, again where it fails for a passing reason.

    Args:
        request: Makes it.
        seconds: How long to go on trying.
        told: Says what went wrong in the words of this module.
    """
    patience = Patience(seconds)
    while True:
        try:
            return await request()
        except Exception as error:
            delay = patience.delay(told(error))
            if delay is None:
                raise
        await asyncio.sleep(delay)


def is_transient(error: BaseException) -> bool:
    """Tell whether the same request may succeed a moment later."""
    status, code, _ = answer(error)
    if status is not None:
        return status in _TRANSIENT_STATUS or code in _TRANSIENT_CODES
    return isinstance(error, _broken_connections()) and tls_fault(error) is None


@cache
def _broken_connections() -> tuple[type[BaseException], ...]:
    """List the errors that clients raise without a whole answer; imported once something has
    failed."""
    import aiohttp
    import botocore.exceptions
    import botocore.parsers
    import obstore.exceptions

    return (
        *(ConnectionError, TimeoutError, aiohttp.ClientError, obstore.exceptions.GenericError),
        *(botocore.exceptions.HTTPClientError, botocore.exceptions.ConnectionError),
        botocore.exceptions.IncompleteReadError,
        botocore.parsers.ResponseParserError,  # half an error page
    )


def is_of_client(error: BaseException) -> bool:
    """Tell whether an error is one of the object store clients': botocore's hierarchy is no
    OSError."""
    return isinstance(error, OSError) or type(error).__module__.split(".")[0] in _CLIENTS


def answer(error: BaseException) -> tuple[int | None, str, str]:
    """Return status, S3 error code and message of the answer behind an error; None where none
    came."""
    if isinstance(error, Answered):
        return error.status, error.code, error.message
    found: Any = next(
        (e for e in (error, error.__cause__) if isinstance(getattr(e, "response", None), dict)),
        None,
    )
    if found is not None:
        what = found.response.get("Error", {})
        status = found.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        return status or 0, str(what.get("Code", status)), str(what.get("Message", ""))
    text = str(error)
    status_text = re.search(r"non-2xx status code: (\d+) ?([^:\n]*)", text)
    of_obstore = type(error).__module__.startswith("obstore")
    if of_obstore and "BareRedirect" in text:
        return 301, "PermanentRedirect", "the bucket is in another region"
    if not (of_obstore or isinstance(error, FileNotFoundError)) or status_text is None:
        return None, "", ""
    code, message = (re.search(f"<{name}>([^<]*)</{name}>", text) for name in ("Code", "Message"))
    status = int(status_text[1])
    return status, code[1] if code else str(status), message[1] if message else status_text[2]


def failure(uri: str, error: BaseException, *, remedy: str | None = None) -> StorageError:
    """Say in one line what went wrong with a request, and what to do.

    Only the server's code and message are repeated: its whole answer may hold the access key.

    Args:
        uri: What was asked for.
        error: What the client raised.
        remedy: What to do where the request was refused, if that is known better.
    """
    if isinstance(error, StorageError):
        # A bucket's becomes the object's.
        return type(error)(uri, error.what) if uri.startswith(error.uri) else error
    if what := tls_fault(error):
        return StorageError(uri, what)
    status, code, message = answer(error)
    if is_transient(error):
        return StorageError(
            uri,
            f"{_said(error)}: check the endpoint and the network, or raise cluster.storage_retry_s",
        )
    if status is None:
        return StorageError(
            uri, f"{_first_line(error)}: check the credentials, the endpoint and the network"
        )
    refused = "refused, " if status in (401, 403) else ""
    if not (refused and remedy):
        remedy = _REMEDIES.get(
            code, "check the credentials" if status in (400, 401, 403) else "check the URI"
        )
    kind = Refused if code in _REFUSALS and status in (403, 409) else StorageError
    return kind(uri, f"{refused}{code} ({message.rstrip('.') or status}): {remedy}")


def _said(error: BaseException) -> str:
    """Say in one line what the server answered, or what came instead."""
    status, code, message = answer(error)
    return f"{code}: {message}" if status else _first_line(error)


def _first_line(error: BaseException) -> str:
    root = error.__cause__ or error
    text = re.sub(r" for url .*|\?X-Amz-\S*", "", str(root).strip().split("\n")[0])
    return f"{type(root).__name__}: {text}"[:200].rstrip(": .")
