"""The two clients of S3: s3fs for files, few and whole, and obstore for samples, many and small.

Fetching 2 000 objects of 15 KB from SeaweedFS on the same two cores cost the client 2.0 ms of CPU
an object with s3fs, 0.9 ms with pyarrow (which asks for the size first: two requests) and 0.35 ms
with obstore.

What the clients retry themselves is switched off, so that one policy (`pipelines.storage.retries`)
holds and is counted. s3fs tries five times within a second; botocore's standard mode stops at a
budget of retries; neither survives a restart of the server, and neither reads a body again that
broke off (pyarrow and obstore do).
"""

import io
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import lru_cache, partial
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import obstore
import obstore.exceptions
from botocore.credentials import RefreshableCredentials
from botocore.exceptions import ClientError
from fsspec.asyn import sync, sync_wrapper
from obstore.store import S3Store
from s3fs import S3FileSystem

from pipelines.storage import retries
from pipelines.storage.clients import s3_settings
from pipelines.storage.retries import StorageError

if TYPE_CHECKING:
    from obstore.store import ClientConfig

# botocore renews them at least this long before they expire
CREDENTIALS_FOR = timedelta(minutes=10)
_OPENING = Lock()
ELSEWHERE = ("PermanentRedirect", "AuthorizationHeaderMalformed")  # in another region
_PASSED_ON = (404, 409, 412, 416)  # answers that s3fs and its callers know what to do with


class PatientS3(S3FileSystem):
    """s3fs with the project's retries, and with errors that name the URI.

    Args:
        retry_s: How long a failing request is tried, by default as `retries.retry_s`.
        options: As for `S3FileSystem`.
    """

    retries = 1  # s3fs's own

    def __init__(self, *, retry_s: float | None = None, **options: Any) -> None:
        timeouts = {
            "read_timeout": retries.timeout_s(),
            "connect_timeout": min(10.0, retries.timeout_s()),
        }
        config = {"retries": {"mode": "standard", "total_max_attempts": 1}, **timeouts}
        settings = s3_settings.settings()
        client = {"region_name": settings.region, "verify": settings.ca_bundle}
        client = {name: value for name, value in client.items() if value is not None}
        options.setdefault("use_listings_cache", False)
        options.setdefault("anon", not settings.signed)
        super().__init__(
            config_kwargs=config | options.pop("config_kwargs", {}),
            client_kwargs=client | options.pop("client_kwargs", {}),
            **options,
        )
        self.retry_s = retries.retry_s() if retry_s is None else retry_s
        self.regions: dict[str, str] = {}  # of buckets, as their answers say
        self._listening: Any = None

    async def set_session(self, refresh: bool = False, kwargs: dict[str, Any] | None = None) -> Any:
        """Open the client, with the retry policy at botocore's own hook: it covers every operation,
        listing too."""
        client = await super().set_session(refresh=refresh, kwargs=kwargs or {})
        if client is not self._listening:
            client.meta.events.register("needs-retry.s3", self._needs_retry, unique_id="patience")
            self._listening = client
        return client

    def _needs_retry(
        self,
        response: Any,
        caught_exception: Any,
        request_dict: dict[str, Any],
        operation: Any,
        **_: Any,
    ) -> float | None:
        error = caught_exception
        if response is not None:
            self._note_region(response[1], request_dict)
        if error is None and response is not None and response[0].status_code >= 300:
            error = ClientError(response[1], operation.name)
        if error is None:
            return None
        patience: retries.Patience = request_dict["context"].setdefault(
            "patience", retries.Patience(self.retry_s)
        )
        return patience.delay(error)

    def _note_region(self, answer: dict[str, Any], request: dict[str, Any]) -> None:
        headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
        bucket = request["context"].get("s3_redirect", {}).get("bucket")
        if bucket and (region := headers.get("x-amz-bucket-region")):
            self.regions[bucket] = region

    def region(self, bucket: str) -> str:
        """Return a bucket's region where an answer named it, else the client's."""
        return self.regions.get(bucket) or self.s3.meta.region_name or "us-east-1"

    def find_region(self, bucket: str) -> str:
        """Ask for a bucket's region: this client follows it there, obstore does not."""
        with suppress(StorageError, FileNotFoundError, ClientError):  # a refusal names it as well
            self.call_s3("list_objects_v2", Bucket=bucket, MaxKeys=1)
        return self.region(bucket)

    def failure(self, uri: str, error: BaseException) -> StorageError:
        """Say in one line what went wrong with a request."""
        return retries.failure(uri, error, remedy=s3_settings.unsigned() if self.anon else None)

    async def _call_s3(self, method: str, *akwarglist: Any, **kwargs: Any) -> Any:
        """Call one operation; bodies are read here, where a connection that breaks in the middle
        can be tried again."""
        uri = "s3://" + "/".join(str(kwargs[name]) for name in ("Bucket", "Key") if name in kwargs)
        call = super()._call_s3

        async def request() -> Any:
            answer = await call(method, *akwarglist, **kwargs)
            if method == "get_object":
                body = answer["Body"]
                try:
                    answer["Body"] = _Body(await body.read())
                finally:
                    body.close()
            return answer

        try:
            if method == "get_object":  # what the client's hook has tried is not tried again
                return await retries.patiently_async(request, self.retry_s)
            return await request()
        except Exception as error:
            status, code, _ = retries.answer(error)
            if (status in _PASSED_ON and code != "NoSuchBucket") or not retries.is_of_client(error):
                raise
            failure = self.failure(uri, error)
        raise failure from None  # the client's own error may hold the access key

    call_s3 = sync_wrapper(_call_s3)


