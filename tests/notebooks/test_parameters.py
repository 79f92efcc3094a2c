"""Every chapter holds its own assertions over a pairwise-covering set of parameters."""

from itertools import combinations, product

import nbformat
import papermill
import pytest

from scripts.notebooks import CELL_TIMEOUT, chapters, has_parameters

VALUES = {"r": (1, 2, 3), "n": (5, 12), "basis": ("spline", "relu")}
# Order 4 is that of the chapters as they are.
# Orders in turn take (5, spline) and (12, relu), or (5, relu) and (12, spline).
RUNS = [
    {"r": r, "n": n, "basis": VALUES["basis"][(r + i) % 2]}
    for r in VALUES["r"]
    for i, n in enumerate(VALUES["n"])
]


def pytest_generate_tests(metafunc):
    """Run a chapter with parameters over all of `RUNS`, and any other one once as it is."""
    if "run" not in metafunc.fixturenames:
        return
    paths = metafunc.config.getoption("chapter") or chapters()
    cases = [
        pytest.param(path, run, id="-".join([path.stem, *(f"{k}={v}" for k, v in run.items())]))
        for path in paths
        for run in (RUNS if has_parameters(nbformat.read(path, as_version=4)) else [{}])
    ]
    metafunc.parametrize(("path", "run"), cases)


def test_runs_cover_every_pair_of_values():
    for one, other in combinations(VALUES, 2):
        covered = {(run[one], run[other]) for run in RUNS}
        assert covered == set(product(VALUES[one], VALUES[other]))


def test_runs_are_as_few_as_can_be():
    largest, second = sorted(map(len, VALUES.values()))[:-3:-1]
    assert len(RUNS) == largest * second


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
