import sys

import pytest

from pipelines.storage import addresses, uris

HOST = "account.dfs.core.windows.net"


def test_a_container_before_an_account_is_no_credential() -> None:
    uri = f"abfs://container@{HOST}/images/a.jpg"
    assert addresses.absolute(uri) == uri
    assert addresses.account(uri) == HOST
    assert addresses.beside(uri, "container/other") == f"abfs://container@{HOST}/other"
    assert addresses.account("az://container/images") is None
    assert addresses.beside("gs://bucket/a", "bucket/b") == "gs://bucket/b"
    assert addresses.beside("/folder/a", "/folder/b") == "/folder/b"


@pytest.mark.parametrize(
    "uri",
    [
        f"abfs://container:secret@{HOST}/a",
        f"abfs://key:secret@container@{HOST}/a",
        "abfs://secret@example.com/a",
        "gs://secret@bucket/a",
        "az://container/a?sv=2022-11-02&sp=r&sig=secret%3D",
        "https://bucket.s3.amazonaws.com/a?X-Amz-Signature=secret",
    ],
)
def test_a_secret_in_a_uri_is_refused_and_not_repeated(uri: str) -> None:
    with pytest.raises(ValueError, match="carries credentials") as caught:
        addresses.absolute(uri)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("uri", "module", "extra"),
    [("gs://b/a", "gcsfs.core", "gcs"), ("abfs://b/a", "adlfs.spec", "azure")],
)
def test_a_client_that_is_not_installed_is_named_by_its_extra(
    uri: str, module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    client = {"gcs": "gcs", "azure": "azure_blobs"}[extra]
    monkeypatch.delitem(sys.modules, f"pipelines.storage.clients.{client}", raising=False)
    uris.forget_clients()
    with pytest.raises(ValueError, match=rf"pip install 'afield\[{extra}\]'"):
        uris.filesystem(uri)
