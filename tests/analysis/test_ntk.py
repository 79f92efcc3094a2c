"""Tangent kernels against explicit Jacobians, and the bounds of appendix C."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from scipy.interpolate import BSpline

from kanlib import KAN, MLP, KnotGrid
from kanlib.analysis.ntk import jacobian, spectral_radius, spectrum, tangent_kernel
from kanlib.splines.change_of_basis import ChangeOfBasis

pytestmark = pytest.mark.usefixtures("float64")

ORDERS = [1, 2, 3, 4]
BASES = ("spline", "relu")


def network(basis="spline", r=4, n=5, **options):
    torch.manual_seed(7)
    return KAN([2, 3, 2], n=n, r=r, init_scale=0.4, **options).to_basis(basis)


def points(count=6, inputs=2):
    return torch.rand(count, inputs, generator=torch.Generator().manual_seed(3))


def rescaled(rows, grid):
    """Return the Jacobian of the basis ReLU((x - t) / h)**(r-1) from that of ReLU(x - t)**(r-1)."""
    return rows * grid.h ** (1 - grid.order)


@pytest.mark.parametrize("basis", ["spline", "relu"])
@pytest.mark.parametrize("first", ["spline", "affine", "linear"])
def test_jacobian_rows_are_gradients_of_single_outputs(basis, first):
    model, x = network(basis, first=first), points()
    outputs = model(x).flatten()
    gradients = [torch.autograd.grad(y, [*model.parameters()], retain_graph=True) for y in outputs]
    expected = torch.stack([torch.cat([g.flatten() for g in row]) for row in gradients])
    torch.testing.assert_close(jacobian(model, x), expected)


@pytest.mark.parametrize("basis", ["spline", "relu"])
def test_jacobian_agrees_with_finite_differences(basis):
    model, x, step = network(basis, r=3), points(), 1e-6
    flat = torch.nn.utils.parameters_to_vector(model.parameters()).detach()
    columns = []
    for direction in torch.eye(flat.numel()):
        values = []
        for sign in (1, -1):
            vector = flat + sign * step * direction
            torch.nn.utils.vector_to_parameters(vector, model.parameters())
            values.append(model(x).flatten().detach())
        columns.append((values[0] - values[1]) / (2 * step))
    torch.nn.utils.vector_to_parameters(flat, model.parameters())
    torch.testing.assert_close(
        jacobian(model, x), torch.stack(columns, dim=1), rtol=1e-7, atol=1e-8
    )


def test_jacobian_of_spline_weights_leaves_out_the_linear_map():
    model, x = network(first="affine"), points()
    linear = model.layers[0].weight.numel() + model.layers[0].bias.numel()
    torch.testing.assert_close(jacobian(model, x, "spline"), jacobian(model, x)[:, linear:])


def test_jacobian_leaves_out_frozen_weights():
    model, x = network(), points()
    everything = jacobian(model, x)
    model.layers[0].weight.requires_grad_(False)
    size = model.layers[0].weight.numel()
    torch.testing.assert_close(jacobian(model, x), everything[:, size:])


def test_jacobian_leaves_the_model_untouched():
    model, x = network(), points()
    before = [p.clone() for p in model.parameters()]
    jacobian(model, x)
    for old, new in zip(before, model.parameters(), strict=True):
        assert torch.equal(old, new)
        assert new.grad is None


@pytest.mark.parametrize(
    ("model", "weights", "message"),
    [(MLP([1, 2, 1]), "spline", "no trainable weight"), (MLP([1, 2, 1]), "relu", "relu")],
)
def test_jacobian_names_what_is_missing(model, weights, message):
    with pytest.raises(ValueError, match=message):
        jacobian(model.double(), points(inputs=1), weights)


@pytest.mark.parametrize("r", ORDERS)
def test_kernel_of_one_layer_is_a_sum_of_spline_grams(r):
    n, x = 5, points(20)
    t = np.arange(1 - r, n + r) / n
    dense = [BSpline(t, np.eye(n + r - 1), r - 1)(x[:, p].numpy()) for p in range(2)]
    expected = torch.from_numpy(sum(b @ b.T for b in dense))
    torch.testing.assert_close(tangent_kernel(KAN([2, 1], n=n, r=r), x), expected)


@pytest.mark.parametrize("r", ORDERS)
def test_jacobians_of_the_two_bases_differ_by_the_change_of_basis(r):
    model, x = network("relu", r=r), points()
    change = ChangeOfBasis(KnotGrid.uniform(r, 5)).dense()
    blocks = torch.block_diag(*[change] * 12)  # 2 * 3 + 3 * 2 edges
    rows = jacobian(model, x)
    torch.testing.assert_close(jacobian(model.to_basis("spline"), x), rows @ blocks.T)


def test_spectrum_holds_the_eigenvalues_of_the_kernel():
    rows = jacobian(network(), points())
    expected = torch.linalg.eigvalsh(rows @ rows.T).flip(0)
    torch.testing.assert_close(spectrum(rows), expected)
    assert spectral_radius(rows) == pytest.approx(expected[0].item())


@pytest.mark.parametrize(("r", "beyond"), [(1, False), (2, True), (3, True), (4, True), (5, False)])
def test_alternating_row_breaks_the_constant_four(r, beyond):
    size = 20
    z = [Fraction((-1) ** j) for j in range(size)]
    scale = Fraction(1, math.factorial(r - 1))
    image = [
        scale * sum((-1) ** s * math.comb(r, s) * z[i + s] for s in range(min(r + 1, size - i)))
        for i in range(size)
    ]
    quotient = sum(v * v for v in image) / sum(v * v for v in z)
    assert (quotient > 4) == beyond
    assert quotient <= (2**r * scale) ** 2


@pytest.mark.parametrize("r", ORDERS)
@pytest.mark.parametrize("points_of", ["middle", "left", "everywhere"])
def test_kernel_of_a_layer_inside_the_domain_keeps_the_sharper_bound(r, points_of):
    """rho_spline <= rho_relu / |psi(a)|**2 for activations in [a, b], on any knots."""
    torch.manual_seed(0)
    breakpoints = [0.0, 0.1, 0.4, 0.7, 1.0]
    x = {"middle": 0.4, "left": 0.0, "everywhere": torch.rand(9, 2)}[points_of] * torch.ones(9, 2)
    model = KAN([2, 3, 1], r=r, breakpoints=breakpoints, extension="clamp", init_scale=3.0)
    at_left = (-KnotGrid(r, breakpoints).knots[: max(r - 1, 1)]) ** (r - 1)
    first = model.layers[0].weight.numel()
    kernels = [jacobian(model.to_basis(basis), x) for basis in ("spline", "relu")]
    for columns in (slice(first), slice(first, None)):
        spline, relu = (spectral_radius(rows[:, columns]) for rows in kernels)
        assert spline <= relu / at_left.square().sum() * (1 + 1e-12)


def test_kernel_left_of_the_domain_breaks_the_constant_four():
    model = KAN([1, 1], n=6, r=2)
    x = torch.tensor([[-model.layers[0].grid.h / math.sqrt(2)]])
    spline, relu = (jacobian(model.to_basis(basis), x) for basis in ("spline", "relu"))
    relu = rescaled(relu, model.layers[0].grid)
    quotient = spectral_radius(spline) / spectral_radius(relu)
    assert quotient == pytest.approx((1 + math.sqrt(2)) ** 2)


def test_residual_at_the_left_end_breaks_the_constant_four():
    """For r = 3, a second-order operator at x = a whose row is a top singular vector of A."""
    grid = KnotGrid.uniform(3, 6, (0.0, 6.0))  # h = 1: the basis is the rescaled one
    t = grid.knots[: grid.num_basis]
    powers = torch.stack([torch.relu(-t) ** 2, 2 * torch.relu(-t), 2.0 * (t <= 0)])
    t_spline = np.arange(-2, 9.0)
    dense = BSpline(t_spline, np.eye(grid.num_basis), 2)
    splines = torch.from_numpy(np.stack([dense(0.0, nu=k) for k in range(3)]))
    block = ChangeOfBasis(grid).dense()[:3, :3]
    z = torch.linalg.svd(block).Vh[0]
    operator = torch.linalg.solve(powers[:, :3].T, z)  # coefficients of u, u', u''
    quotient = (operator @ splines).square().sum() / (operator @ powers).square().sum()
    assert quotient == pytest.approx(6.9907, abs=1e-4)


@pytest.mark.parametrize("r", ORDERS)
def test_relu_kernel_scales_with_the_unit_of_length(r):
    x, length = points(20, 1), 0.1
    radius = {
        (basis, c): spectral_radius(jacobian(KAN([1, 1], 5, r, (0.0, c), basis), c * x))
        for basis in ("spline", "relu")
        for c in (1.0, length)
    }
    assert radius["spline", length] == pytest.approx(radius["spline", 1.0])
    assert radius["relu", length] == pytest.approx(radius["relu", 1.0] * length ** (2 * r - 2))


@pytest.mark.parametrize(("r", "beta"), [(1, math.pi / 2), (2, 1.8751040687)])
def test_quotient_of_radii_follows_the_law_of_string_and_beam(r, beta):
    n = 300
    x = ((torch.arange(4 * n) + 0.5) / (4 * n))[:, None]
    spline, relu = (spectral_radius(jacobian(KAN([1, 1], n, r, basis=b), x)) for b in BASES)
    assert spline / relu * n**2 == pytest.approx(beta ** (2 * r), rel=0.03)


def test_steps_of_splines_shrink_where_activations_leave_the_domain():
    """At a distance d beyond a, continued spline rows grow like d / h."""
    inside, outside = (torch.tensor([[v]]) for v in (0.5, -0.5))
    radius = {
        (n, where): spectral_radius(jacobian(KAN([1, 1], n, 3), x))
        for n in (20, 40)
        for where, x in (("inside", inside), ("outside", outside))
    }
    assert radius[40, "inside"] == pytest.approx(radius[20, "inside"])
    assert radius[40, "outside"] / radius[20, "outside"] == pytest.approx(4, rel=0.01)


@pytest.mark.parametrize("basis", ["spline", "relu"])
@pytest.mark.parametrize(("factor", "stable"), [(0.95, True), (1.05, False)])
def test_gradient_descent_is_stable_below_two_over_rho(basis, factor, stable):
    model, x = network(basis), points(30)
    target = model(x).detach()
    step = factor * 2 / spectral_radius(jacobian(model, x))
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1 + 1e-6)
    optimizer = torch.optim.SGD(model.parameters(), lr=step)
    losses = []
    for _ in range(80):
        optimizer.zero_grad()
        loss = 0.5 * (model(x) - target).square().sum()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert (losses[-1] < losses[0]) == stable


@pytest.mark.parametrize("r", ORDERS)
@pytest.mark.parametrize("extension", ["linear", "clamp", "none"])
def test_to_basis_keeps_the_function(r, extension):
    model = network(r=r, extension=extension)
    x = 3 * points(50) - 1
    relu = model.to_basis("relu")
    assert [layer.basis for layer in relu.layers] == ["relu", "relu"]
    torch.testing.assert_close(relu(x), model(x))
    torch.testing.assert_close(relu.to_basis("spline").layers[0].weight, model.layers[0].weight)


def test_to_basis_copies_and_leaves_the_model_untouched():
    model = network(first="affine").eval()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    relu = model.to_basis("relu")
    with torch.no_grad():
        for p in relu.parameters():
            p.zero_()
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    assert not relu.training
    with pytest.raises(ValueError, match="wavelet"):
        model.to_basis("wavelet")
