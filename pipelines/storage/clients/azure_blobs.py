"""Azure Blob Storage through adlfs, with the project's retries and errors."""

import binascii
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote, urlsplit

from adlfs.spec import AzureBlobFile, AzureBlobFileSystem
from azure.core.credentials import AzureSasCredential
from azure.core.exceptions import (
    AzureError,
    ClientAuthenticationError,
    HttpResponseError,
    IncompleteReadError,
    ServiceRequestError,
    ServiceResponseError,
)
from azure.storage.blob.aio import BlobServiceClient, ExponentialRetry
from fsspec.asyn import sync_wrapper

from pipelines.storage import retries
from pipelines.storage.retries import Answered, StorageError

NO_ACCOUNT = (
    "no account: set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY, or"
    " AZURE_STORAGE_CONNECTION_STRING, or write abfs://CONTAINER@ACCOUNT.dfs.core.windows.net/"
)
_PASSED_ON = (404, 409, 412, 416)  # answers that adlfs and its callers know what to do with
_BROKEN = (ServiceRequestError, ServiceResponseError, IncompleteReadError)


class PatientAzure(AzureBlobFileSystem):
    """adlfs with the project's retries, and with errors in one line.

    Args:
        retry_s: How long a failing request is tried, by default as `retries.retry_s`.
        host: The account's host, where a URI names it.
        options: As for `AzureBlobFileSystem`.
    """

    def __init__(
        self, *, retry_s: float | None = None, host: str | None = None, **options: Any
    ) -> None:
        self.retry_s = retries.retry_s() if retry_s is None else retry_s
        options.setdefault("use_listings_cache", False)
        if host:
            options["account_name"] = host.partition(".")[0]
            options["account_host"] = host.replace(".dfs.", ".blob.", 1)
        super().__init__(**options)

    def do_connect(self) -> None:
        """Open the client of the account, with our retries in the place of its own."""
        stalled = retries.timeout_s()
        patience = _Patience(self.retry_s)
        options = {
            "retry_policy": patience,
            "connection_timeout": min(10.0, stalled),
            "read_timeout": stalled,
        }
        try:
            self.service_client = self._client(options)
        except ValueError as error:
            said = str(error).rstrip(".")
            raise StorageError("Azure", f"{said}: check AZURE_STORAGE_*") from None
        patience.account = str(self.service_client.account_name)

    def _client(self, options: dict[str, Any]) -> BlobServiceClient:
        if self.connection_string is not None:
            client = BlobServiceClient.from_connection_string(self.connection_string, **options)
            if self.account_name and client.account_name != self.account_name:
                raise StorageError(
                    "Azure",
                    f"AZURE_STORAGE_CONNECTION_STRING is of account {client.account_name}, and"
                    f" {self.account_name} is asked for",
                )
            return client
        if self.account_name is None:
            raise StorageError("Azure", NO_ACCOUNT)
        credential: Any = self.account_key or self.credential
        if credential is None and self.sas_token:
            credential = AzureSasCredential(self.sas_token)
        host = getattr(self, "account_host", f"{self.account_name}.blob.core.windows.net")
        return BlobServiceClient(f"https://{host}", credential=credential, **options)

    async def _cat_file(self, path: str, *args: Any, **options: Any) -> bytes:
        """Read a file or a range; a body that breaks off in the middle is read again."""

        async def request() -> bytes:
            return bytes(await read(path, *args, **options))

        read = super()._cat_file
        try:
            return await retries.patiently_async(request, self.retry_s, told)
        except (AzureError, binascii.Error) as error:
            if getattr(error, "status_code", None) == 416:  # it begins behind the object's end
                return b""
            failure = retries.failure(f"az://{path}", told(error))
        raise failure from None

    cat_file = sync_wrapper(_cat_file)

    async def _rm(self, *args: Any, **options: Any) -> None:
        await _unwrapped(super()._rm, *args, **options)

    rm = sync_wrapper(_rm)

    def _open(self, path: str, mode: str = "rb", **options: Any) -> AzureBlobFile:
        return _File(self, path, mode, **{"block_size": self.blocksize} | options)


