"""The order of ideas: a module imports only from modules that come before it."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import kanlib

PACKAGE = Path(kanlib.__file__).parent
ORDER = [
    "_checks",
    "knots",
    "bspline",
    "truncated_power",
    "change_of_basis",
    "transfer",
    "described",
    "maps",
    "local",
    "interrupts",
    "vectors",
    "fused",
    "launch",
    "gpu",
    "kernels",
    "layers",
    "free_knots",
    "networks",
    "refit",
    "derivatives",
    "ensembles",
    "attention",
    "squares",
    "objectives",
    "samplers",
    "residuals",
    "optimizers",
    "geometry",
    "problems",
    "files",
    "checkpoints",
    "adaptive",
    "coordinates",
    "fused_gram",
    "gram",
    "rows",
    "jacobian",
    "runs",
    "gauss_newton",
    "stagnation",
    "schedulers",
    "options",
    "snapshot",
    "training",
    "carry",
    "multilevel",
    "race",
    "relaxation",
    "spectra",
    "ntk",
    "conditioning",
    "cost",
    "records",
    "comparison",
    "experiments",
    "runner",
    "ledger",
    "planner",
    "figures",
    "drawings",
    "explore",
    "__main__",
]
RUN_TIME = {"torch", "numpy", "tqdm"}
BOOK_ONLY = {"ledger", "planner", "figures", "drawings", "explore"}
OPTIONAL = {
    "training": {"typing_extensions"},  # for type checkers only
    "multilevel": {"typing_extensions"},
    "fused": {"numba"},
    "fused_gram": {"numba"},
    "vectors": {"numba", "llvmlite"},
    "gpu": {"triton"},
    "conditioning": {"scipy"},
}


def imports(path: Path) -> Iterator[str]:
    """Yield the full name of every module or object that a file imports, wherever it does so."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} has a relative import"
            yield from (f"{node.module}.{name.name}" for name in node.names)


def module_name(path: Path) -> str:
    """Return the place of a file in the order: a problem counts as `problems`."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def out_of_order(path: Path) -> list[str]:
    """Return the modules of kanlib that a file imports although they come after it."""
    imported = {name.split(".")[1] for name in imports(path) if name.startswith("kanlib.")}
    return sorted(imported.intersection(ORDER[ORDER.index(module_name(path)) + 1 :]))


MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_module_imports_only_earlier_modules(path):
    assert module_name(path) in ORDER, f"give {path.name} its place in ORDER"
    assert out_of_order(path) == []


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_module_needs_only_runtime_dependencies(path):
    roots = {name.split(".")[0] for name in imports(path)} - sys.stdlib_module_names - {"kanlib"}
    if module_name(path) in BOOK_ONLY:
        assert "book" not in roots
    else:
        assert roots <= RUN_TIME | OPTIONAL.get(module_name(path), set())


def test_package_imports_nothing_of_the_book():
    names = {name.split(".")[1] for name in imports(PACKAGE / "__init__.py")}
    assert not names & BOOK_ONLY


def test_order_check_sees_a_planted_import(tmp_path, monkeypatch):
    (tmp_path / "knots.py").write_text("def f():\n    from kanlib.layers import SplineLayer\n")
    monkeypatch.setattr(f"{__name__}.PACKAGE", tmp_path)
    assert out_of_order(tmp_path / "knots.py") == ["layers"]
