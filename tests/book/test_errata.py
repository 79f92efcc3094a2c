"""Corrections to the paper, each decided by a computation."""

import math
import statistics
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import solve_ivp
from scipy.interpolate import BSpline

from kanlib import KAN, MLP, KnotGrid
from kanlib.paper.experiments import EXPERIMENTS
from kanlib.splines.change_of_basis import ChangeOfBasis


@pytest.mark.parametrize("r", range(1, 6))
@pytest.mark.parametrize("n", [1, 7, 50])
def test_operation_counts_differ_by_the_order(r, n):
    assert Fraction(n * r + r**2, n + r) == r


def test_spans_are_nested_but_not_the_bases():
    points = torch.linspace(0, 1, 300, dtype=torch.float64).numpy()
    bases = []
    for n in (5, 10):
        grid = KnotGrid.uniform(4, n)
        bases.append(BSpline.design_matrix(points, grid.knots.numpy(), 3).toarray())
    coarse, fine = (torch.from_numpy(basis) for basis in bases)
    fitted = fine @ torch.linalg.lstsq(fine, coarse).solution
    assert torch.allclose(fitted, coarse, atol=1e-12)
    assert (coarse.T[:, None] - fine.T).abs().amax(-1).min() > 0.01


def mean_of_the_others(mean, stdev):
    """Bound on the mean of all but the largest of five numbers that are not negative."""
    squares = 4 * stdev**2 + 5 * mean**2
    return (5 * mean - squares / (5 * mean)) / 4  # squares <= largest * sum


@given(st.lists(st.floats(1e-9, 1.0), min_size=5, max_size=5))
def test_bound_on_the_mean_of_the_others(values):
    bound = mean_of_the_others(statistics.mean(values), statistics.stdev(values))
    assert (sum(values) - max(values)) / 4 <= bound + 1e-12


def test_one_seed_makes_the_mean_of_the_fine_network():
    paper = EXPERIMENTS["regression"].cases["spline-fine"].paper
    mean, stdev = paper["mean"], paper["stdev"]
    assert 2 * mean < stdev < math.sqrt(5) * mean
    assert mean_of_the_others(mean, stdev) < 3.6e-5
    assert mean_of_the_others(2.545e-3, 5.635e-3) < 5.1e-5  # whatever the printed numbers round


def test_poisson_counts_fit_cubic_splines_on_all_edges():
    counts = {r: [KAN([3, 5, 1], n=n, r=r).num_parameters for n in (4, 8, 16, 32)] for r in (3, 4)}
    assert counts[4] == [140, 220, 380, 700]
    assert counts[3] != counts[4]
    assert MLP([3, 16, 16, 1]).num_parameters == 352
    assert KnotGrid.uniform(4, 4).num_basis == 7


def test_relu_networks_have_no_second_derivative():
    torch.manual_seed(0)
    weights = torch.randn(16, 2), torch.randn(16, 16), torch.randn(1, 16)

    def net(x, activation):
        return weights[2] @ activation(weights[1] @ activation(weights[0] @ x + 0.1) + 0.1)

    for activation, smooth in ((torch.relu, False), (torch.tanh, True)):
        hessian = torch.func.hessian(lambda x, f=activation: net(x, f)[0])(torch.rand(2))
        assert bool(hessian.abs().max() > 1e-3) == smooth


def test_burgers_schedules():
    schedules = [3200, 0, 0], [0, 0, 800], [800, 400, 200]
    assert [sum(epochs) for epochs in schedules] == [3200, 800, 1400]
    work = [sum(e * 2**level for level, e in enumerate(epochs)) for epochs in schedules]
    assert work == [3200, 3200, 2400]


def test_burgers_counts_fit_a_linear_map_and_cubic_splines():
    counts = [KAN([2, 20, 20, 1], n=n, r=4, first="linear").num_parameters for n in (5, 20)]
    assert counts == [3400, 9700]
    assert [MLP(w).num_parameters for w in ([2, 20, 20, 1], [2, 56, 56, 1])] == [500, 3416]


