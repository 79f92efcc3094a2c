"""What is declared: three packages at run time, lowest versions, and a script for the pins."""

import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
REQUIREMENTS = ROOT / "requirements.txt"
DECLARED = [Requirement(line) for line in requires("kanlib") or []]


def test_run_time_needs_three_packages():
    needed = {dependency.name for dependency in DECLARED if "extra" not in str(dependency.marker)}
    assert needed == {"torch", "numpy", "tqdm"}


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


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("tqdm==4.70.1", "tqdm>=4.70.1", "tqdm>=4.70.1 is no exact version"),
        ("tqdm==4.70.1", "", "tqdm has no exact version"),
        ("tqdm==4.70.1", "tqdm==4.1", "tqdm==4.1 is not tqdm>=4.66"),
        ("sympy==", "sympy==1", "sympy==11.14.0 is not installed, but 1.14.0: run make"),
    ],
)
def test_script_names_a_pin_that_is_wrong(old, new, fault, tmp_path):
    text = REQUIREMENTS.read_text()
    assert old in text
    (tmp_path / "r.txt").write_text(text.replace(old, new))
    command = [sys.executable, ROOT / "scripts" / "pins.py", tmp_path / "r.txt"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, fault in done.stdout.splitlines()) == (1, True), done
