"""The Burgers problem: Cole-Hopf against a spectral solver, and in the residual."""

import math

import numpy as np
import pytest
import torch
from functions import Function, residuals

from kanlib.nn.jets import Jet
from kanlib.paper.problems import burgers
from kanlib.paper.problems.burgers import Burgers, exact, volume_residual

NU = 0.01


def spectral(modes, steps):
    """Solve with Fourier series in x and an integrating factor with RK4 in t, up to t = 1.

    The solution is odd about x = -1, 0 and 1, so the periodic one has the values 0 at the ends.
    """
    x = -1 + 2 * np.arange(modes) / modes
    k = math.pi * np.fft.rfftfreq(modes, 1 / modes)
    half = np.exp(-NU * k**2 / (2 * steps))
    kept = np.arange(len(k)) <= modes // 3  # the square has no aliases then

    def convect(v):
        return -0.5j * k * kept * np.fft.rfft(np.fft.irfft(v, modes) ** 2) / steps

    v = np.fft.rfft(-np.sin(math.pi * x))
    for _ in range(steps):
        a = convect(v)
        b = convect(half * (v + a / 2))
        c = convect(half * v + b / 2)
        d = convect(half * half * v + half * c)
        v = half * half * (v + a / 6) + half * (b + c) / 3 + d / 6
    return x, np.fft.irfft(v, modes)


def random_points(low=0.05, count=300):
    points = np.random.default_rng(0).uniform([-1, low], [1, 1], (count, 2))
    return torch.tensor(points)


def test_cole_hopf_agrees_with_a_spectral_solver():
    x, u = spectral(512, 4000)
    points = torch.tensor(np.stack([x, np.ones_like(x)], axis=1))
    np.testing.assert_allclose(exact(points)[:, 0], u, atol=1e-9)


def test_cole_hopf_is_converged(monkeypatch):
    points = torch.cat([random_points(), torch.tensor([[0.01, 1.0], [-0.03, 0.4], [1.0, 1.0]])])
    value = exact(points)
    for nodes, size in ((60, 1e-9), (80, 1e-13), (200, 1e-14)):
        monkeypatch.setattr(burgers, "NODES", nodes)
        assert (exact(points) - value).abs().max() < size


def test_cole_hopf_has_the_initial_and_boundary_values():
    x = torch.linspace(-1, 1, 50, dtype=torch.float64)
    start = exact(torch.stack([x, torch.zeros_like(x)], dim=1))
    np.testing.assert_allclose(start[:, 0], -torch.sin(math.pi * x), atol=1e-14)
    for end in (-1.0, 0.0, 1.0):
        line = torch.stack([torch.full_like(x, end), (x + 1) / 2], dim=1)
        assert exact(line).abs().max() < 1e-13


def test_exact_solution_has_zero_residual():
    u = Jet.at(random_points(), pairs=[(0, 0)], features=exact)
    assert u.d(0, 0).abs().max() > 100  # the layer is among the points
    assert volume_residual(u).abs().max() < 1e-9


@pytest.mark.parametrize("channel", range(4))
def test_planted_sign_errors_are_seen(channel):
    u = Jet.at(random_points(), pairs=[(0, 0)], features=exact)
    u.channels[channel] *= -1
    assert volume_residual(u).abs().max() > 0.5


def test_residuals_are_known_by_hand():
    problem = Burgers()
    found = residuals(problem, lambda z: z[:, :1] ** 2 * z[:, 1:] + 1)
    x, t = problem.points["volume"].T
    expected = x**2 + (x**2 * t + 1) * 2 * x * t - NU * 2 * t
    np.testing.assert_allclose(found["volume"][:, 0], expected, rtol=1e-12, atol=1e-12)
    x = torch.linspace(-1, 1, 64, dtype=torch.float64)
    np.testing.assert_allclose(found["initial"][:, 0], 1 + torch.sin(math.pi * x), atol=1e-14)
    t = torch.linspace(0, 1, 64, dtype=torch.float64)
    np.testing.assert_allclose(found["boundary"][:, 0], np.tile(1 + t, 2), rtol=1e-14)