@pytest.mark.parametrize(("sign", "end"), [(1, 0.0), (-1, 1.0)])
def test_printed_allen_cahn_equation_repels_from_one_and_is_ill_posed(sign, end):
    """Integrate constant states, and compare growth of waves with finite differences."""
    solution = solve_ivp(lambda t, u: sign * (5 * u**3 - 5 * u), (0, 3), [0.5], rtol=1e-9)
    assert solution.y[0, -1] == pytest.approx(end, abs=1e-3)
    k, epsilon, eta = 1000 * math.pi, 1e-4, 1e-6
    x = torch.linspace(0, 2 * math.pi / k, 2001, dtype=torch.float64)
    u = 1 + eta * torch.cos(k * x)
    u_xx = torch.gradient(torch.gradient(u, spacing=(x,))[0], spacing=(x,))[0]
    rate = (sign * (-epsilon * u_xx + 5 * u**3 - 5 * u) / (u - 1))[900:1100].mean()
    assert rate == pytest.approx(sign * (epsilon * k**2 + 10), rel=1e-3)


def test_allen_cahn_points_of_appendix_d_are_a_grid():
    assert math.isqrt(251001) ** 2 == 251001


def test_functions_of_the_lower_order_are_too_few():
    grid = KnotGrid.uniform(4, 10)
    points, knots = torch.linspace(0, 1, 400, dtype=torch.float64).numpy(), grid.knots.numpy()
    spans = {}
    for order in (3, 4):
        basis = [BSpline.basis_element(knots[i : i + order + 1], False) for i in range(13)]
        columns = torch.from_numpy(np.nan_to_num(np.stack([b(points) for b in basis])))
        spans[order] = torch.linalg.matrix_rank(columns).item()
    assert spans == {3: 12, 4: 13}


@pytest.mark.parametrize("r", range(1, 6))
def test_one_power_more_gives_integrals_of_b_splines(r):
    grid = KnotGrid.uniform(r, 10)
    row = ChangeOfBasis(grid).dense()[r - 1]  # the B-spline on [0, rh]
    x = torch.linspace(0, 1, 101, dtype=torch.float64)[:-1]
    powers = (x[:, None] - grid.knots[: grid.num_basis]).clamp(min=0) ** r
    spline = BSpline.basis_element(grid.knots[r - 1 : 2 * r].numpy(), extrapolate=False)
    integrals = [float(spline.integrate(0, min(float(end), r * grid.h))) for end in x]
    expected = r * torch.tensor(integrals, dtype=torch.float64)
    torch.testing.assert_close(powers @ row, expected, rtol=0, atol=1e-9)
    assert expected[-1] == pytest.approx(r * grid.h)


def test_regression_schedules():
    schedules = (128, 0, 0, 0), (0, 0, 0, 16), (32, 16, 8, 4)
    assert [sum(e * 2**level for level, e in enumerate(s)) for s in schedules] == [128] * 3
    assert [sum(schedule) for schedule in schedules] == [128, 16, 60]


def test_gains_in_the_tables():
    cases = EXPERIMENTS["regression"].cases
    means = {name: case.paper["mean"] for name, case in cases.items() if case.paper}
    gains = {name: mean / means["spline-multilevel"] for name, mean in means.items()}
    assert gains["spline-coarse"] == pytest.approx(45, abs=0.5)
    assert gains["spline-fine"] == pytest.approx(69, abs=0.5)
    assert min(gains[name] for name in gains if name != "spline-multilevel") == gains["mlp-20-20"]
    assert gains["mlp-20-20"] == pytest.approx(9.07, abs=0.01)
    table_3 = [mean / 2.402e-5 for mean in (6.635e-3, 4.072e-3, 2.334e-2, 1.734e-2)]
    assert all(100 < gain < 1000 for gain in table_3)


def test_shifted_layers_reach_the_output_at_the_last_index():
    torch.manual_seed(0)
    model = MLP([2, 5, 4, 1], activation="tanh")
    hidden = [layer for layer in model.modules() if isinstance(layer, torch.nn.Linear)]
    x = torch.rand(6, 2)
    shifted = [x @ hidden[0].weight.T]
    for before, layer in pairwise(hidden):
        shifted.append(torch.tanh(shifted[-1] + before.bias) @ layer.weight.T)
    assert [value.shape[1] for value in shifted] == [5, 4, 1]
    torch.testing.assert_close(shifted[-1], model(x))
