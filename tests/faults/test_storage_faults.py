"""Object storage under fault: what passes is ridden out and counted, what does not stops at once;
none is bad data."""

import hashlib
import io
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import schema
from pipelines.corpus import listing
from pipelines.corpus.entry import Selection
from pipelines.corpus.listed_rows import REFUSED, rows_of, sample_id
from pipelines.media.contract import BadSample
from pipelines.storage import retries, uris
from pipelines.storage.retries import RETRIES, StorageError
from pipelines.stream.fetch import fetch
from tests.commands import ROOT
from tests.faults.s3fault import ECHOED_KEY, FaultProxy, Rule
from tests.object_store import ObjectStore

BUCKET = "s3://faults"
OBJECTS = {f"{number:02d}": os.urandom(20_000 + number) for number in range(24)}


@pytest.fixture(scope="module")
def filled(object_store: ObjectStore) -> None:
    object_store.make_bucket("faults")
    for name, data in OBJECTS.items():
        uris.write_bytes(f"{BUCKET}/images/{name}", data)


@pytest.fixture(scope="module")
def opened(object_store: ObjectStore, filled: None) -> Iterator[FaultProxy]:
    """The suite's server behind a proxy that may misbehave, and clients that lose patience soon."""
    with FaultProxy(object_store.endpoint) as proxy, pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
            patch.setenv(name, proxy.endpoint)
        patch.setenv(retries.TIMEOUT_VARIABLE, "1")
        patch.setenv(retries.RETRY_VARIABLE, "20")
        uris.forget_clients()
        yield proxy
    uris.forget_clients()


@pytest.fixture
def proxy(opened: FaultProxy) -> Iterator[FaultProxy]:
    """The proxy, which behaves until told otherwise."""
    opened.rules = []
    yield opened
    opened.rules = []


def rows(names: list[str], etags: dict[str, str] | None = None) -> pa.Table:
    found = [
        {
            "sample_id": sample_id(name, None, ""),
            "uri": f"{BUCKET}/images/{name}",
            "offset": 0,
            "length": len(OBJECTS[name]),
            "member": None,
            "etag": (etags or {}).get(name, hashlib.md5(OBJECTS[name]).hexdigest()),
            "media": "image",
        }
        for name in names
    ]
    return pa.Table.from_pylist(found, schema=schema.MANIFEST)


PASSING = {
    "throttled": Rule("reply", count=8),
    "server error": Rule("reply", status=500, code="InternalError", count=8),
    "reset": Rule("reset", count=8),
    "reset in the body": Rule("reset_body", after=5000, count=8),
    "cut body": Rule("trunc_body", after=5000, count=8),
    "stalled": Rule("hang", count=2),
    "stalled in the body": Rule("hang_body", after=5000, count=2),
    "timeout with status 400": Rule("reply", status=400, code="RequestTimeout", count=8),
}


@pytest.mark.parametrize("fault", PASSING)
def test_a_passing_fault_of_reads_is_ridden_out_and_counted(fault: str, proxy: FaultProxy) -> None:
    rule = PASSING[fault]
    rule.method = "GET"
    proxy.rules = [rule]
    before, wanted = RETRIES.total, rule.count
    assert fetch(rows(list(OBJECTS))) == list(OBJECTS.values())
    assert rule.hits == RETRIES.total - before == wanted
    rule.count += 1
    assert uris.read_bytes(f"{BUCKET}/images/00") == OBJECTS["00"]  # through the other client
    assert rule.hits == wanted + 1
    # aiohttp tries again itself where a kept connection turns out reset
    assert RETRIES.total - before >= wanted


def test_a_slow_read_is_waited_for(proxy: FaultProxy) -> None:
    proxy.rules = [Rule("slow", rate=15_000)]
    before = RETRIES.total
    assert fetch(rows(["00"])) == [OBJECTS["00"]]
    assert RETRIES.total == before


