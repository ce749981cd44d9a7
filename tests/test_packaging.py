"""What is installed and what is uploaded: every package and recipe, and little else."""

import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from ray._private.ray_constants import get_runtime_env_default_excludes
from ray._private.runtime_env.packaging import create_package

from jobs.cluster.joining import beside_the_code

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = ("augment", "models", "pipelines", "jobs")
# modules of what a decode task is handed, of any medium
DECODE_TASK = (
    "pipelines.stream.ingest, pipelines.stream.plan, pipelines.stream.first_samples,"
    " pipelines.labels.labelled_stream, pipelines.motion.flow, pipelines.pairs.posed_frames,"
    " pipelines.samples.sound_windows, pipelines.samples.with_sound, pipelines.texts.text_tokens"
)


def in_a_fresh_process(script: str) -> None:
    """Run Python that must end well and warn of nothing."""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr.strip(), done.stderr


@pytest.mark.long
def test_what_every_process_of_a_job_imports_leaves_out_what_few_of_them_need() -> None:
    script = (
        "import sys, pipelines.stream.ingest\n"
        "late = {'s3fs', 'aiobotocore', 'obstore', 'torchvision', 'timm'}\n"
        "late |= {'torch._dynamo', 'torch.distributed.fsdp'}\n"
        "late |= {'kornia', 'scipy.optimize'}\n"
        "assert not late & set(sys.modules), sorted(late & set(sys.modules))\n"
        "import jobs.training.planned_data\n"
        "late -= {'aiobotocore', 'obstore'}\n"
        "assert not late & set(sys.modules), sorted(late & set(sys.modules))\n"
    )
    in_a_fresh_process(script)


@pytest.mark.long
@pytest.mark.parametrize(
    ("module", "late"),
    [
        ("jobs.training.steering.monitor", "{'torch', 'numpy', 'pandas', 'ray.data', 'ray.train'}"),
        ("jobs.training.steering.controller", "{'torch', 'numba', 'models', 'augment'}"),
        (DECODE_TASK, "{'torch', 'models.artifact'}"),
        ("models.encoders.resnet_small", "{'torchvision', 'timm', 'torch._dynamo'}"),
        ("pipelines.predictions.one_image", "{'ray', 'scipy.stats', 'torchvision', 'timm'}"),
    ],
)
def test_a_process_of_a_run_imports_little_beyond_its_part(module: str, late: str) -> None:
    script = f"import sys, {module}; found = {late} & set(sys.modules); assert not found, found"
    in_a_fresh_process(script)


def test_a_small_run_on_several_workers_needs_no_library_of_networks() -> None:
    script = (
        "import sys\n"
        "from models.batch_norm import convert_sync_batch_norm\n"
        "from models.encoders.factory import EncoderConfig, build_encoder\n"
        "encoder = build_encoder(EncoderConfig(name='resnet18_small', width=8), 16)\n"
        "convert_sync_batch_norm(encoder)\n"
        "late = {'torch._dynamo', 'timm', 'torchvision'} & set(sys.modules)\n"
        "assert not late, late\n"
    )
    in_a_fresh_process(script)


def test_constraints_are_exact_and_hold_no_addresses() -> None:
    pins = [
        pin
        for pin in (ROOT / "constraints.txt").read_text().splitlines()
        if not pin.startswith("#")
    ]
    assert pins
    assert all(pin.count("==") == 1 and "/" not in pin and "@" not in pin for pin in pins)


@pytest.mark.parametrize(
    "litter",
    [
        "runs/demo/checkpoint.bin",
        ".venv/lib/torch.so",
        "data/images.tar",
        "x.egg-info/SOURCES",
        "encoder.safetensors",
    ],
)
def test_upload_to_a_cluster_leaves_out_what_a_working_copy_gathers(
    tmp_path: Path, litter: str
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(ROOT / "jobs", copy / "jobs")
    shutil.copy(ROOT / ".gitignore", copy)
    (copy / litter).parent.mkdir(parents=True, exist_ok=True)
    (copy / litter).write_bytes(bytes(1000))
    target = tmp_path / "upload.zip"
    create_package(
        str(copy), target, include_gitignore=True, excludes=get_runtime_env_default_excludes()
    )
    names = zipfile.ZipFile(target).namelist()
    assert any(name.endswith("jobs/__init__.py") for name in names)
    assert not any(litter in name for name in names)


def test_upload_of_the_packages_is_small() -> None:
    files = [
        path
        for name in PACKAGES
        for path in (ROOT / name).rglob("*")
        if "__pycache__" not in path.parts
    ]
    assert sum(path.stat().st_size for path in files if path.is_file()) < 4_000_000


def test_joining_a_cluster_uploads_the_packages_and_nothing_beside_them(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    for name in (*PACKAGES, "afield"):
        shutil.copytree(ROOT / name, copy / name)
    (copy / "photos").mkdir()
    (copy / "photos" / "a.jpg").write_bytes(bytes(1000))
    (copy / "weights.bin").write_bytes(bytes(1000))
    target = tmp_path / "upload.zip"
    excludes = [*get_runtime_env_default_excludes(), *beside_the_code(copy)]
    create_package(str(copy), target, include_gitignore=True, excludes=excludes)
    names = zipfile.ZipFile(target).namelist()
    folders = {name.removeprefix("copy/").partition("/")[0] for name in names} - {""}
    assert folders == {*PACKAGES, "afield"}
    assert any(name.endswith("jobs/recipes/simclr_small.yaml") for name in names)
