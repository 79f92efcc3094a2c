"""What is declared: three packages at run time, lowest versions, and a script for the pins."""

import shutil
import subprocess
import sys
import textwrap
import zipfile
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


@pytest.mark.slow
def test_distributions_are_built_and_their_metadata_are_right(tmp_path):
    """What `pip install` would get: a wheel and an sdist that twine has nothing to say about."""
    pytest.importorskip("setuptools", "77")
    source = tmp_path / "kanlib"
    names = ["kanlib", "pyproject.toml", "README.md", "LICENSE"]
    source.mkdir()
    for name in names:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", tmp_path / "dist"]
    subprocess.run([*build, source], check=True, capture_output=True, timeout=300)
    files = sorted((tmp_path / "dist").iterdir())
    assert [file.name.split("-")[0] for file in files] == ["kanlib", "kanlib"]
    check = [sys.executable, "-m", "twine", "check", "--strict", *files]
    done = subprocess.run(check, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("PASSED") == 2
    with zipfile.ZipFile(next(file for file in files if file.suffix == ".whl")) as wheel:
        inside = set(wheel.namelist())
        (metadata,) = (name for name in inside if name.endswith("METADATA"))
        text = wheel.read(metadata).decode()
    modules = {f"kanlib/{p.relative_to(ROOT / 'kanlib')}" for p in (ROOT / "kanlib").rglob("*.py")}
    assert modules | {"kanlib/py.typed"} <= inside
    assert not [name for name in inside if name.startswith(("tests", "book", "benchmarks"))]
    for line in ("License-Expression: MIT", "Requires-Python: >=3.10", "Project-URL: Paper"):
        assert line in text


@pytest.mark.parametrize("package", ["sympy", "scipy"])
def test_formulas_say_what_to_install(package):
    code = f"import sys; sys.modules[{package!r}] = None; import kanlib.formulas.formula"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "needs SymPy and SciPy" in done.stderr.splitlines()[-1]


def test_core_needs_no_extra():
    """The rooms of the core import without any of the extras."""
    code = """
        import importlib, pkgutil, sys
        for package in ("scipy", "shapely", "sklearn", "plotly", "onnx", "numba"):
            sys.modules[package] = None
        import kanlib
        extras = ("viz", "domains", "estimators", "formulas", "kernels.cpu")
        for found in pkgutil.walk_packages(kanlib.__path__, "kanlib."):
            if not found.name.startswith(tuple(f"kanlib.{room}" for room in extras)):
                if not found.name.endswith("__main__"):
                    importlib.import_module(found.name)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