class _Body(io.BytesIO):
    """A body that has been read, as s3fs's callers expect it."""

    async def read(self, size: int = -1) -> bytes:  # type: ignore[override]
        return super().read(size)


def read_range(fs: PatientS3, path: str, start: int, stop: int) -> bytes:
    """Read bytes [start, stop) of the object at `bucket/key`, fewer where it is shorter.

    Raises:
        FileNotFoundError: there is no such object.
        StorageError: anything else.
    """
    bucket, _, key = path.partition("/")
    uri = f"s3://{path}"

    def request(region: str) -> bytes:
        with _OPENING:  # one of many threads that ask at once
            store = _store(bucket, fs, region)
        get = partial(obstore.get_range, store, key, start=start, end=stop)
        return bytes(retries.patiently(get, fs.retry_s))

    region = fs.region(bucket)
    try:
        try:
            return request(region)
        except obstore.exceptions.GenericError as error:
            if retries.answer(error)[1] not in ELSEWHERE or fs.find_region(bucket) == region:
                raise
            return request(fs.region(bucket))
    except FileNotFoundError as error:
        if retries.answer(error)[1] != "NoSuchBucket":
            raise FileNotFoundError(uri) from None
        failure = fs.failure(uri, error)
    except ValueError:  # a key that obstore does not spell: empty path segments, control characters
        return bytes(fs.cat_file(path, start=start, end=stop))
    except Exception as error:
        if retries.answer(error)[1] == "InvalidRange":  # it begins behind the object's end
            return b""
        if not retries.is_of_client(error):
            raise
        failure = fs.failure(uri, error)
    raise failure from None


def neighbours(fs: PatientS3, path: str, count: int) -> list[str]:
    """List a few objects behind the one at `bucket/key`, and the first ones of its folder and of
    its bucket."""
    bucket, _, key = path.partition("/")
    folder = key.rpartition("/")[0] + "/" if "/" in key else ""
    found: dict[str, None] = {}
    for prefix, after in ((folder, key), (folder, ""), ("", "")):
        options = {"StartAfter": after} if after else {}
        page = sync(
            fs.loop,
            fs._call_s3,
            "list_objects_v2",
            Bucket=bucket,
            Prefix=prefix,
            MaxKeys=count,
            **options,
        )
        found |= {info["Key"]: None for info in page.get("Contents", []) if info["Size"]}
    return [f"{bucket}/{other}" for other in found if other != key]


@lru_cache(maxsize=32)
def _store(bucket: str, fs: PatientS3, region: str) -> S3Store:
    """Open a bucket where it is, as s3fs does."""
    settings = s3_settings.settings()
    here = region == (fs.s3.meta.region_name or "us-east-1")
    timeout_s = retries.timeout_s()
    trust: ClientConfig = {}
    if settings.ca_bundle:
        trust = {"root_certificate": Path(settings.ca_bundle).read_bytes()}
    access: dict[str, Any] = {"skip_signature": True}
    if not fs.anon:
        access = {"credential_provider": partial(_keys, settings.credentials)}
    return S3Store(
        bucket,
        endpoint=fs.s3.meta.endpoint_url if here else s3_settings.endpoint_in(region),
        region=region,
        retry_config={"max_retries": 0},
        client_options={
            "allow_http": True,
            "timeout": timedelta(days=1),  # of a whole request: a slow one is not a stalled one
            "read_timeout": timedelta(seconds=timeout_s),
            "connect_timeout": timedelta(seconds=min(10.0, timeout_s)),
            **trust,
        },
        **access,
    )


def _keys(credentials: Any) -> Any:
    """Return the keys of now, as obstore takes them."""
    now = credentials.get_frozen_credentials()
    expires_at = (
        datetime.now(UTC) + CREDENTIALS_FOR
        if isinstance(credentials, RefreshableCredentials)
        else None
    )
    keys = {
        "access_key_id": now.access_key,
        "secret_access_key": now.secret_key,
        "token": now.token,
    }
    return keys | {"expires_at": expires_at}


def options_of_others(fs: PatientS3, bucket: str) -> dict[str, str]:
    """Return how a library with a client of its own reaches a bucket, with the keys of now."""
    settings = s3_settings.settings()
    region = fs.find_region(bucket)
    here = region == (fs.s3.meta.region_name or "us-east-1")
    endpoint = fs.s3.meta.endpoint_url if here else s3_settings.endpoint_in(region)
    options = {"region": region, "endpoint": str(endpoint), "allow_http": "true"}
    if fs.anon:
        return options | {"skip_signature": "true"}
    keys = {name: value for name, value in _keys(settings.credentials).items() if value}
    names = {
        "access_key_id": "access_key_id",
        "secret_access_key": "secret_access_key",
        "token": "session_token",
    }
    return options | {other: str(keys[name]) for name, other in names.items() if name in keys}


def forget_clients() -> None:
    """Drop open clients."""
    _store.cache_clear()
    s3_settings.forget()
