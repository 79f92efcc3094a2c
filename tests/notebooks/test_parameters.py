"""Every chapter holds its own assertions over other orders, grids and bases."""

from itertools import product

import nbformat
import papermill
import pytest

from scripts.notebooks import CELL_TIMEOUT, chapters, has_parameters

# As they are, most of them like this, chapters run against their outputs. One takes a quarter of a
# minute and more.
AS_THEY_ARE = {"r": 4, "n": 5, "basis": "spline"}
RUNS = [
    {"r": 1, "n": 12, "basis": "relu"},
    {"r": 2, "n": 5, "basis": "relu"},
    {"r": 3, "n": 12, "basis": "spline"},
]


def pytest_generate_tests(metafunc):
    """Run each chapter with parameters over all of `RUNS`."""
    if "run" not in metafunc.fixturenames:
        return
    paths = metafunc.config.getoption("chapter") or chapters()
    cases = [
        pytest.param(path, run, id="-".join([path.stem, *(f"{k}={v}" for k, v in run.items())]))
        for path in paths
        if has_parameters(nbformat.read(path, as_version=4))
        for run in RUNS
    ]
    metafunc.parametrize(("path", "run"), cases)


def test_runs_cover_all_orders_and_every_grid_in_both_bases():
    every = [AS_THEY_ARE, *RUNS]
    assert {run["r"] for run in every} == {1, 2, 3, 4}
    assert {(run["n"], run["basis"]) for run in every} == {*product((5, 12), ("spline", "relu"))}


def execute(path, run, out):
    papermill.execute_notebook(
        path,
        out,
        parameters=run,
        cwd=path.parent,
        kernel_name="python3",
        execution_timeout=CELL_TIMEOUT,
        progress_bar=False,
    )


def test_chapter_holds_its_assertions(path, run, tmp_path):
    try:
        execute(path, run, tmp_path / path.name)
    except RuntimeError as error:  # two kernels that start at once can be given the same port
        if "Kernel died before replying" not in str(error):
            raise
        execute(path, run, tmp_path / path.name)