class _File(AzureBlobFile):
    """A file whose ranges are read by `PatientAzure`, and whose errors are its."""

    def _fetch_range(self, start: int, end: int | None = None) -> bytes:
        return bytes(self.fs.cat_file(self.path, start=start, end=end))

    async def _upload(self, final: bool = False, **options: Any) -> None:
        await _unwrapped(super()._async_upload_chunk, final, **options)

    _upload_chunk = sync_wrapper(_upload)


async def _unwrapped(call: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Call what dresses each error up as a `RuntimeError`."""
    try:
        return await call(*args, **options)
    except RuntimeError as error:
        inner = error.__cause__
        if not isinstance(inner, StorageError):
            raise
    raise inner from None


class _Patience(ExponentialRetry):
    """The project's retries in the client's pipeline, which all requests pass.

    Args:
        seconds: How long a failing request is tried.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds
        self.account = ""

    def configure_retries(self, request: Any) -> dict[str, Any]:
        """Return what is kept of one request between its tries."""
        settings: dict[str, Any] = super().configure_retries(request)
        return settings | {"patience": retries.Patience(self.seconds)}

    def increment(
        self, settings: dict[str, Any], request: Any, response: Any = None, error: Any = None
    ) -> bool:
        """Tell whether to try again, and keep the seconds to wait before."""
        fault = _answered(response) if error is None else told(error)
        settings["delay"] = settings["patience"].delay(fault)
        settings["total"] = settings["connect"] = settings["read"] = settings["status"] = 1
        again = settings["delay"] is not None
        return again and bool(super().increment(settings, request, response, error))

    def get_backoff_time(self, settings: dict[str, Any]) -> float:
        """Return the seconds to wait before another try."""
        return float(settings["delay"])

    async def send(self, request: Any) -> Any:
        """Make one request; what it is refused for becomes one line."""
        try:
            response = await super().send(request)
            answer = response.http_response
            missing = answer.headers.get("x-ms-error-code") == "ContainerNotFound"
            query = urlsplit(request.http_request.url).query
            if missing and "restype=container" in query and "comp=list" not in query:
                return response  # whether it is there was the question
            if answer.status_code < 400 or (answer.status_code in _PASSED_ON and not missing):
                return response
            fault: Exception = _answered(answer)
        except (AzureError, binascii.Error) as error:
            fault = told(error)
        raise retries.failure(self._uri(request.http_request.url), fault) from None

    def _uri(self, url: str) -> str:
        """Name what a request is for, without its query, which may hold a signature."""
        path = urlsplit(url).path.lstrip("/").removeprefix(f"{self.account}/")
        return f"az://{unquote(path)}"


def told(error: Exception) -> Exception:
    """Say what went wrong in the words of `retries`."""
    said = re.sub(r"\s+", " ", str(error)).split(" RequestId:")[0][:200]
    fault: Exception = error
    if isinstance(error, _BROKEN) or isinstance(error.__cause__, _BROKEN):
        fault = ConnectionError(said)
        fault.__cause__ = error
    elif isinstance(error, binascii.Error) or type(error).__name__ == "AzureSigningError":
        fault = Answered(401, "no key", "the account's key is not in base64")
    elif isinstance(error, HttpResponseError) and error.status_code:
        fault = Answered(
            error.status_code, str(getattr(error, "error_code", None) or error.status_code), said
        )
    elif isinstance(error, ClientAuthenticationError):
        fault = Answered(401, type(error).__name__, said)
    return fault


def _answered(answer: Any) -> Answered:
    """Read an answer's code from its headers: its body may not have been read."""
    code = answer.headers.get("x-ms-error-code", str(answer.status_code))
    return Answered(answer.status_code, code, str(answer.reason or "").split("\n")[0])
