"""Penalties: integrals by SciPy, rows by autograd, solutions by dense linear algebra."""

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.interpolate import BSpline

from kanlib import (
    KAN,
    Ensemble,
    GaussNewton,
    MeanSquaredError,
    ResidualLoss,
    Term,
    train,
    train_multilevel,
)
from kanlib.objectives.penalties import Entropy, Norms, Penalised, SquaredNorms
from kanlib.training.jacobian import jacobian

pytestmark = pytest.mark.usefixtures("float64")
BREAKPOINTS = [-1.0, -0.7, 0.2, 0.3, 2.0]


def network(basis="spline", widths=(2, 3, 1), **options):
    torch.manual_seed(1)
    model = KAN([*widths], breakpoints=BREAKPOINTS, init_scale=0.5, **options)
    return model.to_basis(basis)


def norms(model, derivative):
    """Return the squared norm of each edge, by SciPy."""
    found = []
    for layer in model.to_basis("spline").spline_layers:
        for grid, weight in zip(layer.grids, layer.weight.detach().unbind(1), strict=True):
            (a, b), t = grid.domain, grid.breakpoints.numpy()
            for u in weight.numpy():
                s = BSpline(grid.knots.numpy(), u, 3)
                s = s.derivative(derivative) if derivative else s
                whole = sum(
                    quad(lambda x, s=s: s(x) ** 2, t[i], t[i + 1])[0] for i in range(grid.n)
                )
                found.append((b - a) ** (2 * derivative - 1) * whole)
    return np.array(found)


@pytest.mark.parametrize("basis", ["spline", "relu"])
@pytest.mark.parametrize("derivative", [0, 1, 2])
def test_norms_are_integrals(basis, derivative):
    model = network(basis)
    expected = norms(model, derivative)
    found = SquaredNorms(0.3, derivative)(model).item()
    assert found == pytest.approx(0.3 * expected.sum(), rel=1e-9)
    found = Norms(0.3, derivative)(model).item()
    assert found == pytest.approx(0.3 * np.sqrt(expected).sum(), rel=1e-9)


def test_straight_lines_are_smooth_and_units_do_not_matter():
    layers = [*network().spline_layers]
    wide = KAN([1, 1], n=5, domain=(0, 100))
    narrow = KAN([1, 1], n=5, domain=(0, 1))
    with torch.no_grad():
        narrow.layers[0].weight.copy_(wide.layers[0].weight)
    one, two = (SquaredNorms(1.0)(each).item() for each in (wide, narrow))
    assert one == pytest.approx(two, rel=1e-9)
    with torch.no_grad():
        for layer in layers:
            layer.weight.copy_(layer.grid.knots[1:-1].unfold(0, 3, 1).mean(-1))
            assert SquaredNorms(1.0)(KAN([2, 1], n=4)).item() > 0
    line = KAN([1, 1], breakpoints=BREAKPOINTS)
    with torch.no_grad():
        line.layers[0].weight.copy_(layers[0].weight[:1, :1])
    assert SquaredNorms(1.0)(line).item() < 1e-20


def test_refinement_keeps_a_penalty():
    model = network()
    for penalty in (SquaredNorms(1.0), Norms(1.0), Entropy(1.0)):
        tolerance = 1e-2 if isinstance(penalty, Entropy) else 1e-10  # |s| is no polynomial
        assert penalty(model.refine()).item() == pytest.approx(penalty(model).item(), rel=tolerance)


