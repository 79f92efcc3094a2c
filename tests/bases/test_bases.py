"""Bases against NumPy's polynomials, waves, and SciPy's B-splines; nesting, and what it is not."""

import itertools
import math

import numpy as np
import pytest
import torch
from numpy.polynomial import Chebyshev as NumpyChebyshev
from numpy.polynomial import Legendre as NumpyLegendre
from scipy.interpolate import BSpline
from scipy.special import eval_hermite

from kanlib import KnotGrid
from kanlib.bases.fourier import Fourier
from kanlib.bases.multiscale import HierarchicalSplines, SplineWavelets
from kanlib.bases.polynomials import Chebyshev, Legendre
from kanlib.bases.projections import check_basis, gram, least_squares, nesting_error
from kanlib.bases.protocol import FunctionBasis, appended, as_basis, continued
from kanlib.bases.radial import Radial

WILD = [-1.0, -0.9, 0.0, 2.0]
NESTED = [
    Chebyshev(1),
    Chebyshev(5, (-2.0, 0.5)),
    Legendre(8),
    Legendre(3, (10.0, 11.0)),
    Fourier(1),
    Fourier(5, (-1.0, 2.0)),
    Fourier(4, period=2.0),
    HierarchicalSplines(KnotGrid.uniform(2, 1)),
    HierarchicalSplines(KnotGrid.uniform(2, 5), 2),
    HierarchicalSplines(KnotGrid(4, WILD), 2),
    HierarchicalSplines(KnotGrid.uniform(5, 3, (-1.0, 1.0)), 1),
    SplineWavelets(KnotGrid.uniform(1, 3), 2),
    SplineWavelets(KnotGrid.uniform(4, 5), 2),
    SplineWavelets(KnotGrid(3, WILD), 1),
    SplineWavelets(KnotGrid(8, [0.0, 1.0]), 2),
]
ALL = [*NESTED, Radial(1), Radial(7, (-1.0, 3.0))]


def named(bases):
    return pytest.mark.parametrize("basis", bases, ids=repr)


def points(basis, beyond=0.3, count=41):
    """Points in and around the domain of a basis, none of them at a breakpoint."""
    a, b = basis.domain
    share = (torch.arange(1, count + 1, dtype=torch.float64) * 0.6180339887498949) % 1
    return a + (b - a) * ((1 + 2 * beyond) * share - beyond)


def inside(basis):
    return points(basis, beyond=0.0)


@pytest.mark.parametrize(
    ("ours", "theirs"), [(Chebyshev, NumpyChebyshev), (Legendre, NumpyLegendre)]
)
@pytest.mark.parametrize("degree", [1, 2, 7, 30])
def test_polynomials_are_those_of_numpy(ours, theirs, degree):
    basis = ours(degree, (-0.5, 2.0))
    x = inside(basis)
    found = basis.derivatives(x, 4)
    for order, k in itertools.product(range(5), range(degree + 1)):
        reference = theirs.basis(k, domain=basis.domain).deriv(order)(x.numpy())
        scale = max(1.0, np.abs(reference).max())
        np.testing.assert_allclose(found[order, :, k], reference, rtol=0, atol=1e-10 * scale)


def test_polynomials_continue_linearly():
    basis = Chebyshev(6, (-1.0, 1.0))
    far = basis.derivatives(torch.tensor([3.0, -4.0], dtype=torch.float64), 2)
    for k in range(7):
        slope = float(k**2)  # T_k'(1)
        assert far[0, 0, k] == pytest.approx(1 + 2 * slope)
        assert far[0, 1, k] == pytest.approx((-1) ** k * (1 + 3 * slope))
    assert (far[2] == 0).all()


@pytest.mark.parametrize("period", [1.5, 4.0])
def test_waves_against_complex_exponentials(period):
    basis = Fourier(6, (0.5, 2.0), period)
    x = points(basis, beyond=3.0).numpy()
    found = basis.derivatives(torch.from_numpy(x), 4).numpy()
    assert (found[0, :, 0] == 1).all()
    assert (found[1:, :, 0] == 0).all()
    for order, k in itertools.product(range(5), range(1, 7)):
        rate = 2j * np.pi * k / period
        wave = rate**order * np.exp(rate * (x - 0.5))
        scale = abs(rate) ** order
        np.testing.assert_allclose(found[order, :, 2 * k - 1], wave.real, atol=1e-12 * scale)
        np.testing.assert_allclose(found[order, :, 2 * k], wave.imag, atol=1e-12 * scale)


