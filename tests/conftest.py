"""What the suite shares: an environment that reaches nothing outside, one Ray, one S3 server, real
photographs."""

import faulthandler
import os
import secrets
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.object_store import ObjectStore

LONGEST = ("clusters", "ray", "test_methods", "distributed")
_STORE = pytest.StashKey[ObjectStore]()
_STORE_FOLDER = pytest.StashKey[tempfile.TemporaryDirectory[str]]()


def pytest_configure(config: pytest.Config) -> None:
    """Set the environment before anything imports Ray or torch or opens S3: all read it once.

    The S3 variables point at the suite's own server whether or not it runs, so no test can reach
    anyone's bucket.
    """
    folder = tempfile.TemporaryDirectory(prefix="afield-s3-", ignore_cleanup_errors=True)
    config.stash[_STORE_FOLDER] = folder
    config.stash[_STORE] = ObjectStore(Path(folder.name))
    os.environ.update(config.stash[_STORE].env)
    # At Ray's own niceness of 15 its workers starve beside one busy test.
    os.environ.update({"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"})
    # A token of this run: Ray would otherwise write one into the home folder and use it from then
    # on.
    os.environ.update({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)})
    os.environ.pop("RAY_ADDRESS", None)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the processes that tests start


@pytest.hookimpl(tryfirst=True)  # before xdist reads the marks
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Say what of the suite runs in one process, where several share it: a file; all that needs the
    run's Ray; all that starts clusters of its own; and all that runs in the same two processes.

    What takes longest begins first, so that no process is left with much at the end (xdist keeps
    the order only with `--no-loadscope-reorder`, and tells its processes nothing of `--dist`).
    """
    for item in items:
        item.add_marker(pytest.mark.xdist_group(_group(item)))
    if hasattr(config, "workerinput"):
        longest = {group: place for place, group in enumerate(LONGEST)}
        items.sort(key=lambda item: longest.get(_group(item), len(longest)))


def _group(item: pytest.Item) -> str:
    if "ray_session" in getattr(item, "fixturenames", ()):
        return "ray"
    if not {"faults", "integration", "cluster"}.isdisjoint(item.path.parts):
        return "clusters"
    if "distributed" in item.path.parts:
        return "distributed"
    return item.path.stem


def pytest_unconfigure(config: pytest.Config) -> None:
    # a process that does not end is a failure that says where; xdist's wait for one another
    if not hasattr(config, "workerinput"):
        faulthandler.dump_traceback_later(120, exit=True)
    config.stash[_STORE].stop()
    config.stash[_STORE_FOLDER].cleanup()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Have every test draw the same weights each time, and so the fixtures it is the first to need,
    on one thread.

    A test of one file that needs no torch does not import it.
    """
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)
        # Tensors are small: threads that share one spin for longer than they compute. PaCMAP, once
        # imported, leaves as many as there are cores, and so does a conftest that imports torch.
        torch.set_num_threads(1)
    if item.get_closest_marker("gpu"):
        import torch  # here, so that its threads begin after the environment is set

        if not torch.cuda.is_available():
            pytest.skip("needs CUDA")


@pytest.fixture
def never_waits() -> AbstractContextManager[None]:
    """Inside it, whatever makes the host wait for the CUDA device is an error."""

    @contextmanager
    def guard() -> Iterator[None]:
        import torch

        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")

    return guard()


@pytest.fixture
def shallow() -> Iterator[None]:
    """Transformers of two blocks, for tests that ask nothing of depth."""
    from tests.small_methods import shallow_transformers

    with shallow_transformers():
        yield


@pytest.fixture(scope="session")
def object_store(pytestconfig: pytest.Config) -> Iterator[ObjectStore]:
    """A running S3 server, whose variables the environment already holds."""
    store = pytestconfig.stash[_STORE]
    store.start()
    yield store
    store.stop()


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """The one local Ray of this pytest run; jobs called inside join it."""
    from jobs.cluster import (
        launch,  # here, so that tests which need no Ray do not pay for its import
    )
    from jobs.setup.sections import ClusterConfig

    with launch.session(ClusterConfig(address="local", num_workers=2)):
        yield


@pytest.fixture(scope="session")
def put_folder() -> Callable[[Path, str], None]:
    """Copies the files of a folder to a URI, at any depth."""
    from pipelines.storage import uris

    def put(folder: Path, uri: str) -> None:
        for file in folder.rglob("*"):
            if file.is_file():
                uris.write_bytes(uris.join(uri, str(file.relative_to(folder))), file.read_bytes())

    return put


@pytest.fixture(scope="session")
def photographs() -> list[np.ndarray]:
    """The eight colour photographs inside scikit-image's wheel, (H, W, 3) uint8; one of the stereo
    pair."""
    from skimage import data

    return [
        data.astronaut(),
        data.cat(),
        data.coffee(),
        data.hubble_deep_field(),
        data.immunohistochemistry(),
        data.retina(),
        data.rocket(),
        data.stereo_motorcycle()[0],
    ]


@pytest.fixture(scope="session")
def small_artifact(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An untrained encoder for images of 16 px, as an artifact."""
    from augment.recipe import IMAGENET_MEAN, IMAGENET_STD
    from models import artifact
    from models.encoders.factory import EncoderConfig, build_encoder

    uri = str(tmp_path_factory.mktemp("artifact"))
    config = EncoderConfig(name="resnet18_small", width=8)
    artifact.save(
        uri,
        build_encoder(config, 16),
        config={"encoder": config.model_dump(), "seed": 0},
        preprocess={"image_size": 16, "mean": IMAGENET_MEAN, "std": IMAGENET_STD},
        provenance={},
    )
    return uri


@pytest.fixture(scope="session")
def other_artifact(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An encoder of another size and preprocessing."""
    import torch

    from models import artifact
    from models.encoders.factory import EncoderConfig, build_encoder

    out = str(tmp_path_factory.mktemp("other") / "artifact")
    config = EncoderConfig(name="resnet18_small", width=8)
    torch.manual_seed(5)
    encoder = build_encoder(config, 24)
    artifact.save(
        out,
        encoder,
        config={"encoder": config.model_dump(mode="json"), "seed": 5},
        preprocess={"image_size": 24, "mean": [0.1, 0.2, 0.3], "std": [0.5, 0.5, 0.5]},
        provenance={},
    )
    return out


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory: pytest.TempPathFactory, photographs: list[np.ndarray]) -> Path:
    """200 crops of 40 to 120 px, a folder a photograph: 160 JPEG and 40 PNG files. Copy it before
    changing it."""
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for label, photograph in enumerate(photographs):
        folder = root / f"scene{label}"
        folder.mkdir()
        for number in range(25):
            height, width = rng.integers(40, 121, size=2)
            top = rng.integers(0, photograph.shape[0] - height)
            left = rng.integers(0, photograph.shape[1] - width)
            crop = Image.fromarray(photograph[top : top + height, left : left + width])
            crop.save(folder / f"{number:02d}.{'png' if number % 5 == 0 else 'jpg'}")
    return root
