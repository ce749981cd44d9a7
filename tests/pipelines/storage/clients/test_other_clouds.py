"""gs:// and az:// on their emulators: read, written and listed as S3 is, failing as S3 does."""

import http.server
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from models import artifact
from pipelines import schema
from pipelines.corpus import listing
from pipelines.media.contract import BadSample
from pipelines.registry import moves
from pipelines.registry.model_versions import register
from pipelines.registry.registered_model import RegisteredModel
from pipelines.registry.signature import Signature
from pipelines.storage import lease, parquet_files, retries, uris
from pipelines.storage.retries import RETRIES, StorageError
from pipelines.stream.fetch import fetch
from tests import cloud_emulators
from tests.faults.s3fault import ECHOED_KEY, FaultProxy, Rule

CONTENT = os.urandom(100_000)


@dataclass
class Store:
    """An emulator behind a proxy that may misbehave.

    Attributes:
        scheme: Of its URIs.
        proxy: Between the emulator and the clients.
        variables: What clients are told.
    """

    scheme: str
    proxy: FaultProxy
    variables: dict[str, str]

    @property
    def bucket(self) -> str:
        """URI of the bucket."""
        return f"{self.scheme}://bucket"


@contextmanager
def opened(store: Store) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("GOOGLE_APPLICATION_CREDENTIALS", "AZURE_STORAGE_ACCOUNT_NAME"):
            patch.delenv(name, raising=False)
        for name, value in store.variables.items():
            patch.setenv(name, value)
        patch.setenv(retries.TIMEOUT_VARIABLE, "2")
        patch.setenv(retries.RETRY_VARIABLE, "20")
        uris.forget_clients()
        fs, _ = uris.filesystem(store.bucket)
        fs.mkdir("bucket")
        for name in ("a.jpg", "below/b.jpg", "below/c d#é.jpg"):
            uris.write_bytes(f"{store.bucket}/images/{name}", CONTENT)
        yield
    uris.forget_clients()


