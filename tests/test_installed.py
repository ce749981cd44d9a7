"""The installed distribution beside a user's own code: one import, and no name taken from
anybody."""

import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from augment.kernels.resize import resize_box
from jobs.setup.words import recipe_names
from models.artifact import save
from models.encoders.factory import EncoderConfig, build_encoder

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("augment", "models", "pipelines", "jobs")
USE = """
import sys
if sys.argv[2] == "before":
    import augment, jobs, models.artifact, pipelines
import afield
encoder = afield.load(sys.argv[1])
import augment, jobs, models.artifact, pipelines
assert all(own.OURS for own in (augment, jobs, models, models.artifact, pipelines))
print(afield.__file__, encoder.embed_dim, type(encoder).__module__)
"""

RESIZE = """
import afield, sys
import numpy as np
from afield.augment.kernels import resize
out = np.zeros((3, 32, 32), np.uint8)
resize.resize_box(np.full((8, 8, 3), 7, np.uint8), (0, 0, 8, 8), False, out)
assert (out == 7).all() and "augment.kernels" not in sys.modules
"""

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which the wheel was unpacked."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", str(ROOT), "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "-q", "-w", str(folder)], cwd=folder, check=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact."""
    folder = tmp_path_factory.mktemp("artifact") / "artifact"
    config = EncoderConfig(width=8)
    save(
        str(folder),
        build_encoder(config, 16),
        config={"encoder": config.model_dump(), "seed": 0},
        preprocess={"image_size": 16, "mean": [0.5] * 3, "std": [0.2] * 3},
        provenance={},
    )
    return folder


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A user's folder with packages of the same names, one of whose modules clashes too."""
    for name in PACKAGES:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("OURS = True\n")
    (tmp_path / "models" / "artifact.py").write_text("OURS = True\n")
    (tmp_path / "use.py").write_text(USE)
    return tmp_path


def run(place: Path, project: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a project, with the distribution from `place`."""
    # The folder of the script comes first, and the clone of this suite not at all.
    code = (
        "import runpy, sys; "
        f"sys.path[:] = [{str(project)!r}, {str(place)!r}, "
        f"*(path for path in sys.path if path not in ('', {str(ROOT)!r}))]; "
        "sys.argv = sys.argv[1:]; name = sys.argv[0]; "
        "(runpy.run_path if name.endswith('.py') else runpy.run_module)(name, run_name='__main__')"
    )
    command = [sys.executable, "-c", code, *words]
    return subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(("installed", "when"), [(True, "before"), (False, "after")])
def test_an_artifact_loads_beside_packages_of_the_same_names(
    installed: bool, when: str, site: Path, project: Path, saved: Path
) -> None:
    place = site if installed else ROOT
    done = run(place, project, str(project / "use.py"), str(saved), when)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [
        str(place / "afield/__init__.py"),
        "64",
        "afield.models.artifact",
    ]


def test_machine_code_that_a_clone_s_jobs_have_kept_is_not_loaded_under_afield_s_names(
    project: Path,
) -> None:
    picture = np.zeros((8, 8, 3), np.uint8)
    resize_box(picture, (0, 0, 8, 8), False, np.zeros((3, 32, 32), np.uint8))  # kept on disk
    (project / "use.py").write_text(RESIZE)
    done = run(ROOT, project, str(project / "use.py"))
    assert done.returncode == 0, done.stderr


def test_the_wheel_takes_one_name_and_holds_every_package_and_recipe(site: Path) -> None:
    names = {path.name for path in site.iterdir() if not path.name.endswith(".dist-info")}
    assert names == {"afield"}
    for name in PACKAGES:
        ours = {path.relative_to(ROOT) for path in (ROOT / name).rglob("*.py")}
        held = {
            path.relative_to(site / "afield") for path in (site / "afield" / name).rglob("*.py")
        }
        assert ours == held
    recipes = (site / "afield" / "jobs" / "recipes").glob("*.yaml")
    assert sorted(path.stem for path in recipes) == recipe_names()
    of_page = (site / "afield" / "jobs" / "mapping").glob("map_page*")
    ours = (ROOT / "jobs" / "mapping").glob("map_page*")
    assert sorted(path.name for path in of_page) == sorted(path.name for path in ours)


def test_jobs_run_from_the_wheel(site: Path, project: Path) -> None:
    listed = run(site, project, "afield")
    assert listed.returncode == 0 and "pretrain" in listed.stdout
    shown = run(site, project, "afield", "pretrain", "simclr_small", "--help")
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.startswith("python -m afield pretrain [RECIPE]")
    wrong = run(site, project, "afield", "pretrian")
    assert wrong.returncode == 2 and wrong.stderr.startswith("error: pretrian is no job")


def test_a_file_is_decoded_in_a_child_of_the_wheel(site: Path, project: Path) -> None:
    script = project / "decode.py"
    script.write_text(
        "import io, afield, importlib\n"
        "from PIL import Image\n"
        "file = io.BytesIO(); Image.new('RGB', (5, 4)).save(file, 'PNG')\n"
        "decoder = importlib.import_module('afield.pipelines.media.decoder')\n"
        "print(decoder.Decoder(decoder.Limits()).image(file.getvalue()).pixels.shape)\n"
    )
    done = run(site, project, str(script))
    assert done.stdout.strip() == "(4, 5, 3)", done.stderr
