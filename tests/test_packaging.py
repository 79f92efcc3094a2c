"""What is installed: the pins mirror the extras, and at run time three packages are enough."""

import subprocess
import sys
from importlib.metadata import requires, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
REQUIREMENTS = ROOT / "requirements.txt"
DECLARED = [Requirement(line) for line in requires("kanlib") or []]


def pinned() -> list[Requirement]:
    """Return the requirements of the file that makes the environment."""
    lines = (line.split("#")[0].strip() for line in REQUIREMENTS.read_text().splitlines())
    return [Requirement(line) for line in lines if line]


def test_run_time_needs_three_packages():
    needed = {dependency.name for dependency in DECLARED if "extra" not in str(dependency.marker)}
    assert needed == {"torch", "numpy", "tqdm"}


def test_requirements_are_exact_versions_without_a_place():
    for requirement in pinned():
        (specifier,) = requirement.specifier
        assert specifier.operator == "=="
        assert requirement.url is None


@pytest.mark.skipif(sys.version_info < (3, 11), reason="tomllib came with Python 3.11")
def test_lowest_versions_are_those_of_pyproject():
    text = (ROOT / "pyproject.toml").read_text()
    output = subprocess.check_output([sys.executable, ROOT / "scripts" / "lowest.py"], text=True)
    lowest = [Requirement(line) for line in output.splitlines()]
    assert {"torch", "numpy", "tqdm", "numba", "scipy", "pytest"} <= {each.name for each in lowest}
    for requirement in lowest:
        (specifier,) = requirement.specifier
        assert specifier.operator == "=="
        bound = f'"{requirement.name}>={specifier.version}"'
        assert bound in text or str(requirement) in REQUIREMENTS.read_text()


def test_every_declared_package_is_pinned_within_its_bounds():
    for declared in DECLARED:
        pins = [
            pin
            for pin in pinned()
            if canonicalize_name(pin.name) == canonicalize_name(declared.name)
        ]
        assert pins or declared.name == "kanlib", f"{declared.name} is missing in requirements.txt"
        assert all(declared.specifier.contains(next(iter(p.specifier)).version) for p in pins)


def test_installed_versions_are_the_pinned_ones():
    for pin in pinned():
        if pin.marker is None or pin.marker.evaluate():
            assert pin.specifier.contains(version(pin.name)), f"run make: {pin} is not installed"
