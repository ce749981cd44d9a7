"""The keys of a role run out: they are asked for again while a client goes on."""

import http.server
import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from botocore.credentials import RefreshableCredentials

from pipelines.storage import uris
from pipelines.storage.clients import s3
from pipelines.storage.retries import StorageError
from tests.object_store import ObjectStore

URI = "s3://role/object"


class Role:
    """Hands out keys that run out in five minutes, as the agent of a container does.

    Attributes:
        secret: Of the keys that it hands out.
        asked: How often it was asked for them.
        url: Where.
    """

    def __init__(self, store: ObjectStore) -> None:
        self._key = store.access_key
        self.secret = store.secret_key
        self.asked = 0
        self.url = ""

    def answer(self) -> bytes:
        self.asked += 1
        expiry = (datetime.now(UTC) + timedelta(minutes=5)).isoformat()
        keys = {"AccessKeyId": self._key, "SecretAccessKey": self.secret, "Expiration": expiry}
        return json.dumps(keys | {"Token": None}).encode()


@pytest.fixture
def role(object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[Role]:
    """The only credentials there are."""
    if not object_store.filesystem().exists("role"):
        object_store.make_bucket("role")
    uris.write_bytes(URI, b"content")
    made = Role(object_store)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = made.answer()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        made.url = f"http://127.0.0.1:{server.server_address[1]}/"
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", made.url)
        uris.forget_clients()
        yield made
        server.shutdown()
    monkeypatch.undo()
    uris.forget_clients()


def read() -> bytes:
    return uris.read_range(URI, 0, 100)


def test_keys_of_a_role_are_renewed_while_a_client_is_open(
    role: Role, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "CREDENTIALS_FOR", timedelta(0))
    right = role.secret
    role.secret = "revoked"
    with pytest.raises(StorageError, match="refused"):
        read()
    role.secret = right
    assert read() == b"content"
    role.secret = "revoked"
    with pytest.raises(StorageError, match="refused"):
        read()


def test_keys_of_a_role_are_kept_while_they_are_good(role: Role) -> None:
    assert read() == b"content"
    before = role.asked
    for _ in range(20):
        assert read() == b"content"
    assert role.asked - before < 20


def test_keys_are_not_kept_beyond_what_botocore_promises() -> None:
    promised = timedelta(seconds=RefreshableCredentials._mandatory_refresh_timeout)
    assert timedelta(0) < s3.CREDENTIALS_FOR <= promised
