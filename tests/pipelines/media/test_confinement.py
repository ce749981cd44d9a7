"""What a decoder that a file has taken over cannot reach, and what it still needs."""

import io
import json
import os
import platform
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from pipelines.media import confinement
from pipelines.media.contract import BadSample, Clip, Limits
from pipelines.media.decoder import INHERITED, Decoder
from pipelines.media.image import decode
from tests.pipelines.media.videos import number_of, video

MODULE = "tests.pipelines.media.hostile_decoder"
CREDENTIALS = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "RAY_AUTH_TOKEN", "HF_TOKEN")

needs_landlock = pytest.mark.skipif(
    not confinement.landlock_version(), reason="this kernel has no Landlock"
)
needs_seccomp = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "aarch64"), reason="no filter for this architecture"
)


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    made = Decoder(Limits(), MODULE)
    yield made
    made.close()


def outcome(decoder: Decoder, what: str, argument: object = "") -> str:
    with pytest.raises(BadSample) as caught:
        decoder.image(f"{what} {argument}".encode())
    return caught.value.message


@needs_landlock
def test_a_file_outside_is_neither_read_nor_written(decoder: Decoder, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("key")
    assert outcome(decoder, "read", secret) == "PermissionError"
    assert outcome(decoder, "write", secret) == "PermissionError"
    assert outcome(decoder, "write", tmp_path / "new") == "PermissionError"
    assert secret.read_text() == "key" and not (tmp_path / "new").exists()
    for path in (f"/proc/{os.getpid()}/environ", "/proc/self/environ", "/etc/passwd"):
        assert outcome(decoder, "read", path) == "PermissionError"


@needs_landlock
def test_code_can_still_be_loaded_and_not_changed(decoder: Decoder) -> None:
    assert outcome(decoder, "read", json.__file__) == str(os.path.getsize(json.__file__))
    assert outcome(decoder, "write", json.__file__) == "PermissionError"


@needs_seccomp
def test_a_listening_socket_is_not_reached(decoder: Decoder, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as unix:
        unix.bind(f"{tmp_path}/socket")
        unix.listen()
        port = tcp.getsockname()[1]
        socket.create_connection(("127.0.0.1", port)).close()
        assert outcome(decoder, "connect", port) == "PermissionError"
        assert outcome(decoder, "connect", f"{tmp_path}/socket") == "PermissionError"


@needs_seccomp
def test_no_program_no_process_and_no_signal_to_others(decoder: Decoder, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch(0o600)
    for what, argument in (
        ("run", "/bin/true"),
        ("fork", ""),
        ("signal", os.getpid()),
        ("chmod", file),
    ):
        assert outcome(decoder, what, argument) == "PermissionError"
    assert file.stat().st_mode & 0o777 == 0o600
    assert outcome(decoder, "thread") == '"ran"'  # FFmpeg decodes in several


def test_the_environment_holds_no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in CREDENTIALS:
        monkeypatch.setenv(name, "secret")
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    decoder = Decoder(Limits(), MODULE)
    environment = json.loads(outcome(decoder, "environment"))
    decoder.close()
    assert environment["LC_ALL"] == "C.UTF-8"
    assert set(environment) <= {*INHERITED, "PYTHONPATH", "OPENBLAS_NUM_THREADS"}


def test_open_files_are_not_inherited(tmp_path: Path) -> None:
    with open(tmp_path / "open", "wb") as file:
        os.set_inheritable(file.fileno(), True)
        decoder = Decoder(Limits(), MODULE)
        # requests, two ways to the log, answers
        assert len(json.loads(outcome(decoder, "descriptors"))) == 4
        decoder.close()


def encoded(values: np.ndarray, kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, kind)
    return buffer.getvalue()


def deep_tiff() -> bytes:
    buffer = io.BytesIO()
    values = np.arange(24 * 40 * 3, dtype=np.uint16).reshape(24, 40, 3) * 20
    tifffile.imwrite(buffer, values, photometric="rgb")
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "GIF", "AVIF", "JPEG2000", "PPM", "deep"])
def test_every_format_is_decoded_with_nothing_but_libraries_to_read(
    decoder: Decoder, kind: str
) -> None:
    values = np.arange(24 * 40 * 3, dtype=np.uint8).reshape(24, 40, 3)
    data = deep_tiff() if kind == "deep" else encoded(values, kind)
    assert np.array_equal(decoder.image(data).pixels, decode(data, max_pixels=10**6))


def test_the_first_video_loads_ffmpeg(decoder: Decoder) -> None:
    assert number_of(decoder.clip(video(110), Clip(4, 1, None, 0.5)).pixels[0]) == 53


@needs_landlock
def test_only_one_thread_has_been_started_before_the_files_are_given_up() -> None:
    fresh = Decoder(Limits(), MODULE)
    assert outcome(fresh, "thread") == '"ran"'
    assert fresh._child is not None
    tasks = Path(f"/proc/{fresh._child.pid}/task")
    deadline = time.monotonic() + 10
    while len(os.listdir(tasks)) > 1 and time.monotonic() < deadline:
        time.sleep(0.01)  # the kernel lists a thread for a moment after it has been joined
    assert os.listdir(tasks) == [str(fresh._child.pid)]
    fresh.close()