@pytest.fixture(scope="module")
def google(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    folder = tmp_path_factory.mktemp("google")
    with cloud_emulators.fake_gcs(folder) as url, FaultProxy(url) as proxy:
        store = Store("gs", proxy, {"STORAGE_EMULATOR_HOST": proxy.endpoint})
        with opened(store):
            yield store


@pytest.fixture(scope="module")
def azure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    folder = tmp_path_factory.mktemp("azure")
    with cloud_emulators.azurite(folder) as url, FaultProxy(url) as proxy:
        said = cloud_emulators.connection_string(proxy.endpoint)
        store = Store("az", proxy, {"AZURE_STORAGE_CONNECTION_STRING": said})
        with opened(store):
            yield store


@pytest.fixture(params=["google", "azure"])
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    found: Store = request.getfixturevalue(request.param)
    found.proxy.rules = []
    with pytest.MonkeyPatch.context() as patch:  # the other one's module may be open beside it
        for name, value in found.variables.items():
            patch.setenv(name, value)
        yield found
    found.proxy.rules = []


def rows(store: Store, name: str, offset: int, length: int) -> pa.Table:
    row = {"sample_id": 1, "uri": f"{store.bucket}/{name}", "offset": offset, "length": length}
    row |= {"member": None, "etag": "", "media": "image"}
    return pa.Table.from_pylist([row], schema=schema.MANIFEST)


def test_ranges_are_read_and_what_lies_beyond_the_end_is_truncated(store: Store) -> None:
    name = "images/a.jpg"
    assert fetch(rows(store, name, 10, 90)) == [CONTENT[10:100]]
    for offset in (len(CONTENT) - 5, len(CONTENT), len(CONTENT) + 1000):
        (problem,) = fetch(rows(store, name, offset, 100))
        assert isinstance(problem, BadSample) and problem.reason == "truncated", offset


def test_a_missing_object_is_a_bad_sample_and_a_missing_bucket_is_not(store: Store) -> None:
    (problem,) = fetch(rows(store, "images/none.jpg", 0, 10))
    assert isinstance(problem, BadSample) and problem.reason == "missing"
    with pytest.raises(StorageError, match=r"://nobody.*(NoSuchBucket|ContainerNotFound)"):
        uris.read_range(f"{store.scheme}://nobody/a.jpg", 0, 10)
    assert "://nobody" in str(uris.reachable(f"{store.scheme}://nobody/images"))
    assert uris.reachable(f"{store.bucket}/images") is None


def test_a_listing_names_what_lies_below_the_source(store: Store) -> None:
    found = {entry.uri: entry.size for entry in listing.entries(f"{store.bucket}/images")}
    names = ("a.jpg", "below/b.jpg", "below/c d#é.jpg")
    assert found == {f"{store.bucket}/images/{name}": len(CONTENT) for name in names}
    assert uris.list_names(f"{store.bucket}/images") == ["a.jpg", "below"]
    assert uris.list_folders(f"{store.bucket}/images") == ["below"]
    assert uris.read_bytes(f"{store.bucket}/images/{names[2]}") == CONTENT


def write_half(uri: str) -> None:
    with uris.open_atomic(uri) as file:
        file.write(b"half of the new")
        raise KeyError


def test_files_are_written_whole_or_not_at_all(store: Store) -> None:
    uri = f"{store.bucket}/written/file"
    uris.write_bytes(uri, b"old")
    with pytest.raises(KeyError):
        write_half(uri)
    assert uris.read_bytes(uri) == b"old"
    fs, path = uris.arrow_filesystem(f"{store.bucket}/written/table.parquet")
    pq.write_table(pa.table({"x": range(10)}), path, filesystem=fs)
    with parquet_files.open_parquet(f"{store.bucket}/written/table.parquet") as file:
        assert file.read_row_group(0)["x"].to_pylist() == list(range(10))
    assert uris.unwritable(f"{store.bucket}/written") is None
    uris.remove(f"{store.bucket}/written")
    assert uris.list_names(f"{store.bucket}/written") == []


def test_leases_and_aliases_hold_as_on_s3(store: Store, small_artifact: str) -> None:
    place = f"{store.bucket}/agreed/file"
    assert uris.create(place, b"first") and not uris.create(place, b"second")
    assert uris.read_bytes(place) == b"first"
    out = f"{store.bucket}/agreed/out"
    with (
        lease.held(out, owner="retrain"),
        pytest.raises(lease.Busy, match="is in use by retrain on"),
        lease.held(out, owner="b"),
    ):
        pass
    model = RegisteredModel(f"{store.bucket}/registry", "encoder")
    by = Signature("now", "a", "b", "c")
    for slot in ("1", "2"):
        given: dict[str, Any] = {"lineage": {"slot": slot}, "metrics": {}, "by": by}
        version, _ = register(model, small_artifact, **given)
        moves.promote(model, "champion", version.number, by=by)
    assert moves.rollback(model, "champion", by=by).after == 1
    assert [(move.action, move.after) for move in moves.history(model)] == [
        ("promote", 1),
        ("promote", 2),
        ("rollback", 1),
    ]
    assert json.loads(uris.read_bytes(model.alias("champion")))["version"] == 1
    assert artifact.load(uris.join(model.uri, "versions", "0000002", "artifact")).digest


PASSING = {
    "throttled": Rule("reply", status=503, code="ServerBusy", count=3),
    "server error": Rule("reply", status=500, code="InternalError", count=3),
    "reset": Rule("reset", count=3),
    "cut body": Rule("trunc_body", after=5000, count=3),
    "stalled": Rule("hang", count=2),
}


@pytest.mark.parametrize("fault", PASSING)
def test_a_passing_fault_is_ridden_out_and_counted(fault: str, store: Store) -> None:
    rule = PASSING[fault]
    rule.method, rule.hits = "GET", 0
    store.proxy.rules = [rule]
    before = RETRIES.total
    assert fetch(rows(store, "images/a.jpg", 0, len(CONTENT))) == [CONTENT]
    assert rule.hits == rule.count and RETRIES.total > before
    rule = Rule(rule.action, "PUT|POST", status=rule.status, count=2)
    store.proxy.rules = [rule] if rule.action in ("reply", "reset") else []
    uris.write_bytes(f"{store.bucket}/faults/{fault}", b"content")
    assert uris.read_bytes(f"{store.bucket}/faults/{fault}") == b"content"


def test_a_refusal_stops_at_once_in_one_line(store: Store) -> None:
    rule = Rule("reply", status=403, code="AuthorizationPermissionMismatch", path="images|o/")
    before = RETRIES.total
    store.proxy.rules = [rule]
    place = f"{store.bucket}/images/a.jpg"
    calls = [lambda: uris.read_range(place, 0, 10), lambda: uris.read_bytes(place)]
    for number, call in enumerate([*calls, lambda: uris.size(place)], 1):
        with pytest.raises(
            StorageError, match=f"{store.bucket}.*refused.*(check the cred|not signed)"
        ) as caught:
            call()
        two_ways = store.bucket.startswith("gs://") and number == len(calls) + 1
        # Google's client asks for a size in two ways at once
        assert rule.hits == number or (two_ways and rule.hits == number + 1)
        assert "\n" not in str(caught.value)
        assert ECHOED_KEY not in str(caught.value)
    assert RETRIES.total == before
    store.proxy.rules = [Rule("reply", method="PUT|POST", status=403, code="AuthorizationFailure")]
    with pytest.raises(StorageError, match="refused"):
        uris.write_bytes(f"{store.bucket}/refused", b"x")


def test_patience_ends(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(retries.RETRY_VARIABLE, "0.5")
    uris.forget_clients()
    store.proxy.rules = [Rule("reply", status=503, code="ServerBusy")]
    with pytest.raises(StorageError, match=r"503.*storage_retry_s"):
        uris.read_bytes(f"{store.bucket}/images/a.jpg")
    monkeypatch.undo()
    uris.forget_clients()


def test_a_wrong_key_of_azure_is_one_line_without_it(
    azure: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = "AAAA" + cloud_emulators.ACCOUNT_KEY[4:]
    for key in (wrong, wrong[1:], "no base64"):
        said = cloud_emulators.connection_string(azure.proxy.endpoint, key)
        monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", said)
        uris.forget_clients()
        problem = str(uris.reachable(f"{azure.bucket}/images"))
        assert "refused" in problem and "check the credentials" in problem
        assert key not in problem and "\n" not in problem
    monkeypatch.undo()
    uris.forget_clients()


def test_an_account_in_the_uri_stays_in_what_is_listed(azure: Store) -> None:
    account = f"{cloud_emulators.ACCOUNT}.dfs.core.windows.net"
    source = f"abfs://bucket@{account}/images"
    found = sorted(entry.uri for entry in listing.entries(source))
    assert found[0] == f"{source}/a.jpg" and len(found) == 3
    assert uris.read_range(found[0], 0, 10) == CONTENT[:10]
    other = "abfs://bucket@another.dfs.core.windows.net/images"
    with pytest.raises(StorageError, match=r"is of account .*another is asked for"):
        uris.read_bytes(other)


def test_a_wrong_key_of_google_is_one_line_without_it(
    google: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Refuses(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            said = {"error": "invalid_grant", "error_description": "Invalid JWT Signature."}
            self.send_response(400)
            self.end_headers()
            self.wfile.write(json.dumps(said).encode())

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    secret = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()
    file = tmp_path / "account.json"
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file))
    with http.server.HTTPServer(("127.0.0.1", 0), Refuses) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        account = {"type": "service_account", "client_email": "a@b.example", "private_key": secret}
        token_uri = f"http://127.0.0.1:{server.server_address[1]}/token"
        file.write_text(json.dumps(account | {"token_uri": token_uri}))
        uris.forget_clients()
        before = RETRIES.total
        with pytest.raises(StorageError, match=r"invalid_grant.*check the credentials") as caught:
            uris.read_bytes(f"{google.bucket}/images/a.jpg")
        server.shutdown()
    assert RETRIES.total == before
    assert secret.split("\n")[1] not in str(caught.value) and "\n" not in str(caught.value)
    file.write_text("{}")
    uris.forget_clients()
    with pytest.raises(StorageError, match=r"GOOGLE_APPLICATION_CREDENTIALS=.*account.json"):
        uris.read_bytes(f"{google.bucket}/images/a.jpg")
    monkeypatch.undo()
    uris.forget_clients()
