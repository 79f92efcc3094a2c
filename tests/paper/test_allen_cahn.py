"""The Allen-Cahn problem: its reference against a second method, and in the residual."""

import math

import numpy as np
import pytest
import torch
from functions import residuals
from scipy.integrate import solve_ivp

from kanlib.nn.jets import Jet
from kanlib.paper.problems import allen_cahn
from kanlib.paper.problems.allen_cahn import AllenCahn, initial, reference, volume_residual

EPS = 1e-4


@pytest.fixture(scope="module")
def solution():
    """The reference at 501 x 101 points."""
    return reference()


def chebyshev(count, times):
    """Return the solution on 251 points of [0, 1], where it is even and periodic: slopes vanish.

    Collocation at Chebyshev points, and an implicit integrator: nothing in common with a Fourier
    series, which sees the kink of the initial values everywhere.
    """
    angles = np.pi * np.arange(count + 1) / count
    nodes, basis = np.cos(angles), np.polynomial.chebyshev.chebvander
    slope_of = np.polynomial.chebyshev.chebder(np.eye(count + 1))  # of each polynomial
    derivative = 2 * basis(nodes, count - 1) @ slope_of @ np.linalg.inv(basis(nodes, count))
    ends, inner = [0, -1], slice(1, -1)
    slopes, second = derivative[ends], derivative @ derivative
    closure = -np.linalg.solve(slopes[:, ends], slopes[:, inner])
    linear = EPS * (second[inner, inner] + second[inner][:, ends] @ closure)
    start = initial(torch.from_numpy((nodes[inner] + 1) / 2)).numpy()
    solved = solve_ivp(
        lambda _, u: linear @ u - 5 * u**3 + 5 * u,
        (0, times[-1]),
        start,
        "Radau",
        times,
        rtol=1e-9,
        atol=1e-11,
        jac=lambda _, u: linear + np.diag(5 - 15 * u**2),
    ).y
    first, last = closure @ solved
    coefficients = np.linalg.solve(basis(nodes, count), np.vstack([first, solved, last]))
    return basis(np.linspace(-1, 1, 251), count) @ coefficients


def test_reference_agrees_with_a_second_method(solution):
    found = chebyshev(130, [0.05, 0.2, 0.5])
    np.testing.assert_allclose(found, solution[250:, [5, 20, 50]], rtol=0, atol=2e-9)


def test_reference_agrees_with_finite_differences_where_they_are_good(solution):
    count = 2000
    x = -1 + 2 * np.arange(count) / count

    def rate(_, u):
        near = np.roll(u, 1) + np.roll(u, -1)
        far = np.roll(u, 2) + np.roll(u, -2)
        u_xx = (-far + 16 * near - 30 * u) / (12 * (2 / count) ** 2)  # order four
        return EPS * u_xx - 5 * u**3 + 5 * u

    times = np.linspace(0, 1, 101)
    start = x**2 * np.cos(math.pi * x)
    solved = solve_ivp(rate, (0, 1), start, "DOP853", times[::10], rtol=1e-8, atol=1e-10).y
    difference = solution[:-1, ::10] - solved[::4]
    assert np.abs(difference[100:400]).max() < 5e-6


def test_reference_is_converged(solution):
    scale = np.linalg.norm(solution)
    assert np.linalg.norm(reference(4000, 1000) - solution) < 1e-9 * scale
    assert np.linalg.norm(reference(2000, 100) - solution) < 1e-6 * scale


def test_reference_has_the_initial_values_and_goes_to_its_attractors(solution):
    x = np.linspace(-1, 1, 501)
    np.testing.assert_allclose(solution[:, 0], x**2 * np.cos(np.pi * x), atol=1e-14)
    np.testing.assert_allclose(solution, solution[::-1], atol=1e-12)
    np.testing.assert_array_equal(solution[0], solution[-1])
    assert np.abs(solution).max() <= 1 + 1e-9
    assert (np.abs(solution[:, -1]) > 0.9).mean() > 0.8


def solution_jet(solution):
    """Derivatives of the reference by Fourier series in x and differences in t, inside."""
    k = math.pi * np.fft.rfftfreq(500, 1 / 500)[:, None]
    series = np.fft.rfft(solution[:-1], axis=0)
    u_x, u_xx = (np.fft.irfft(factor * series, axis=0) for factor in (1j * k, -(k**2)))
    u = solution[:-1]
    step = 0.01
    u_t = (
        45 * (u[:, 4:-2] - u[:, 2:-4]) - 9 * (u[:, 5:-1] - u[:, 1:-5]) + u[:, 6:] - u[:, :-6]
    ) / (60 * step)
    inside = np.s_[50:450]  # 0.2 from the ends
    channels = [c[inside].ravel() for c in (u[:, 3:-3], u_x[:, 3:-3], u_t, u_xx[:, 3:-3])]
    return Jet(torch.tensor(np.array(channels))[..., None], 2, ((0, 0),))


