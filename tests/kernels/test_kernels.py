"""The back ends of spline layers agree in all derivatives, and keep float32."""

import numpy as np
import pytest
import torch
from scipy.interpolate import BSpline
from torch.func import functional_call

from kanlib import KAN, KnotGrid, SplineLayer
from kanlib.kernels import operator
from kanlib.nn.jets import Jet, propagate
from kanlib.splines import bspline

UNEVEN = [0.0, 0.07, 0.2, 0.24, 0.5, 0.9, 1.0]
PAIRS = [(0, 0), (0, 1)]

pytestmark = pytest.mark.skipif(not operator.has_numba(), reason="needs numba: pip install .[fast]")


def layer(order=4, basis="spline", uniform=True, outputs=3, extension="linear", n=6, inputs=2):
    torch.manual_seed(0)
    points = [i / n for i in range(n + 1)] if uniform else UNEVEN
    options = {"basis": basis, "extension": extension, "init_scale": 1.0, "dtype": torch.float64}
    return SplineLayer(inputs, outputs, KnotGrid(order, points), **options)


def channels(count=150, inputs=2, low=-0.4, high=1.4):
    """Return value, two first and two second derivatives at points inside and outside [0, 1]."""
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(5, count, inputs, generator=generator, dtype=torch.float64)
    z[0] = low + (high - low) * torch.rand(count, inputs, generator=generator, dtype=z.dtype)
    if count > 4:
        z[0, :4, 0] = z.new_tensor([0.0, 1.0, 0.5, 1 / 6])
    return z


def by_backend(name, function):
    with operator.backend(name):
        return [v.detach() for v in function()]


def assert_backends_agree(function, rtol=1e-12):
    for expected, found in zip(*(by_backend(b, function) for b in ("torch", "numba")), strict=True):
        scale = max(float(expected.abs().max()), 1e-3)
        torch.testing.assert_close(found, expected, rtol=0, atol=rtol * scale)


def derivatives_of(spline_layer, z, second=False):
    """Return a function that computes outputs and gradients, perhaps those of gradients."""

    def compute():
        x = z.clone().requires_grad_()
        y = spline_layer.propagate(x, PAIRS)
        inputs = [x, spline_layer.weight]
        first = torch.autograd.grad(y.square().sum(), inputs, create_graph=second)
        if not second:
            return [y, *first]
        total = sum(g.square().sum() for g in first)
        return [y, *first, *torch.autograd.grad(total, inputs)]

    return compute


@pytest.mark.parametrize("basis", ["spline", "relu"])
@pytest.mark.parametrize("uniform", [True, False])
@pytest.mark.parametrize("order", [1, 2, 3, 4, 5, 6])
def test_back_ends_agree_in_every_order(order, uniform, basis):
    rtol = 1e-12 if basis == "spline" else 1e-10
    assert_backends_agree(derivatives_of(layer(order, basis, uniform), channels()), rtol)


@pytest.mark.parametrize("extension", ["linear", "clamp", "none"])
@pytest.mark.parametrize("outputs", [1, 5, 16, 37])
def test_back_ends_agree_for_few_and_many_outputs(outputs, extension):
    made = layer(outputs=outputs, extension=extension)
    assert_backends_agree(derivatives_of(made, channels()))
    assert_backends_agree(derivatives_of(made, channels(), second=True))


@pytest.mark.parametrize("n", [1, 2, 400])
def test_back_ends_agree_on_coarse_and_fine_grids(n):
    # Second derivatives of an interval far outside are as large as n squared.
    assert_backends_agree(derivatives_of(layer(n=n, outputs=20), channels(700)), 1e-10)


def test_back_ends_agree_where_only_one_gradient_is_wanted():
    made, z = layer(outputs=20), channels()
    frozen = layer(outputs=20)
    frozen.weight.requires_grad_(False)

    def for_inputs():
        x = z.clone().requires_grad_()
        return torch.autograd.grad(frozen.propagate(x, PAIRS).sum(), [x])

    assert_backends_agree(for_inputs)
    assert_backends_agree(
        lambda: torch.autograd.grad(made.propagate(z, PAIRS).sum(), [made.weight])
    )


def test_empty_batches_and_nan_are_kept():
    made = layer()
    with operator.backend("numba"):
        assert made(torch.empty(0, 2, dtype=torch.float64)).shape == (0, 3)
        x = torch.tensor([[float("nan"), 0.5], [0.5, 0.5]], dtype=torch.float64)
        assert made(x)[0].isnan().all()
        assert made(x)[1].isfinite().all()


