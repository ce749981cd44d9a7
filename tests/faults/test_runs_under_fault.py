"""Whole runs on a failing object store: each in processes of its own, with the server behind the
fault proxy."""

import json
import os
import re
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import simplejpeg

from jobs.training.run_dir import RunDir
from pipelines import schema
from pipelines.storage import uris
from pipelines.stream import quarantine
from tests import commands
from tests.faults.s3fault import ECHOED_KEY, FaultProxy, Rule
from tests.object_store import ObjectStore

SECRETS = ("testkey", "testsecret", "sessiontoken", ECHOED_KEY)
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture(scope="module")
def images(
    object_store: ObjectStore, image_folder: Path, put_folder: Callable[[Path, str], None]
) -> str:
    object_store.make_bucket("runs-under-fault")
    put_folder(image_folder, "s3://runs-under-fault/images")
    return "s3://runs-under-fault/images"


@pytest.fixture
def proxy(object_store: ObjectStore) -> Iterator[FaultProxy]:
    with FaultProxy(object_store.endpoint, seed=0) as proxy:
        yield proxy


@pytest.fixture
def start(proxy: FaultProxy) -> Iterator[Start]:
    """Starts pretraining through the proxy; what it leaves behind, Ray's logs included, must hold
    no credential."""
    with tempfile.TemporaryDirectory(
        prefix="ray-", dir="/tmp", ignore_cleanup_errors=True
    ) as ray_logs:
        endpoint = dict.fromkeys(("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"), proxy.endpoint)

        def start(*words: str, **variables: str) -> subprocess.Popen[str]:
            rest = ("cluster.address=local", "cluster.storage_timeout_s=2")
            return commands.start(
                "pretrain",
                *commands.TINY,
                *rest,
                *words,
                RAY_TMPDIR=ray_logs,
                **(endpoint | variables),
            )

        yield start
        for path in Path(ray_logs).rglob("*"):
            if path.is_file():
                assert not leaked(path.read_bytes()), path


def leaked(data: bytes) -> list[str]:
    return [secret for secret in SECRETS if secret.encode() in data]


def ended(process: subprocess.Popen[str], code: int, timeout_s: float = 250) -> tuple[str, str]:
    """Output of a process that must end so."""
    out, err = process.communicate(timeout=timeout_s)
    assert process.returncode == code, err
    assert not leaked((out + err).encode())
    return out, err


def error_line(stderr: str) -> str:
    (line,) = (line for line in stderr.splitlines() if line.startswith("error: "))
    assert "Traceback" not in stderr
    return line


@pytest.mark.parametrize(
    "variables",
    [
        {"AWS_SECRET_ACCESS_KEY": "wrong"},
        pytest.param({"AWS_SESSION_TOKEN": "sessiontoken"}, marks=pytest.mark.slow),
    ],
    ids=["secret", "token"],
)
def test_a_refusal_before_anything_starts_is_exit_code_2(
    variables: dict[str, str], images: str, start: Start, tmp_path: Path
) -> None:
    process = start(f"source.uri={images}", f"out={tmp_path}/run", "num_steps=5", **variables)
    line = error_line(ended(process, 2)[1])
    assert re.search(rf"source\.uri {images}.*(refused|Invalid)", line)


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("method", ["GET", "PUT"], ids=["reading samples", "writing checkpoints"])
def test_credentials_that_expire_in_a_run_stop_it_at_once(
    method: str, images: str, start: Start, proxy: FaultProxy
) -> None:
    out = f"s3://runs-under-fault/expired-{method}"
    words = (f"source.uri={images}", f"out={out}", "num_steps=100000", "checkpoint.every_s=3")
    process = start(*words, "cluster.max_failures=-1")
    commands.read_until(process, "step      9/")
    where = {"GET": "/images/", "PUT": "/checkpoints/"}[method]
    proxy.rules = [
        Rule("reply", method=f"{method}|POST", path=where, status=400, code="ExpiredToken")
    ]
    line = error_line(ended(process, 1)[1])
    assert (
        "ExpiredToken (injected): get new credentials" in line and "s3://runs-under-fault/" in line
    )
    assert not quarantine.read(f"{out}/quarantine")
    fs, folder = uris.filesystem(out)
    for path in fs.find(folder):
        assert not leaked(fs.cat_file(path)), path


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_server_killed_and_restarted_costs_time_only(
    images: str, start: Start, object_store: ObjectStore
) -> None:
    out = "s3://runs-under-fault/restarted"
    process = start(
        f"source.uri={images}", f"out={out}", "num_steps=400", "checkpoint.every_s=2", "--json"
    )
    commands.read_until(process, "step   9/")
    assert object_store.pid is not None
    os.kill(object_store.pid, signal.SIGKILL)
    time.sleep(10)
    object_store.restart()
    stdout, stderr = ended(process, 0)
    assert json.loads(stdout.splitlines()[-1])["steps"] == 400 and "going on from" not in stderr
    lines = RunDir(out).join_metrics()
    assert [line["step"] for line in lines] == list(range(1, 401))
    assert sum(line["storage_retries"] for line in lines) > 0 and lines[-1]["bad_samples"] == 0


