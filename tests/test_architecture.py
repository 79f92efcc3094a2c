"""The order of ideas: rooms, and within them modules; each imports only from those before it."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import kanlib

PACKAGE = Path(kanlib.__file__).parent
BOOK = PACKAGE.parent / "book"
ROOMS = {
    "_checks": "",
    "splines": "knots periodic bspline quadrature truncated_power change_of_basis prolongation",
    "kernels": "chain_rule reference interrupts cpu_vectors cpu_numba cpu gpu_triton operator"
    " cpu_gram gram cpu_products products",
    "bases": "protocol projections polynomials fourier multiscale radial",
    "nn": "described maps free_knots spline_layer networks expansion jets transfinite"
    " hard_conditions ensemble",
    "objectives": "shares squares mean_squared_error ownership attention causal samplers interfaces"
    " unknowns residuals penalties",
    "training": "optimizers iterations files checkpoints adaptive coordinates rows"
    " hierarchy jacobian tridiagonal multigrid balance runs gauss_newton quasi_newton"
    " displacements stagnation schedule schedulers options snapshot cycles additive trainer"
    " optimizer_state multilevel race slabs",
    "distributed": "processes gradients checksums separability sharded",
    "domains": "shapes polygons",
    "analysis": "relaxation spectra ntk conditioning cost planner estimates smoothing"
    " importance pruning",
    "viz": "colors drawings histories solutions",
    "formulas": "library edges expressions formula regressors",
    "paper": "problems refit decoding records comparison experiments cluster runner",
    "estimators": "fitting regression classification",
    "interop": "branches weights plain export",
    "__main__": "",
}
ORDER = [
    f"{room}.{module}" if module else room
    for room, modules in ROOMS.items()
    for module in modules.split() or [""]
]
RUN_TIME = {"torch", "numpy", "tqdm"}
OPTIONAL = {
    "kernels.cpu_numba": {"numba"},
    "training.trainer": {"typing_extensions"},  # for type checkers only
    "training.multilevel": {"typing_extensions"},
    "kernels.cpu_gram": {"numba"},
    "kernels.cpu_products": {"numba"},
    "kernels.cpu_vectors": {"numba", "llvmlite"},
    "kernels.gpu_triton": {"triton"},
    "training.quasi_newton": {"scipy"},
    "domains.shapes": {"scipy"},
    "domains.polygons": {"shapely"},
    "analysis.conditioning": {"scipy"},
    "analysis.estimates": {"scipy"},
    "analysis.planner": {"scipy"},
    "formulas.library": {"scipy", "sympy"},
    "formulas.expressions": {"scipy", "sympy"},
    "formulas.formula": {"sympy"},
    "formulas.regressors": {"sympy"},
    "viz.drawings": {"plotly"},
    "viz.histories": {"plotly"},
    "viz.solutions": {"plotly"},
    "paper.cluster": {"distributed"},
    "estimators.fitting": {"sklearn"},
    "estimators.regression": {"sklearn"},
    "estimators.classification": {"sklearn"},
    "interop.export": {"scipy"},
}


def imports(path: Path) -> Iterator[str]:
    """Yield the full name of every module or object that a file imports, wherever it does so."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} has a relative import"
            yield from (f"{node.module}.{name.name}" for name in node.names)


def place(name: str) -> str:
    """Return the entry of the order that a dotted name within kanlib belongs to."""
    parts = name.split(".")
    return parts[0] if parts[0] in ORDER else ".".join(parts[:2])


def module_name(path: Path) -> str:
    """Return the place of a file in the order: a problem counts as `paper.problems`."""
    return place(".".join(path.relative_to(PACKAGE).with_suffix("").parts))


def out_of_order(path: Path) -> list[str]:
    """Return the modules of kanlib that a file imports although they come after it."""
    inner = (name.split(".", 1)[1] for name in imports(path) if name.startswith("kanlib."))
    later = ORDER[ORDER.index(module_name(path)) + 1 :]
    return sorted({place(name) for name in inner}.intersection(later))


MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")
IDS = [str(path.relative_to(PACKAGE)) for path in MODULES]


def test_every_place_is_taken():
    assert {module_name(path) for path in MODULES} == {*ORDER}


def test_rooms_hold_nothing_but_modules():
    """The front door of a room says what is in it; names come from the modules or from kanlib."""
    for room in (PACKAGE / name for name in ROOMS if (PACKAGE / name).is_dir()):
        body = ast.parse((room / "__init__.py").read_text(encoding="utf-8")).body
        assert len(body) == 1, f"{room.name}/__init__.py has more than a docstring"


@pytest.mark.parametrize("path", MODULES, ids=IDS)
def test_module_imports_only_earlier_modules(path):
    assert module_name(path) in ORDER, f"give {path.name} its place in ROOMS"
    assert out_of_order(path) == []


@pytest.mark.parametrize("path", MODULES, ids=IDS)
def test_module_needs_only_runtime_dependencies(path):
    roots = {name.split(".")[0] for name in imports(path)} - sys.stdlib_module_names - {"kanlib"}
    assert roots <= RUN_TIME | OPTIONAL.get(module_name(path), set())


def test_package_shows_nothing_that_needs_an_extra():
    shown = {place(n.split(".", 1)[1]).split(".")[0] for n in imports(PACKAGE / "__init__.py")}
    hidden = {
        "distributed",
        "domains",
        "analysis",
        "viz",
        "formulas",
        "paper",
        "estimators",
        "interop",
        "__main__",
    }
    assert not shown & {*hidden, "__main__"}


def test_nothing_but_the_book_imports_the_book():
    for path in MODULES:
        assert "kanbook" not in {name.split(".")[0] for name in imports(path)}
    assert (BOOK / "kanbook").is_dir()


def test_pictures_change_no_setting_of_plotly():
    code = (
        "import plotly.io as pio; before = pio.renderers.default, pio.templates.default; "
        "import kanlib.viz.drawings; "
        "assert (pio.renderers.default, pio.templates.default) == before"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_order_check_sees_a_planted_import(tmp_path, monkeypatch):
    (tmp_path / "splines").mkdir()
    planted = tmp_path / "splines" / "knots.py"
    planted.write_text("def f():\n    from kanlib.nn.spline_layer import SplineLayer\n")
    monkeypatch.setattr(f"{__name__}.PACKAGE", tmp_path)
    assert out_of_order(planted) == ["nn.spline_layer"]