@pytest.mark.parametrize("basis", ["spline", "relu"])
@pytest.mark.parametrize("outputs", [1, 17])
def test_gradients_and_their_gradients_are_those_of_finite_differences(basis, outputs):
    made = layer(basis=basis, outputs=outputs, n=3)
    z = channels(3, low=0.05, high=0.3).requires_grad_()

    def function(z, weight):
        return functional_call(made, {"weight": weight}, (z[0],)) + functional_call(
            _Propagated(made), {"layer.weight": weight}, (z,)
        ).sum(0)

    with operator.backend("numba"):
        assert torch.autograd.gradcheck(function, (z, made.weight), atol=1e-4, rtol=1e-4)
        assert torch.autograd.gradgradcheck(function, (z, made.weight), atol=1e-3, rtol=1e-3)


class _Propagated(torch.nn.Module):
    def __init__(self, spline_layer):
        super().__init__()
        self.layer = spline_layer

    def forward(self, z):
        return self.layer.propagate(z, PAIRS)


@pytest.mark.parametrize("name", ["torch", "numba"])
def test_basis_has_single_precision_on_fine_grids(name):
    grid = KnotGrid.uniform(4, 200)
    made = SplineLayer(1, grid.num_basis, grid)
    with torch.no_grad():
        made.weight.copy_(torch.eye(grid.num_basis)[:, None])
    x = torch.rand(3000, 1, generator=torch.Generator().manual_seed(0))
    exact = BSpline.design_matrix(x[:, 0].double().numpy(), grid.knots.numpy(), 3).toarray()
    with operator.backend(name), torch.no_grad():
        assert np.abs(made(x).numpy() - exact).max() < 2e-6


def saved_bytes(evaluate):
    """Return the memory that an evaluation keeps for its gradient."""
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        evaluate()
    return sum(kept.values())


@pytest.mark.parametrize(("inputs", "outputs"), [(1, 1), (7, 300), (40, 40), (3, 100)])
@pytest.mark.parametrize("n", [7, 49, 400])
@pytest.mark.parametrize("uniform", [True, False])
def test_reference_keeps_no_more_than_a_dense_evaluation(inputs, outputs, n, uniform):
    grid = KnotGrid(4, [(i / n) ** (1 if uniform else 2) for i in range(n + 1)])
    made = SplineLayer(inputs, outputs, grid, dtype=torch.float64)
    x = torch.rand(200, inputs, dtype=torch.float64)
    dense = [bspline.dense_basis(x[:, p : p + 1], grid) for p in range(inputs)]
    y = torch.einsum("npi,qpi->nq", torch.cat(dense, 1), made.weight)
    with operator.backend("torch"):
        kept = saved_bytes(lambda: made(x))
        torch.testing.assert_close(made(x), y)
    # Beside one row of all functions for each point and input, or r weights for each output:
    few = 4 * made.weight.nbytes + 16 * 8 * x.nbytes
    assert kept <= x.nbytes * min(grid.num_basis, 4 * outputs) + few


@pytest.mark.slow
@pytest.mark.parametrize("name", ["torch", "numba"])
def test_compiled_network_has_no_graph_break_over_six_refinements(name):
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    model = KAN([2, 5, 1], n=4)
    x = torch.rand(64, 2)
    strict = torch._dynamo.config.patch(fail_on_recompile_limit_hit=True)
    with operator.backend(name), strict:
        for level in range(7):
            model = model.refine() if level else model
            for _ in range(2):  # the second call compiles nothing
                compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
                model.zero_grad()
                compiled(x).square().mean().backward()
            assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == level + 1
            gradients = [p.grad.clone() for p in model.parameters()]
            model.zero_grad()
            model(x).square().mean().backward()
            for own, mine in zip(gradients, model.parameters(), strict=True):
                torch.testing.assert_close(own, mine.grad, rtol=1e-4, atol=1e-6)
    assert model.n == 256


def test_backend_is_restored_and_names_the_mistake(monkeypatch):
    with pytest.raises(ZeroDivisionError), operator.backend("torch"):
        1 / 0  # noqa: B018
    assert operator._choice.name == "auto"
    with (
        pytest.raises(ValueError, match=r"name must be one of .*got 'fast'"),
        operator.backend("fast"),
    ):
        pass


def test_forward_mode_and_hessians_go_through_the_reference():
    model, x = layer(outputs=1), torch.tensor([0.3, 0.6], dtype=torch.float64)

    def f(x):
        return model(x[None]).sum()

    hessian = torch.func.hessian(f)(x)
    jet = propagate(model, Jet.at(x[None], pairs=[(0, 0), (1, 1)]))
    torch.testing.assert_close(hessian.diagonal(), torch.cat([jet.d(0, 0), jet.d(1, 1)])[:, 0])