@pytest.mark.parametrize("action", ["reply", "reset", "ack_lost", "hang"])
def test_a_passing_fault_of_writes_is_ridden_out(action: str, proxy: FaultProxy) -> None:
    count = 1 if action == "hang" else 2  # each hangs for a second
    proxy.rules = [Rule(action, method="PUT|POST", count=count)]
    uris.write_bytes(f"{BUCKET}/written/{action}", b"content")
    proxy.rules = [Rule(action, method="GET|HEAD", count=count)]
    assert uris.list_names(f"{BUCKET}/written").count(action) == 1
    proxy.rules = [Rule(action, method="GET|HEAD", count=count)]
    fs, path = uris.arrow_filesystem(f"{BUCKET}/written/{action}.parquet")
    pq.write_table(pa.table({"x": [1, 2]}), path, filesystem=fs)
    assert pq.read_table(path, filesystem=fs)["x"].to_pylist() == [1, 2]


@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_an_upload_in_parts_survives_lost_answers(method: str, proxy: FaultProxy) -> None:
    fs, path = uris.filesystem(f"{BUCKET}/written/parts")
    proxy.rules = [Rule("ack_lost", method=method, count=2), Rule("reply", method=method, count=2)]
    data = os.urandom(11 << 20)
    with fs.open(path, "wb", block_size=5 << 20) as file:
        file.write(data)
    assert uris.read_bytes(f"{BUCKET}/written/parts") == data


PERMANENT = {
    "AccessDenied": 403,
    "InvalidAccessKeyId": 403,
    "SignatureDoesNotMatch": 403,
    "ExpiredToken": 400,
    "InvalidToken": 400,
    "NoSuchBucket": 404,
}


@pytest.mark.parametrize("code", PERMANENT)
def test_a_refusal_stops_at_once_with_the_uri_and_the_error(code: str, proxy: FaultProxy) -> None:
    rule = Rule("reply", status=PERMANENT[code], code=code)
    proxy.rules = [rule]
    before, calls = RETRIES.total, 0
    place = f"{BUCKET}/images/00"
    # a small file that is looked for may be missing with its bucket
    for call in (
        lambda: fetch(rows(["00"])),
        lambda: uris.write_bytes(place, b"x"),
        lambda: uris.read_bytes(place),
    )[: 2 if code == "NoSuchBucket" else 3]:
        with pytest.raises(
            StorageError, match=f"{place}: .*({code}|{PERMANENT[code]}|Bad Request)"
        ) as caught:
            call()
        calls += 1
        message = str(caught.value)
        assert (
            "\n" not in message and ECHOED_KEY not in message and caught.value.__suppress_context__
        )
    assert RETRIES.total == before and rule.hits <= 2 * calls