def test_coefficients_of_waves_are_those_of_the_fast_fourier_transform():
    basis, count = Fourier(4), 16
    x = torch.arange(count, dtype=torch.float64) / count
    values = torch.randn(count, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = torch.linalg.lstsq(basis.derivatives(x, 0)[0], values[:, None]).solution[:, 0]
    expected = np.fft.rfft(values.numpy()) / count
    assert found[0] == pytest.approx(expected[0].real)
    np.testing.assert_allclose(found[1::2], 2 * expected[1:5].real, atol=1e-12)
    np.testing.assert_allclose(found[2::2], -2 * expected[1:5].imag, atol=1e-12)


def test_waves_of_the_length_of_the_domain_are_orthogonal():
    matrix = gram(Fourier(5, (-1.0, 2.0)))
    torch.testing.assert_close(matrix, torch.diag(matrix.diagonal()), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", [HierarchicalSplines, SplineWavelets])
@pytest.mark.parametrize("order", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("breakpoints", [[0.0, 1.0], [0.0, 0.5, 1.0], WILD])
def test_splines_by_scales_span_the_splines(kind, order, breakpoints):
    """They are SciPy's B-splines in other coordinates, by a regular matrix."""
    basis = kind(KnotGrid(order, breakpoints), 2)
    grid, x = basis.grid, inside(basis)
    reference = BSpline(grid.knots.numpy(), np.eye(grid.num_basis), order - 1)
    assert basis.matrix.shape == (grid.num_basis, grid.num_basis)
    assert torch.linalg.matrix_rank(basis.matrix) == grid.num_basis
    for derivative in range(min(order, 5)):
        found = basis.derivatives(x, derivative)[derivative].numpy()
        expected = reference(x.numpy(), derivative) @ basis.matrix.numpy()
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9 * np.abs(expected).max())
    assert (basis.derivatives(x, 4)[order:] == 0).all()
    coordinates = torch.linalg.solve(basis.matrix, torch.eye(grid.num_basis, dtype=torch.float64))
    back = basis.derivatives(x, 0)[0] @ coordinates
    np.testing.assert_allclose(back, reference(x.numpy()), atol=1e-9)


def test_coefficients_of_hats_are_surpluses():
    """On dyadic grids they are second differences of the function, halved (Yserentant)."""
    basis = HierarchicalSplines(KnotGrid.uniform(2, 1), 3)
    t = basis.grid.breakpoints
    values = t**2 + torch.sin(3 * t)
    found = torch.linalg.solve(basis.derivatives(t, 0)[0], values)
    f = {float(x): float(v) for x, v in zip(t, values, strict=True)}
    expected = [f[0.0], f[1.0]]
    for level in (1, 2, 3):
        h = 0.5**level
        for k in range(2 ** (level - 1)):
            middle = (2 * k + 1) * h
            expected.append(f[middle] - 0.5 * (f[middle - h] + f[middle + h]))
    np.testing.assert_allclose(found, expected, atol=1e-13)


@pytest.mark.parametrize("order", [1, 2, 3, 4, 6])
def test_wavelets_of_different_levels_are_orthogonal(order):
    basis = SplineWavelets(KnotGrid(order, [0.0, 0.25, 0.4, 1.0]), 3)
    matrix, ends = gram(basis), [basis.coarsest.num_basis]
    for level in range(3):
        ends.append(ends[-1] + basis.coarsest.n * 2**level)
    for start, end in itertools.pairwise([0, *ends]):
        matrix[start:end, start:end] = 0
    assert matrix.abs().max() < 1e-12


def test_what_coordinates_do_to_the_condition_number():
    """Wavelets keep it; hierarchical hats, and more so cubic ones, lose it with each level."""

    def condition(basis):
        matrix = gram(basis)
        scale = matrix.diagonal().rsqrt()
        return float(torch.linalg.cond(scale[:, None] * matrix * scale))

    levels = range(1, 6)
    for order in (2, 4):
        grid = KnotGrid.uniform(order, 4)
        wavelets = [condition(SplineWavelets(grid, level)) for level in levels]
        others = [condition(HierarchicalSplines(grid, level)) for level in levels]
        assert max(wavelets) < 1.5 * wavelets[0]
        assert others[-1] > 8 * others[0]


def test_radial_functions_are_gaussians():
    basis = Radial(5, (-1.0, 2.0))
    x, h = points(basis), 0.6
    found = basis.derivatives(x, 4)
    for i, order in itertools.product(range(6), range(5)):
        z = (x.numpy() + 1 - h * i) / h
        expected = (-1 / h) ** order * eval_hermite(order, z) * np.exp(-(z**2))
        np.testing.assert_allclose(found[order, :, i], expected, atol=1e-12 / h**order)


@named(ALL)
def test_derivatives_against_nested_autograd(basis):
    x = points(basis).requires_grad_()
    top = int(min(4, basis.smoothness))
    found = basis.derivatives(x, top).detach()
    for i in range(basis.size):
        value = basis.derivatives(x, 0)[0, :, i]
        for order in range(top + 1):
            scale = float(found[order].abs().max())
            torch.testing.assert_close(
                value.detach(), found[order, :, i], rtol=0, atol=1e-11 * max(scale, 1.0)
            )
            if order < top:
                (slope,) = (
                    torch.autograd.grad(value.sum(), x, create_graph=True)
                    if value.requires_grad
                    else (torch.zeros_like(x),)
                )
                value = slope


@named(NESTED)
@pytest.mark.parametrize("twice", [False, True])
def test_nesting_is_exact(basis, twice):
    finer = basis.refine().refine() if twice else basis.refine()
    assert finer.n > basis.n
    x = points(basis)
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(basis.size, 3, dtype=torch.float64, generator=generator)
    old = basis.derivatives(x, 0)[0] @ weight
    new = finer.derivatives(x, 0)[0] @ (basis.prolongation(finer) @ weight)
    assert (new - old).abs().max() < 1e-12 * old.abs().max()
    # Spans are known up to rounding times the condition number of the functions.
    condition = float(torch.linalg.cond(gram(basis))) ** 0.5
    assert nesting_error(basis, finer) < 1e-12 + 1e-15 * condition


@pytest.mark.parametrize("n", [1, 2, 5, 8, 15])
def test_what_refining_radial_functions_loses(n):
    """The best approximation is no better than a search by SciPy, and never exact."""
    basis = Radial(n, (-1.0, 1.0))
    finer = basis.refine()
    lost = nesting_error(basis, finer)
    assert 1e-3 < lost < 0.5
    nodes, weights = np.polynomial.legendre.leggauss(400)
    x, root = torch.from_numpy(nodes), np.sqrt(weights)[:, None]
    old, new = (root * each.derivatives(x, 0)[0].numpy() for each in (basis, finer))
    best, *_ = np.linalg.lstsq(new, old, rcond=None)
    np.testing.assert_allclose(new @ basis.prolongation(finer).numpy(), new @ best, atol=1e-9)
    q, _ = np.linalg.qr(old)
    left = q - new @ np.linalg.lstsq(new, q, rcond=None)[0]
    assert lost == pytest.approx(np.linalg.norm(left, 2), rel=1e-6)


def test_least_squares_of_nested_bases_is_exact():
    coarse, fine = Legendre(5), Legendre(9)
    torch.testing.assert_close(
        least_squares(coarse, fine), coarse.prolongation(fine), rtol=0, atol=1e-12
    )


def test_integrals_of_legendre_polynomials():
    expected = torch.diag(torch.tensor([3.0 / (2 * k + 1) for k in range(10)], dtype=torch.float64))
    torch.testing.assert_close(gram(Legendre(9, (1.0, 4.0))), expected, rtol=0, atol=1e-12)


@named(ALL)
def test_every_basis_passes_its_own_check(basis):
    check_basis(basis)


@named(ALL)
def test_bases_keep_nan_and_dtype(basis):
    x = torch.tensor([math.nan, 0.5 * sum(basis.domain)])
    found = basis.derivatives(x, 1)
    assert found.dtype == torch.float32
    assert found[:, 0].isnan().all()
    assert found[:, 1].isfinite().all()


def test_bases_are_equal_by_what_they_describe():
    assert Chebyshev(3) == Chebyshev(3)
    assert Chebyshev(3) != Legendre(3)
    assert Fourier(2) != Fourier(2, period=2.0)
    assert len({Chebyshev(3), Chebyshev(3), Chebyshev(4)}) == 2
    assert Chebyshev(3) != "Chebyshev(degree=3, domain=[0.0, 1.0])"


class Powers(FunctionBasis):
    """A basis that a user might write, with options to make it wrong."""

    def __init__(self, size=3, wrong=""):
        self.size, self.domain, self.wrong = size, (-1.0, 1.0), wrong

    def derivatives(self, x, order):
        found = torch.stack(
            [
                torch.stack(
                    [math.perm(k, m) * x ** max(k - m, 0) for k in range(self.size)], dim=-1
                )
                for m in range(order + 1)
            ]
        )
        if self.wrong == "slope" and order:
            found[1, :, 2] *= 2
        return found[..., :-1] if self.wrong == "shape" else found

    def refine(self):
        return Powers(self.size + 2 * (self.wrong != "same"), self.wrong)

    def prolongation(self, finer):
        matrix = appended(self, finer)
        return matrix.flip(0) if self.wrong == "matrix" else matrix

    def describe(self):
        return {"size": {3} if self.wrong == "describe" else self.size}


def test_a_basis_of_ones_own_is_checked():
    check_basis(Powers())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("slope", "must hold the derivatives of derivatives"),
        ("shape", "must return"),
        ("same", "must raise n"),
        ("matrix", "must keep every function"),
    ],
)
def test_the_check_tells_what_is_wrong(wrong, message):
    with pytest.raises(ValueError, match=message):
        check_basis(Powers(wrong=wrong))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Chebyshev(0), ValueError, "degree must be at least 1, got 0"),
        (lambda: Chebyshev(2.0), TypeError, "degree must be an integer"),
        (lambda: Legendre(2, (1.0, 1.0)), ValueError, "domain must be a finite pair"),
        (lambda: Fourier(0), ValueError, "frequencies must be at least 1"),
        (lambda: Fourier(2, period=0.5), ValueError, "period must be a finite number of at least"),
        (lambda: HierarchicalSplines(4), TypeError, "coarsest must be a KnotGrid, got 4"),
        (
            lambda: SplineWavelets(KnotGrid.uniform(2, 2), -1),
            ValueError,
            "levels must be at least 0",
        ),
        (lambda: Radial(0), ValueError, "n must be at least 1"),
        (lambda: as_basis("basis", Chebyshev), TypeError, "basis must be a basis such as"),
        (lambda: as_basis("basis", "spline"), TypeError, "basis must be a basis such as"),
        (
            lambda: as_basis("basis", Powers(wrong="describe")),
            TypeError,
            "must return a dict of plain",
        ),
        (lambda: as_basis("basis", Powers(0)), ValueError, "size of Powers must be at least 1"),
        (
            lambda: Chebyshev(3).prolongation(Legendre(6)),
            ValueError,
            "finer must be a Chebyshev on",
        ),
        (lambda: Chebyshev(3).prolongation(Chebyshev(2)), ValueError, "at least 4 functions"),
        (
            lambda: Fourier(2).prolongation(Fourier(4, period=2.0)),
            ValueError,
            "finer must have the period 1.0, got 2.0",
        ),
        (
            lambda: SplineWavelets(KnotGrid.uniform(2, 4)).prolongation(
                SplineWavelets(KnotGrid(2, [0.0, 0.3, 1.0]), 2)
            ),
            ValueError,
            "finer must have the coarsest grid",
        ),
        (
            lambda: nesting_error(Chebyshev(2), Chebyshev(2, (0.0, 2.0))),
            ValueError,
            "must have one domain",
        ),
        (lambda: gram(Chebyshev(2), 5), ValueError, "derivative must be at most 4"),
    ],
)
def test_errors_are_one_sentence(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_continuation_gives_values_alone():
    found = continued(
        torch.tensor([2.0]), (0.0, 1.0), 0, lambda x, order: torch.stack([x, 0 * x + 1])[..., None]
    )
    assert found.tolist() == [[[2.0]]]
