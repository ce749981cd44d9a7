"""Both clients of S3, for files and for samples, are configured alike."""

import ssl
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trustme

from pipelines.storage import retries, uris, variables
from pipelines.storage.clients import s3_settings
from pipelines.storage.retries import RETRIES, Refused, StorageError
from tests.faults.s3fault import FaultProxy, Rule
from tests.object_store import PUBLIC, ObjectStore

URI = f"s3://{PUBLIC}/folder/object"
CLIENTS = {"files": uris.read_bytes, "samples": lambda uri: uris.read_range(uri, 0, 7)}


@pytest.fixture(scope="module")
def filled(object_store: ObjectStore) -> ObjectStore:
    object_store.make_bucket(PUBLIC)
    uris.write_bytes(URI, b"content")
    return object_store


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Variables of this test only, and clients that read them."""
    for name in (variables.CA_BUNDLE, variables.TRUSTED, variables.SKIP_SIGNATURE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(retries.RETRY_VARIABLE, "20")
    uris.forget_clients()
    yield monkeypatch
    monkeypatch.undo()
    uris.forget_clients()


def point_at(endpoint: str, patch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        patch.setenv(name, endpoint)
    uris.forget_clients()


def server_side(
    authority: trustme.CA, name: str = "127.0.0.1", until: int = 2100
) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certificate = authority.issue_cert(name, not_after=datetime(until, 1, 1, tzinfo=UTC))
    certificate.configure_cert(context)
    return context


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def trusted(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("authority") / "ca.pem"
    authority.cert_pem.write_to_path(file)
    return file


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("variable", [variables.CA_BUNDLE, variables.TRUSTED])
def test_a_private_authority_is_trusted_by_both_clients(
    variable: str,
    client: str,
    filled: ObjectStore,
    authority: trustme.CA,
    trusted: Path,
    fresh: pytest.MonkeyPatch,
) -> None:
    with FaultProxy(filled.endpoint, tls=server_side(authority)) as proxy:
        fresh.setenv(variable, str(trusted))
        point_at(proxy.endpoint, fresh)
        assert CLIENTS[client](URI) == b"content"
        fresh.delenv(variable)
        uris.forget_clients()
        before = RETRIES.total
        with pytest.raises(StorageError, match=r"TLS: .*not trusted here: .*AWS_CA_BUNDLE"):
            CLIENTS[client](URI)
        assert RETRIES.total == before


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize(
    ("name", "until", "said"),
    [("other.example", 2100, "for another name"), ("127.0.0.1", 2020, "has expired")],
)
def test_what_is_wrong_with_a_certificate_is_said_at_once(
    name: str,
    until: int,
    said: str,
    client: str,
    filled: ObjectStore,
    authority: trustme.CA,
    trusted: Path,
    fresh: pytest.MonkeyPatch,
) -> None:
    fresh.setenv(variables.CA_BUNDLE, str(trusted))
    before = RETRIES.total
    with FaultProxy(filled.endpoint, tls=server_side(authority, name, until)) as proxy:
        point_at(proxy.endpoint, fresh)
        with pytest.raises(StorageError, match=f"TLS: .*{said}"):
            CLIENTS[client](URI)
    assert RETRIES.total == before


@pytest.mark.parametrize("client", CLIENTS)
def test_tls_to_a_server_without_it_is_said_at_once(
    client: str, filled: ObjectStore, fresh: pytest.MonkeyPatch
) -> None:
    before = RETRIES.total
    point_at(filled.endpoint.replace("http://", "https://"), fresh)
    with pytest.raises(StorageError, match="TLS: the server speaks no TLS there"):
        CLIENTS[client](URI)
    assert RETRIES.total == before


def test_a_bundle_that_is_not_there_is_named(fresh: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fresh.setenv(variables.CA_BUNDLE, f"{tmp_path}/none.pem")
    uris.forget_clients()
    with pytest.raises(StorageError, match=r"AWS_CA_BUNDLE=.*none.pem is no file"):
        uris.read_bytes(URI)


@pytest.mark.parametrize("first", CLIENTS)
@pytest.mark.parametrize(
    ("status", "code"), [(301, "PermanentRedirect"), (400, "AuthorizationHeaderMalformed")]
)
def test_a_bucket_in_another_region_is_followed_by_both_clients(
    status: int, code: str, first: str, filled: ObjectStore, fresh: pytest.MonkeyPatch
) -> None:
    with FaultProxy(filled.endpoint) as proxy:
        point_at(proxy.endpoint, fresh)
        proxy.rules = [Rule("elsewhere", region="eu-north-1", status=status, code=code)]
        for client in sorted(CLIENTS, key=lambda name: name != first):
            assert CLIENTS[client](URI) == b"content"
        asked = sum(proxy.requests.values())
        for client in CLIENTS:
            assert CLIENTS[client](URI) == b"content"
        assert sum(proxy.requests.values()) == asked + len(CLIENTS)  # nobody is sent on again


def test_amazons_endpoint_is_the_one_of_the_buckets_region(fresh: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        fresh.delenv(name)
    assert s3_settings.endpoint_in("eu-north-1") == "https://s3.eu-north-1.amazonaws.com"
    fresh.setenv("AWS_REGION", "eu-west-3")
    fresh.setenv("AWS_DEFAULT_REGION", "us-east-2")
    fs, _ = uris.filesystem(URI)
    assert fs.s3.meta.endpoint_url == "https://s3.eu-west-3.amazonaws.com"


@pytest.mark.parametrize("asked", [False, True])
def test_a_public_bucket_is_read_without_credentials(
    asked: bool,
    filled: ObjectStore,
    fresh: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if asked:
        fresh.setenv(variables.SKIP_SIGNATURE, "true")
    else:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            fresh.delenv(name)
        for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
            fresh.setenv(name, "/dev/null")
    uris.forget_clients()
    assert [read(URI) for read in CLIENTS.values()] == [b"content"] * 2
    assert uris.list_names(f"s3://{PUBLIC}") == ["folder"]
    assert capsys.readouterr().err.count("no AWS credentials") == (not asked)
    remedy = "unset AWS_SKIP_SIGNATURE" if asked else "set AWS_ACCESS_KEY_ID"
    with pytest.raises(Refused, match=f"AccessDenied.*requests are not signed: {remedy}"):
        uris.write_bytes(f"s3://{PUBLIC}/written", b"x")
    filled.filesystem().mkdir("private" + "asked" * asked)
    for read in CLIENTS.values():
        with pytest.raises(Refused, match=f"requests are not signed: {remedy}"):
            read(f"s3://private{'asked' * asked}/object")


def test_a_profile_that_only_the_driver_has_is_left_out(
    fresh: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "credentials"
    file.write_text("[known]\naws_access_key_id = theirs\naws_secret_access_key = secret\n")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        fresh.delenv(name)
    fresh.setenv("AWS_PROFILE", "")  # so that it is taken back at the end
    fresh.delenv("AWS_PROFILE")
    fresh.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    fresh.setenv(variables.PROFILE, "unknown")
    assert not s3_settings.settings().signed
    fresh.setenv(variables.PROFILE, "known")
    s3_settings.forget()
    assert s3_settings.settings().credentials.access_key == "theirs"


def test_settings_are_forwarded_and_keys_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.setenv(name, "topsecret")
    for name in ("AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_CONNECTION_STRING"):
        monkeypatch.setenv(name, "topsecret")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://name:topsecret@proxy.example")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "https://s3.example")
    monkeypatch.setenv("AWS_PROFILE", "mine")
    found = variables.forwarded()
    assert found["AWS_ENDPOINT_URL_S3"] == "https://s3.example"
    assert found[variables.PROFILE] == "mine"
    assert "topsecret" not in str(found)