@pytest.mark.parametrize("viscosity", [burgers.VISCOSITY, 0.05])
def test_exact_solution_has_no_loss_and_no_error(viscosity):
    problem = Burgers(9, 7, viscosity=viscosity, nodes=120)
    solution = Function(lambda z: exact(z, viscosity, nodes=150))
    later = problem.points["volume"][problem.points["volume"][:, 1] > 0]  # exact has no slope at 0
    loss = problem.loss(points={"volume": later})
    assert float(loss(solution)) < 1e-16
    assert problem.error(solution) < 1e-12
    assert float(loss(Function(lambda z: exact(z, 2 * viscosity)))) > 1e-4


def test_error_is_relative_to_the_solution():
    problem = Burgers(2, 2)
    assert problem.error(Function(exact)) == 0
    assert problem.error(Function(lambda z: -exact(z))) == pytest.approx(2.0)


def test_points_are_those_of_the_paper():
    problem = Burgers()
    volume, start, ends = problem.points.values()
    assert volume.shape == (64 * 64, 2)
    assert start.shape == (64, 2)
    assert ends.shape == (2 * 64, 2)
    axes = [np.unique(axis) for axis in volume.T.numpy()]
    np.testing.assert_allclose(axes[0], np.linspace(-1, 1, 64), atol=1e-15)
    np.testing.assert_allclose(axes[1], np.linspace(0, 1, 64), atol=1e-15)
    assert problem.weights == {"volume": 1.0, "initial": 1.0, "boundary": 1.0}


def test_boundary_term_can_be_left_out():
    problem = Burgers(4, 4, boundary=False)
    assert problem.weights == {"volume": 1.0, "initial": 1.0}
    assert problem.loss().terms.keys() == problem.weights.keys() == problem.points.keys()


def exact_times_t(z):
    return z[:, :1] * z[:, 1:]


def test_graded_points_are_finer_at_the_layer():
    x = Burgers(65, 3, grading=4.0).points["initial"][:, 0]
    assert x[[0, 32, -1]].tolist() == pytest.approx([-1, 0, 1], abs=1e-15)
    np.testing.assert_allclose(x, -x.flip(0), atol=1e-15)
    spacing = x.diff()
    assert spacing.min() == spacing[31:33].min()
    assert spacing.max() / spacing.min() == pytest.approx(math.cosh(4.0), rel=0.15)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"nx": 1}, "nx must be at least 2, got 1"),
        ({"nt": 2.5}, "nt must be an integer of at least 2, got 2.5"),
        ({"grading": -1.0}, "grading must be a finite number of at least 0, got -1.0"),
        ({"grading": math.nan}, "grading must be a finite number of at least 0, got nan"),
        ({"grading": True}, "grading must be a finite number of at least 0, got True"),
        ({"grading": 100.0}, "grading must be below 100, got 100.0"),
        ({"dtype": torch.int64}, "dtype must be a floating-point type .*, got torch.int64"),
        ({"device": "abacus"}, "device must be one that .*, got 'abacus'"),
    ],
    ids=str,
)
def test_burgers_names_the_mistake(arguments, text):
    with pytest.raises((TypeError, ValueError), match=text):
        Burgers(**arguments)


def test_error_is_measured_on_a_grid_that_training_does_not_see():
    errors = [Burgers(*sizes).error(Function(exact_times_t)) for sizes in ((2, 2), (9, 7))]
    problem = Burgers(2, 2)
    assert len(problem.error_points) == 401 * 51
    u, wrong = exact(problem.error_points), exact_times_t(problem.error_points)
    expected = np.linalg.norm(wrong - u) / np.linalg.norm(u)
    assert errors == pytest.approx([expected] * 2, rel=1e-12)


def test_exact_solution_wants_points_in_the_plane():
    with pytest.raises(ValueError, match=r"points must have 2 entries .*, got shape \(4, 3\)"):
        exact(torch.zeros(4, 3))
