"""Google Cloud Storage through gcsfs, with the project's retries and errors.

gcsfs's own retries, of which there are six, and its second client, which asks another service what
kind of bucket it is, are left out.
"""

import asyncio
import logging
import os
import re
from typing import Any
from urllib.parse import unquote

import aiohttp
import google.auth
import google.auth.exceptions
import requests
from fsspec.asyn import sync_wrapper
from gcsfs.core import GCSFileSystem
from gcsfs.retry import HttpError

from pipelines.storage import retries
from pipelines.storage.retries import Answered, StorageError

LOG = logging.getLogger(__name__)
SCOPE = "https://www.googleapis.com/auth/devstorage.read_write"
NO_KEYS = "set GOOGLE_APPLICATION_CREDENTIALS, or use a service account"
_PASSED_ON = (404, 412, 416)  # answers that gcsfs and its callers know what to do with


class PatientGCS(GCSFileSystem):
    """gcsfs with the project's retries, and with errors in one line.

    Args:
        retry_s: How long a failing request is tried, by default as `retries.retry_s`.
        options: As for `GCSFileSystem`.
    """

    protocol = ("gs", "gcs")

    def __init__(self, *, retry_s: float | None = None, **options: Any) -> None:
        options.setdefault("use_listings_cache", False)
        options.setdefault("token", _credentials())
        stalled = retries.timeout_s()
        options.setdefault(
            "requests_timeout",
            aiohttp.ClientTimeout(sock_connect=min(10.0, stalled), sock_read=stalled),
        )
        super().__init__(**options)
        self.retry_s = retries.retry_s() if retry_s is None else retry_s

    async def _request(self, method: str, path: str, *args: Any, **options: Any) -> Any:
        """Make one request, again where it fails for a passing reason."""
        patience = retries.Patience(self.retry_s)
        request = GCSFileSystem._request.__wrapped__  # without gcsfs's own retries
        while True:
            try:
                return await request(self, method, path, *args, **options)
            except (FileNotFoundError, FileExistsError):
                raise
            except Exception as error:
                told = _told(error)
                if told is None or (isinstance(told, Answered) and told.status in _PASSED_ON):
                    raise
                delay = patience.delay(told)
                failure = self._failure(_uri(path, args), told) if delay is None else None
            if failure is not None:
                raise failure from None  # the client's own error may hold a token
            await asyncio.sleep(delay or 0.0)

    def _failure(self, uri: str, told: Exception) -> StorageError:
        anybody = self.credentials.credentials is None
        remedy = f"requests are not signed: {NO_KEYS}" if anybody else None
        return retries.failure(uri, told, remedy=remedy)

    async def _cat_file(
        self, path: str, start: int | None = None, end: int | None = None, **options: Any
    ) -> bytes:
        try:
            return bytes(await super()._cat_file(path, start=start, end=end, **options))
        except HttpError as error:
            if error.code == 416:  # it begins behind the object's end
                return b""
            raise
        except FileNotFoundError:
            bucket = path.partition("/")[0]
            if await self._has(bucket):
                raise FileNotFoundError(f"gs://{path}") from None
        raise StorageError(f"gs://{path}", "NoSuchBucket: check the bucket's name")

    cat_file = sync_wrapper(_cat_file)

    async def _has(self, bucket: str) -> bool:
        """Tell whether a bucket is there; also where we may not look at it."""
        try:
            await self._call("GET", "b/{}", bucket)
        except FileNotFoundError:
            return False
        except StorageError:
            pass
        return True


def _uri(path: str, args: tuple[str, ...]) -> str:
    """Name what a request is for: bucket and key come beside its path, or in it."""
    if not args and (found := re.search(r"/b/([^/?]+)(?:/o/([^?]*))?", path)):
        args = tuple(unquote(part) for part in found.groups() if part)
    return f"gs://{'/'.join(args)}"


def _credentials() -> Any:
    """Find Google's default credentials.

    Returns:
        The credentials, or "anon" where there are none.

    Raises:
        StorageError: those that are named cannot be used.
    """
    named = os.environ.get("GOOGLE_APPLICATION_CREDENTIALS")
    if "STORAGE_EMULATOR_HOST" in os.environ and not named:
        return "anon"
    try:
        return google.auth.default(scopes=[SCOPE])[0]
    except (google.auth.exceptions.GoogleAuthError, ValueError) as error:
        said = _sentence(str(error)).rstrip(".")
    if named:
        raise StorageError("gs", f"GOOGLE_APPLICATION_CREDENTIALS={named}: {said}") from None
    LOG.warning("no Google credentials: requests are not signed (%s)", NO_KEYS)
    return "anon"


def _told(error: Exception) -> Exception | None:
    """Say what went wrong in the words of `retries`; None where it is no fault of storage.

    gcsfs tells answers of the server by four kinds of errors.
    """
    said = str(error)
    if isinstance(error, HttpError):
        return Answered(int(error.code or 0), *_reason(error))
    if isinstance(error, requests.exceptions.ProxyError):
        return Answered(502, "502", "Bad Gateway")
    if type(error) in (OSError, ValueError) and said.startswith(("Forbidden: ", "Bad Request: ")):
        message = _sentence(said.partition("\n")[2])
        return Answered(403 if said[0] == "F" else 400, said.partition(":")[0], message)
    broken = (requests.exceptions.RequestException, google.auth.exceptions.TransportError)
    if isinstance(error, broken):
        told = ConnectionError(_sentence(said))
        told.__cause__ = error
        return told
    if isinstance(error, google.auth.exceptions.GoogleAuthError):
        return Answered(401, type(error).__name__, _sentence(said))
    return error if isinstance(error, OSError | aiohttp.ClientError) else None


def _reason(error: HttpError) -> tuple[str, str]:
    """Return the code and the message of an answer."""
    cause = error.__cause__
    if isinstance(cause, google.auth.exceptions.GoogleAuthError):  # no token for these credentials
        return type(cause).__name__, _sentence(str(cause.args[0] if cause.args else cause))
    message = error.message
    text = message.decode("utf-8", "replace") if isinstance(message, bytes) else str(message)
    return str(error.code), _sentence(text.removesuffix(f", {error.code}"))


def _sentence(text: str) -> str:
    """Return the first line of a message; nothing of a page, which may repeat the request."""
    return "" if text.lstrip().startswith("<") else text.strip().split("\n")[0][:200]
