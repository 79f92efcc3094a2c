"""What the chapter on the conclusion says of the four records, over all pairs of seeds."""

from pathlib import Path

import pytest

from kanlib.paper.comparison import compare_cases
from kanlib.paper.records import load_record

RESULTS = Path(__file__).parents[2] / "book" / "results"
FIGURE = {"regression": "train_mse", "poisson": "error", "burgers": "loss", "allen-cahn": "error"}
RECORDS = {name: load_record(RESULTS / f"{name}.json", name) for name in FIGURE}
RELU = dict.fromkeys(FIGURE, "relu-multilevel") | {"regression": "relu-samestart-multilevel"}
SCALES = ("", "-scale0.03", "-scale0.01", "-scale0.0001")


def gain(name, case, ours="spline-multilevel", figure=None):
    return compare_cases(RECORDS[name], case, ours, figure or FIGURE[name])


@pytest.mark.parametrize("name", FIGURE)
def test_spline_basis_is_better_on_every_problem(name):
    found = gain(name, RELU[name])
    assert found.verdict == "larger"
    assert found.ratio > 10


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("epochs", ["", "-epochs60"])
def test_regression_five_seeds_cannot_tell_from_the_same_start(scale, epochs):
    found = gain("regression", f"spline-fine{scale}{epochs}", f"spline-multilevel{scale}")
    assert found.verdict == "cannot tell"
    assert found.seeds == (5, 5)


@pytest.mark.parametrize("case", ["coarse", "fine-prolonged", "fine-prolonged-epochs60"])
def test_regression_five_seeds_cannot_tell_of_other_networks_either(case):
    assert gain("regression", f"spline-{case}").verdict == "cannot tell"


def test_regression_levels_rescue_a_start_of_scale_1():
    assert gain("regression", "spline-fine-scale1", "spline-multilevel-scale1").low > 100


def test_poisson_levels_gain_from_the_same_function_and_not_from_a_small_start():
    assert gain("poisson", "spline-fine-prolonged").verdict == "larger"
    assert gain("poisson", "spline-fine-prolonged-epochs").verdict == "larger"
    small = gain("poisson", "spline-fine-scale0.01", "spline-multilevel-scale0.01")
    assert small.verdict == "cannot tell"
    assert gain("poisson", "spline-fine-scale0.01").verdict == "larger", "the better start of each"


def test_burgers_levels_gain_in_the_loss_and_not_in_the_error():
    for case in ("spline-fine-prolonged-equal-work", "spline-fine-equal-work", "spline-coarse"):
        assert gain("burgers", case).verdict == "larger"
        assert gain("burgers", case, figure="error").verdict == "cannot tell"
    for case in ("spline-fine-prolonged-epochs", "spline-fine-epochs"):
        assert gain("burgers", case).verdict == "cannot tell"
    assert gain("burgers", "spline-fine-epochs", figure="error").verdict == "smaller"


def test_allen_cahn_best_single_level_is_the_coarse_network():
    coarse = gain("allen-cahn", "spline-coarse")
    assert coarse.low > 1
    for start in ("", "-prolonged", "-scale0.01"):
        assert gain("allen-cahn", f"spline-fine{start}-epochs").ratio > coarse.ratio