NUM_OBJECTS = 5000
FAULTS = [
    Rule("reply", prob=0.05),
    Rule("reply", status=500, code="InternalError", prob=0.01),
    Rule("reset", prob=0.02),
    Rule("reset_body", method="GET", after=200, prob=0.02),
    Rule("trunc_body", method="GET", after=200, prob=0.02),
    Rule("hang", prob=0.002),
    Rule("hang_body", method="GET", after=200, prob=0.002),
    # not a listing: 400 KB a page
    Rule("slow", method="GET", path=r"\.jpg$", rate=2000, prob=0.01),
    Rule("ack_lost", method="PUT|POST", prob=0.02),
]


def audited(out: str) -> dict[int, Counter[int]]:
    """How often each epoch of an uninterrupted run saw each sample."""
    fs, folder = uris.arrow_filesystem(f"{out}/samples")
    table = pq.read_table(folder, filesystem=fs)
    epochs: dict[int, Counter[int]] = {}
    for epoch, sample in zip(
        *(table[name].to_pylist() for name in (schema.EPOCH, schema.SAMPLE_ID)), strict=True
    ):
        epochs.setdefault(epoch, Counter())[sample] += 1
    return epochs


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_two_epochs_of_5000_objects_are_covered_through_every_fault(
    object_store: ObjectStore, start: Start, proxy: FaultProxy, photographs: list[np.ndarray]
) -> None:
    source, out = object_store.make_bucket("many-objects"), "s3://many-objects/run"
    draw = np.random.default_rng(0)

    def put(number: int) -> None:
        photograph = photographs[number % len(photographs)]
        top, left = (draw.integers(0, size - 48) for size in photograph.shape[:2])
        crop = np.ascontiguousarray(photograph[top : top + 48, left : left + 48])
        uris.write_bytes(f"{source}/images/{number:04d}.jpg", simplejpeg.encode_jpeg(crop))

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(put, range(NUM_OBJECTS)))
    proxy.rules = FAULTS
    words = (
        "num_epochs=2",
        "global_batch_size=125",
        "checkpoint.every_s=5",
        "debug.log_samples=true",
    )
    process = start(f"source.uri={source}/images", f"out={out}", *words, "--json")
    stdout, stderr = ended(process, 0, timeout_s=1000)
    print(stderr, {rule.action: rule.hits for rule in FAULTS}, dict(proxy.requests))
    assert (
        json.loads(stdout.splitlines()[-1])["steps"] == 2 * NUM_OBJECTS // 125
        and "going on from" not in stderr
    )
    lines = RunDir(out).join_metrics()
    assert sum(line["storage_retries"] for line in lines) > 0.05 * 2 * NUM_OBJECTS
    seen = audited(out)
    assert seen.keys() == {0, 1}
    assert all(
        len(counts) == NUM_OBJECTS and set(counts.values()) == {1} for counts in seen.values()
    )
    assert lines[-1]["bad_samples"] == 0 and uris.list_names(f"{out}/quarantine") == []
    assert all(rule.hits for rule in FAULTS)
