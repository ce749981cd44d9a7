"""What is asked of object storage, in bytes and requests, counted by a proxy before the suite's
server."""

import io
import tarfile
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import schema
from pipelines.corpus import manifest as manifests
from pipelines.corpus.listed_rows import LISTED, sample_id
from pipelines.corpus.manifest_writer import write_manifest
from pipelines.corpus.tar_members import read_members
from pipelines.packing.pack_plan import HashOrder, PackPlan, samples_of, write_plan
from pipelines.storage import uris
from pipelines.storage.parquet_files import read_table
from pipelines.stream import quarantine
from tests.faults.s3fault import FaultProxy
from tests.object_store import ObjectStore

BUCKET = "s3://counted"
ROWS = 40_000
MIB = 1 << 20


@pytest.fixture(scope="module")
def proxy(object_store: ObjectStore) -> Iterator[FaultProxy]:
    object_store.make_bucket("counted")
    with FaultProxy(object_store.endpoint) as proxy, pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
            patch.setenv(name, proxy.endpoint)
        uris.forget_clients()
        yield proxy
    uris.forget_clients()


def fresh(proxy: FaultProxy) -> FaultProxy:
    """The proxy, counting from nothing, and no file open from before."""
    manifests._parquet.cache_clear()
    proxy.sent.clear()
    proxy.requests.clear()
    return proxy


def listing() -> Iterator[pa.Table]:
    names = [f"{BUCKET}/images/n{i % 997:08d}/{i:09d}.jpg" for i in range(ROWS)]
    etags = np.random.default_rng(0).bytes(16 * ROWS).hex()
    rows = [
        {
            "sample_id": sample_id(name, None, ""),
            "uri": name,
            "offset": 0,
            "length": 100_000,
            "etag": etags[32 * i : 32 * i + 32],
            "media": "image",
        }
        for i, name in enumerate(names)
    ]
    for start in range(0, ROWS, 8192):
        yield pa.Table.from_pylist(rows[start : start + 8192], schema=LISTED)


def test_a_row_group_costs_its_own_bytes(proxy: FaultProxy) -> None:
    manifest = write_manifest(f"{BUCKET}/m", f"{BUCKET}/images", listing())
    part = uris.join(manifest.uri, manifest.parts[0].path)
    whole = uris.size(part)
    with pq.ParquetFile(io.BytesIO(uris.read_bytes(part))) as file:
        group = file.metadata.row_group(2)
    columns = [group.column(i).total_compressed_size for i in range(group.num_columns)]
    counted = fresh(proxy)
    table = manifest.read_row_group(0, 2)
    assert table.num_rows == manifest.parts[0].row_groups[2]
    assert counted.sent["GET"] < sum(columns) + 128 * 1024 < whole / 2
    before = counted.sent["GET"]
    manifest.read_row_group(0, 1)
    assert counted.sent["GET"] - before < 1.1 * sum(columns)
    assert counted.requests["HEAD"] == 1


def test_a_shard_of_a_plan_costs_its_own_bytes(
    proxy: FaultProxy, tmp_path_factory: pytest.TempPathFactory
) -> None:
    manifest = write_manifest(f"{BUCKET}/m", f"{BUCKET}/images", listing())
    order = HashOrder(str(tmp_path_factory.mktemp("order") / "rows"))
    for table in samples_of(manifest):
        order.add(table)
    plan = f"{BUCKET}/plan"
    write_plan(plan, order, rows_in=ROWS, shard_bytes=100 * MIB, scale=1.0)
    whole = uris.size(f"{plan}/000000.parquet")
    counted = fresh(proxy)
    rows = PackPlan(plan).read(7)
    assert rows.num_rows > 900 and counted.sent["GET"] < whole / 5


def bad_rows(number: int) -> list[dict[str, object]]:
    row = dict.fromkeys(("stage", "reason", "message", "run"), "x")
    row |= {schema.OFFSET: 0, schema.LENGTH: 1, schema.EPOCH: 0, "time": 0}
    return [{**row, schema.SAMPLE_ID: i, schema.URI: f"s3://{i * i}/{i}"} for i in range(number)]


def test_a_small_table_costs_one_request(proxy: FaultProxy) -> None:
    quarantine.write(f"{BUCKET}/quarantine", "0", bad_rows(1))
    (name,) = uris.list_names(f"{BUCKET}/quarantine")
    counted = fresh(proxy)
    assert read_table(f"{BUCKET}/quarantine/{name}").num_rows == 1
    assert counted.requests.total() == 1


def test_counting_bad_samples_reads_no_uris(proxy: FaultProxy) -> None:
    folder = f"{BUCKET}/many"
    for number, row in enumerate(bad_rows(20_000)[::200]):
        quarantine.write(folder, f"{number}", [row])
    quarantine.write(folder, "rest", bad_rows(20_000))
    quarantine.compact(folder, least=100)
    (joined,) = uris.list_names(folder)
    whole = uris.size(f"{folder}/{joined}")
    counted = fresh(proxy)
    assert quarantine.summarise(folder).reasons == {"x": 20_000}
    assert counted.sent["GET"] < whole / 2


def test_headers_behind_large_members_are_fetched_by_themselves(proxy: FaultProxy) -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for number in range(8):
            member = tarfile.TarInfo(f"{number}.mp4")
            member.size = 3 * MIB
            tar.addfile(member, io.BytesIO(bytes(member.size)))
    uris.write_bytes(f"{BUCKET}/large.tar", file.getvalue())
    counted = fresh(proxy)
    assert len(list(read_members(f"{BUCKET}/large.tar", len(file.getvalue())))) == 8
    assert counted.sent["GET"] < 5 * MIB  # the first read ahead, of 24 MiB