def test_patience_ends_with_the_uri_and_what_was_last_wrong(
    proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(retries.RETRY_VARIABLE, "0.5")
    uris.forget_clients()
    proxy.rules = [Rule("reply")]
    for call in (
        lambda: fetch(rows(["00"])),
        lambda: uris.write_bytes(f"{BUCKET}/images/00", b"x"),
    ):
        with pytest.raises(
            StorageError, match=rf"{BUCKET}/images/00: SlowDown: injected: .*storage_retry_s"
        ):
            call()
    monkeypatch.undo()
    uris.forget_clients()


def test_requests_that_wait_for_long_say_what_for_once_for_all_threads(
    proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(retries, "_TELLER", retries._Teller())
    monkeypatch.setattr(retries, "SAID_AFTER_S", 0.2)
    proxy.rules = [Rule("reply", count=3 * len(OBJECTS))]
    fetch(rows(list(OBJECTS)))
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "waiting for the storage for 0 s: SlowDown: injected"


def test_without_patience_no_client_tries_again(
    proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(retries.RETRY_VARIABLE, "0")
    uris.forget_clients()
    rule = Rule("reply")
    proxy.rules = [rule]
    for hits, call in enumerate(
        (
            lambda: fetch(rows(["00"])),
            lambda: uris.read_bytes(f"{BUCKET}/images/00"),
            lambda: uris.write_bytes(f"{BUCKET}/images/00", b"x"),
        ),
        start=1,
    ):
        with pytest.raises(StorageError, match="SlowDown"):
            call()
        assert rule.hits == hits
    monkeypatch.undo()
    uris.forget_clients()


def test_a_flipped_byte_is_healed_by_one_more_read(proxy: FaultProxy) -> None:
    proxy.rules = [Rule("corrupt", method="GET", after=100, count=1)]
    assert fetch(rows(["00"]))[0] != OBJECTS["00"]  # no client notices
    proxy.rules = [Rule("corrupt", method="GET", after=100, count=1)]
    assert fetch(rows(["00"]), verify=True) == [OBJECTS["00"]]


def test_content_that_changed_since_the_manifest_is_bad_by_its_checksum(proxy: FaultProxy) -> None:
    etags = {"00": "0" * 32, "01": f"{'0' * 32}-2"}
    table = rows(["00", "01", "02"], etags)
    changed, of_parts, whole = fetch(table, verify=True)
    assert (
        isinstance(changed, BadSample)
        and changed.reason == "checksum"
        and "changed since" in changed.message
    )
    # an upload in parts has no MD5: its size is right
    assert of_parts == OBJECTS["01"] and whole == OBJECTS["02"]
    shorter = table.set_column(3, "length", pa.array([10, 10, 10], pa.int64()))
    _, grown, _ = fetch(shorter, verify=True)
    assert (
        isinstance(grown, BadSample)
        and grown.reason == "checksum"
        and "more than 10 bytes" in grown.message
    )


def test_a_changed_local_file_is_bad_by_its_checksum(tmp_path: Path) -> None:
    file = tmp_path / "a.jpg"
    file.write_bytes(b"first")
    stat = file.stat()
    row = {
        "sample_id": 1,
        "uri": str(file),
        "offset": 0,
        "length": 5,
        "member": None,
        "media": "image",
    }
    table = pa.Table.from_pylist([row | {"etag": f"5-{stat.st_mtime_ns}"}], schema=schema.MANIFEST)
    assert fetch(table, verify=True) == [b"first"]
    file.write_bytes(b"other")
    os.utime(file, ns=(0, stat.st_mtime_ns + 1))
    (problem,) = fetch(table, verify=True)
    assert isinstance(problem, BadSample) and problem.reason == "checksum"
    assert fetch(table) == [b"other"]


def test_keys_with_odd_names_are_read(proxy: FaultProxy) -> None:
    names = [
        "a b.jpg",
        "-dash.jpg",
        "ünï/文.jpg",
        "per%20cent%.jpg",
        "ha#sh?q.jpg",
        "a//b.jpg",
        "pl+us*[x].jpg",
    ]
    fs, _ = uris.filesystem(BUCKET)
    for name in names:
        fs.pipe_file(f"faults/odd/{name}", name.encode())
        assert uris.read_range(f"{BUCKET}/odd/{name}", 0, 1000) == name.encode()


@pytest.mark.parametrize("code", ["AccessDenied", "InvalidObjectState"])
def test_one_refused_object_is_a_bad_sample_while_others_are_handed_out(
    code: str, proxy: FaultProxy
) -> None:
    rule = Rule("reply", path="images/05", status=403, code=code)
    proxy.rules = [rule]
    found = fetch(rows(list(OBJECTS)))
    assert [data for data in found if isinstance(data, bytes)] == [
        data for name, data in OBJECTS.items() if name != "05"
    ]
    for problem in (found[5], *fetch(rows(["05"]))):  # alone in its block, its neighbours are asked
        assert isinstance(problem, BadSample) and problem.reason == "refused"
        assert code in problem.message and ECHOED_KEY not in problem.message


def test_a_bucket_that_lists_and_hands_out_nothing_stops_at_once(proxy: FaultProxy) -> None:
    proxy.rules = [Rule("reply", method="GET", path="faults/.", status=403, code="AccessDenied")]
    before = proxy.requests["GET"]
    with pytest.raises(StorageError, match="images/00: refused, AccessDenied"):
        fetch(rows(["00"]))
    assert proxy.requests["GET"] - before < 40


def test_an_expired_token_of_one_request_stops_at_once(proxy: FaultProxy) -> None:
    proxy.rules = [Rule("reply", path="images/05", status=400, code="ExpiredToken")]
    with pytest.raises(StorageError, match="images/05: ExpiredToken"):
        fetch(rows(list(OBJECTS)))


@pytest.mark.parametrize("code", ["SignatureDoesNotMatch", "InvalidAccessKeyId"])
def test_wrong_keys_are_no_fault_of_the_object(code: str, proxy: FaultProxy) -> None:
    proxy.rules = [Rule("reply", path="images/05", status=403, code=code)]
    with pytest.raises(StorageError, match=f"images/05: refused, {code}"):
        fetch(rows(list(OBJECTS)))


def test_a_range_behind_the_end_of_an_object_is_empty(proxy: FaultProxy) -> None:
    size = len(OBJECTS["00"])
    assert uris.read_range(f"{BUCKET}/images/00", size + 10, size + 20) == b""
    assert uris.read_range(f"{BUCKET}/images/00", size - 5, size + 5) == OBJECTS["00"][-5:]


def test_each_try_waits_longer_up_to_a_limit_and_never_as_long_as_the_others() -> None:
    delays = []
    for _ in range(20):
        patience = retries.Patience(1000)
        delays.append([patience.delay(TimeoutError()) or 0.0 for _ in range(12)])
    for number in range(12):
        limit = min(retries.LONGEST_DELAY_S, retries.FIRST_DELAY_S * 2**number)
        waits = [of_client[number] for of_client in delays]
        assert limit / 2 <= min(waits) < max(waits) <= limit


def test_a_refused_shard_is_left_out_of_a_listing(proxy: FaultProxy) -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("a.jpg"))
    for name in ("x.tar", "y.tar"):
        uris.write_bytes(f"{BUCKET}/shards/{name}", file.getvalue())
    uris.write_bytes(f"{BUCKET}/shards/nameless", b"\xff\xd8\xff\xe0")
    proxy.rules = [Rule("reply", path="shards/(x.tar|name)", status=403, code="AccessDenied")]
    places = listing._places(f"{BUCKET}/shards", one_of_many=False)
    entries = [entry for place in places for entry in listing._entries(place)]
    found = {
        row["uri"].rpartition("/")[2]: row["left_out"]
        for row in rows_of(entries, Selection(any_name=True))
    }
    assert found == {"x.tar": REFUSED, "y.tar": "zero bytes", "nameless": REFUSED}


UNPRIVILEGED = """
import os, sys
import pyarrow as pa
from pipelines import schema
from pipelines.storage import uris
from pipelines.stream.fetch import fetch

names = ["uri", "offset", "length", "member", "etag"]
rows = [dict(zip(names, (f"{sys.argv[1]}/{name}", 0, 1, None, ""))) for name in sys.argv[2:]]
table = pa.Table.from_pylist(rows, schema=schema.MANIFEST)
if not os.getuid():
    uris.hands_out_others(rows[0]["uri"]) and fetch(table)  # import what that needs
    os.setuid(65534)
print([str(found) for found in fetch(table)])
"""


def test_a_local_file_that_must_not_be_read_is_a_bad_sample_beside_others() -> None:
    with tempfile.TemporaryDirectory() as folder:  # not pytest's own, which is closed to others
        for name in "ab":
            Path(folder, name).write_bytes(b"x")
        os.chmod(folder, 0o755)
        os.chmod(f"{folder}/a", 0)
        command = [sys.executable, "-c", UNPRIVILEGED, folder]
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        for names in (["a", "b"], ["a"]):
            done = subprocess.run([*command, *names], env=env, capture_output=True, text=True)
            assert "refused: refused (Permission denied)" in done.stdout, done.stderr
        os.unlink(f"{folder}/b")
        alone = subprocess.run([*command, "a"], env=env, capture_output=True, text=True)
        assert alone.returncode and "Refused" in alone.stderr