def test_entropy_is_that_of_the_edges():
    model = network("relu", first="affine")
    layer = next(model.to_basis("spline").spline_layers)
    t = layer.grid.breakpoints.numpy()
    sizes = []
    for p in range(layer.in_features):
        s = BSpline(layer.grid.knots.numpy(), layer.weight[0, p].detach().numpy(), 3)
        nodes, weights = np.polynomial.legendre.leggauss(4)
        half = np.diff(t)[:, None] / 2
        x = t[:-1, None] + half * (1 + nodes)
        sizes.append((half * weights * np.abs(s(x))).sum() / (t[-1] - t[0]))
    share = np.array(sizes) / sum(sizes)
    expected = sum(sizes) - 0.7 * (share * np.log(share)).sum()
    assert Entropy(2.0, 0.7)(model).item() == pytest.approx(2 * expected, rel=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_entropy_has_finite_slopes_at_pruned_and_zero_edges(dtype):
    mask = torch.tensor([[True, False], [True, True], [False, True]])
    model = network(dtype=dtype).mapped(lambda s: s.masked(mask) if s.out_features == 3 else s)
    with torch.no_grad():
        model.layers[1].weight[0, 1] = 0.0
    slopes = torch.autograd.grad(Entropy(0.1)(model), [*model.parameters()])
    assert all(torch.isfinite(slope).all() for slope in slopes)
    assert all(torch.count_nonzero(slope) > 0 for slope in slopes)
    with torch.no_grad():
        for layer in model.layers:
            layer.weight.zero_()
    slopes = torch.autograd.grad(Entropy(0.1)(model), [*model.parameters()])
    assert all(torch.isfinite(slope).all() for slope in slopes)


@pytest.mark.parametrize("basis", ["spline", "relu"])
@pytest.mark.parametrize("masked", [False, True])
def test_rows_are_those_of_autograd(basis, masked):
    model, x = network(basis), torch.rand(30, 2)
    if masked:
        mask = torch.tensor([[True, False], [True, True], [False, True]])
        model = model.mapped(lambda k: k.masked(mask) if k.in_features == 2 else k)
    loss = Penalised(
        MeanSquaredError(x, x[:, :1]), rough=SquaredNorms(0.1), size=SquaredNorms(0.2, 0)
    )
    J = jacobian(model, loss)  # compares J^T r with the gradient of the loss
    assert (J.residual @ J.residual).item() == pytest.approx(loss(model).item(), rel=1e-12)
    values = {name: p.detach() for name, p in model.named_parameters()}

    def rows(values, row):
        def call(module):
            return row(module).flatten()

        return torch.func.functional_call(_Called(model, call), values, ())

    expected = []
    for row in loss.residuals():
        parts = torch.func.jacrev(
            lambda v, row=row: rows({f"model.{k}": t for k, t in v.items()}, row)
        )(values)
        expected.append(torch.cat([parts[name].flatten(1) for name in values], dim=1))
    torch.testing.assert_close(J.dense(), torch.cat(expected), rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(J.gram(), J.dense().T @ J.dense(), rtol=1e-9, atol=1e-9)


class _Called(torch.nn.Module):
    def __init__(self, model, function):
        super().__init__()
        self.model, self.function = model, function

    def forward(self):
        return self.function(self.model)


@pytest.mark.parametrize("solver", ["cholesky", "qr", "cg"])
def test_gauss_newton_finds_the_smoothing_spline(solver):
    torch.manual_seed(2)
    x = torch.rand(60, 1)
    y = torch.sin(6 * x) + 0.2 * torch.randn_like(x)
    model, weight = KAN([1, 1], n=25), 1e-3
    loss = Penalised(MeanSquaredError(x, y), rough=SquaredNorms(weight))
    run = train(model, loss, 60, optimizer=GaussNewton(solver=solver), progress=False)
    t = model.layers[0].grid.knots.numpy()
    B = BSpline.design_matrix(x[:, 0].numpy(), t, 3).toarray() / np.sqrt(60)
    points, weights = np.polynomial.legendre.leggauss(3)
    x_g = (np.arange(25)[:, None] + (1 + points) / 2).ravel() / 25
    second = BSpline(t, np.eye(len(t) - 4), 3).derivative(2)(x_g)
    P = second.T @ (np.tile(weights / 50, 25)[:, None] * second)
    u = np.linalg.solve(B.T @ B + weight * P, B.T @ y[:, 0].numpy() / np.sqrt(60))
    found = run.model.layers[0].weight[0, 0].detach().numpy()
    np.testing.assert_allclose(found, u, atol=2e-4)
    assert run.history.terms["rough"][-1] == pytest.approx(weight * u @ P @ u, rel=1e-3)


def test_group_norms_make_an_edge_vanish():
    """Soft thresholding: an edge whose correlation with the data is small goes to zero."""
    torch.manual_seed(3)
    x = torch.rand(200, 2)
    data = MeanSquaredError(x, torch.sin(4 * x[:, :1]))
    sizes = []
    for penalised in (False, True):
        torch.manual_seed(0)
        model = KAN([2, 1], n=3)
        loss = Penalised(data, sparse=Norms(0.05)) if penalised else data
        run = train(
            model,
            loss,
            1000,
            optimizer=lambda p: torch.optim.Adam(p, lr=0.01),
            progress=False,
        )
        found = torch.stack([*SquaredNorms(1.0, 0).squares(run.model)]).sqrt().flatten()
        sizes.append((found[1] / found[0]).item())
    assert sizes[1] < 0.05 < sizes[0]


def test_penalties_without_squares_are_for_first_order():
    x = torch.rand(20, 1)
    loss = Penalised(MeanSquaredError(x, x), sparse=Norms(0.1))
    with pytest.raises(TypeError, match="penalty 'sparse' is no sum of squares, which Gauss"):
        train(KAN([1, 1], n=3), loss, 1, optimizer=GaussNewton(), progress=False)
    assert torch.isfinite(loss(KAN([1, 1], n=3, init_scale=0.0)))


def test_residual_loss_with_penalties_trains_over_levels(tmp_path):
    x = torch.rand(40, 1)
    loss = Penalised(
        ResidualLoss(fit=Term(lambda u, x: u.value - torch.sin(5 * x), x)),
        rough=SquaredNorms(1e-6),
    )
    run = train_multilevel(
        KAN([1, 2, 1], n=3), loss, [5, 5], optimizer=GaussNewton(), progress=False
    )
    assert {*run.history.terms} == {"fit", "rough"}
    total = sum(values[-1] for values in run.history.terms.values())
    assert total == pytest.approx(run.loss, rel=1e-9)


def test_penalties_refuse_what_has_no_edges():
    with pytest.raises(ValueError, match="must have spline layers"):
        Norms(1.0)(torch.nn.Linear(1, 1))
    with pytest.raises(ValueError, match="got an Ensemble"):
        Norms(1.0)(Ensemble([KAN([1, 1], n=3)]))
    with pytest.raises(ValueError, match="derivative must be less than the order r = 2"):
        SquaredNorms(1.0)(KAN([1, 1], n=3, r=2))
    x = torch.rand(5, 1)
    fit = ResidualLoss(fit=Term(lambda u, x: u.value, x))
    with pytest.raises(ValueError, match="'fit' has the name of a term"):
        Penalised(fit, fit=Norms(1.0))
