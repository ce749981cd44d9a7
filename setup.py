"""What the wheel holds: one package, `afield`, with the project's four inside (see
afield/__init__.py)."""

from setuptools import find_packages, setup

INSIDE = ("augment", "models", "pipelines", "jobs")
found = find_packages(include=[*INSIDE, *(f"{name}.*" for name in INSIDE)])

setup(
    packages=["afield", *(f"afield.{name}" for name in found)],
    package_dir={f"afield.{name}": name for name in INSIDE},
    package_data={"afield.jobs": ["recipes/*.yaml", "mapping/map_page*"]},
)
