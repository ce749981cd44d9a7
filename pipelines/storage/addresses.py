"""What a URI says by itself: which kind of storage, which account, whether it carries a secret."""

import os
import re
from urllib.parse import urlsplit

from fsspec.registry import known_implementations, registry

from pipelines.storage.clients.rendered_scenes import canonical

S3_PROTOCOLS = ("s3", "s3a")
AZURE_PROTOCOLS = ("az", "abfs", "abfss")
SYNTHETIC = "synthetic"
"""Of rendered scenes."""
_SIGNED = re.compile(r"[?&](sig|X-Amz-Signature|X-Goog-Signature)=")


def absolute(uri: str) -> str:
    """Return the URI with a local relative path made absolute, and the settings of rendered scenes
    in their path; other URIs unchanged.

    Raises:
        ValueError: the URI is empty or carries credentials, where the message does not repeat them;
            or it names scenes that there cannot be.
    """
    if not uri:
        raise ValueError(
            "a URI must not be empty: give a path or something like s3://bucket/prefix"
        )
    if "://" not in uri:
        return os.path.abspath(os.path.expanduser(uri))
    parts = urlsplit(uri)
    if parts.scheme == SYNTHETIC:
        return canonical(uri)
    before = f"{parts.scheme}://***@" if "@" in parts.netloc else f"{parts.scheme}://"
    if ("@" in parts.netloc and account(uri) is None) or _SIGNED.search(uri):
        raise ValueError(
            f"{before}{parts.netloc.rpartition('@')[2]}{parts.path} carries"
            " credentials: leave them out of the URI and use the environment (AWS_ACCESS_KEY_ID,"
            " AWS_PROFILE) or an instance role"
        )
    if parts.scheme == "file":
        return os.path.abspath(uri.removeprefix("file://"))
    return uri


def check_scheme(uri: str) -> None:
    """Refuse a storage that nobody here can open.

    Raises:
        ValueError: with the remedy.
    """
    scheme = urlsplit(uri).scheme
    known = (*known_implementations, *registry, SYNTHETIC)
    if not is_local(uri) and scheme not in known:
        raise ValueError(
            f"{uri} begins with {scheme}://, which no storage here serves: give a path, or s3://,"
            " gs://, az:// or another of fsspec's"
        )


def account(uri: str) -> str | None:
    """Return the host of the account that a URI of Azure names behind its container, None where
    there is none: `abfs://container@account.dfs.core.windows.net/key`."""
    parts = urlsplit(uri)
    container, _, host = parts.netloc.partition("@")
    named = parts.scheme in AZURE_PROTOCOLS and ":" not in container and "@" not in host
    return host if named and container and re.match(r"[a-z0-9]+\.(dfs|blob)\.", host) else None


def is_local(uri: str) -> bool:
    """Tell whether the URI is a path of this machine's file system."""
    return "://" not in uri or uri.startswith("file://")


def is_s3(uri: str) -> bool:
    """Tell whether the URI names something in S3."""
    return urlsplit(uri).scheme in S3_PROTOCOLS


def beside(uri: str, path: str) -> str:
    """Return the URI of another path of the same filesystem, as it was written for the first."""
    if is_local(uri):
        return path
    if (host := account(uri)) is not None:
        container, _, key = path.lstrip("/").partition("/")
        return f"{urlsplit(uri).scheme}://{container}@{host}/{key}"
    return f"{urlsplit(uri).scheme}://{path.lstrip('/')}"


def join(uri: str, *names: str) -> str:
    """Append path segments to a URI."""
    return "/".join([uri.rstrip("/"), *names])