def test_reference_has_zero_residual(solution):
    u = solution_jet(solution)
    assert u.d(1).abs().max() > 1
    assert volume_residual(u).abs().max() < 1e-3
    assert volume_residual(u).norm() < 1e-5 * u.d(1).norm()


@pytest.mark.parametrize("channel", [0, 2, 3])
def test_planted_sign_errors_are_seen(channel, solution):
    u = solution_jet(solution)
    u.channels[channel] *= -1
    assert volume_residual(u).norm() > 1e-2 * u.d(1).norm()


def test_printed_equation_is_the_standard_one_backwards_in_time(solution):
    u = solution_jet(solution)
    standard = volume_residual(u)
    assert volume_residual(u, "printed").norm() > u.d(1).norm()
    u.channels[2] *= -1
    torch.testing.assert_close(volume_residual(u, "printed"), -standard)


@pytest.mark.parametrize("sign", ["standard", "printed"])
def test_residuals_are_known_by_hand(sign):
    """The network sees 2t - 1; the derivative in t is that of the composition."""
    problem = AllenCahn(1000, sign)
    found = residuals(problem, lambda z: z[:, :1] ** 2 * (z[:, 1:] + 2))
    x, t = problem.points["volume"].T
    u = x**2 * (2 * t + 1)
    right = EPS * 2 * (2 * t + 1) - 5 * u**3 + 5 * u
    expected = 2 * x**2 - right if sign == "standard" else 2 * x**2 + right
    np.testing.assert_allclose(found["volume"][:, 0], expected, rtol=1e-12, atol=1e-12)
    x = torch.linspace(-1, 1, 501, dtype=torch.float64)
    start = x**2 * (1 - torch.cos(math.pi * x))
    np.testing.assert_allclose(found["initial"][:, 0], start, atol=1e-14)


def test_error_is_relative_to_the_reference(solution):
    problem = AllenCahn(1)
    values = torch.tensor(solution).reshape(-1, 1)
    assert problem.error(lambda z: values) == 0
    assert problem.error(lambda z: 3 * values) == pytest.approx(2.0)
    x, t = problem.error_points.reshape(501, 101, 2).permute(2, 0, 1)
    assert (x[0, 0], x[-1, 0], t[0, 0], t[0, -1]) == (-1, 1, 0, 1)


def test_points_are_those_of_the_paper():
    problem = AllenCahn()
    points = problem.points["volume"]
    assert points.shape == (20_000, 2)
    assert problem.points["initial"].shape == (501, 2)
    low, high = points.amin(dim=0), points.amax(dim=0)
    np.testing.assert_allclose(low, [-1, 0], atol=1e-3)
    np.testing.assert_allclose(high, [1, 1], atol=1e-3)
    np.testing.assert_allclose(points.mean(dim=0), [0, 0.5], atol=0.02)
    inputs = problem.inputs(points)
    assert inputs.abs().max() <= 1
    assert problem.weights == {"volume": 1e-1, "initial": 1.0}


def test_grid_is_that_of_table_d(monkeypatch):
    monkeypatch.setattr(allen_cahn, "INITIAL_POINTS", 5)
    problem = AllenCahn("grid")
    assert problem.points["volume"].shape == (25, 2)
    assert problem.points["volume"][1].tolist() == [-1, 0.25]
    assert problem.points["initial"][:, 0].tolist() == [-1, -0.5, 0, 0.5, 1]


def test_points_depend_on_the_seed_alone():
    torch.manual_seed(1)
    first = AllenCahn(10, seed=5).points["volume"]
    torch.manual_seed(2)
    assert torch.equal(AllenCahn(10, seed=5).points["volume"], first)
    assert not torch.equal(AllenCahn(10, seed=6).points["volume"], first)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"points": 0}, "points must be at least 1, got 0"),
        ({"points": True}, "points must be an integer of at least 1, got True"),
        ({"points": 10.0}, "points must be an integer of at least 1, got 10.0"),
        ({"points": "all"}, r"points, if not a number, must be one of \('grid',\), got 'all'"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"dtype": torch.int64}, "dtype must be a floating-point type .*, got torch.int64"),
        ({"device": "abacus"}, "device must be one that .*, got 'abacus'"),
        ({"sign": "+"}, r"sign must be one of \('standard', 'printed'\), got '\+'"),
    ],
)
def test_allen_cahn_names_the_mistake(arguments, text):
    with pytest.raises((TypeError, ValueError), match=text):
        AllenCahn(**arguments)


def test_reference_wants_multiples():
    for arguments in ({"modes": 600}, {"steps": 150}):
        with pytest.raises(ValueError, match=r"(modes|steps) must be a multiple of (500|100), got"):
            allen_cahn.reference(**arguments)
