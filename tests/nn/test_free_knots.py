"""Free knots: ordered by construction, true gradients, exact refinement."""

import copy
import math
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.interpolate import BSpline

from kanlib import (
    KAN,
    KnotGrid,
    MeanSquaredError,
    SplineLayer,
    train,
    train_multilevel,
)
from kanlib._checks import EXTENSIONS
from kanlib.kernels.operator import backend
from kanlib.nn.free_knots import FreeKnots
from kanlib.nn.spline_layer import convert_weights
from kanlib.training.iterations import Iteration

pytestmark = pytest.mark.usefixtures("float64")

every_basis = pytest.mark.parametrize("basis", ["spline", "relu"])
every_sharing = pytest.mark.parametrize("per", ["layer", "input"])
POINTS = [-1.0, -0.7, 0.1, 0.3, 1.0]


def free_layer(basis="spline", per="input", r=4, extension="linear", outputs=3, seed=0):
    """Return a layer of two inputs whose grids differ, if each has its own."""
    torch.manual_seed(seed)
    grid = KnotGrid(r, POINTS)
    layer = SplineLayer(2, outputs, grid, init_scale=1.0, extension=extension).to_basis(basis)
    free = layer.free(per, floor=0.05)
    with torch.no_grad():
        free.knots.logits += 0.5 * torch.randn_like(free.knots.logits)
    return free


def inputs(count=40, seed=1):
    """Return points inside and outside the domain."""
    return 2.6 * torch.rand(count, 2, generator=torch.Generator().manual_seed(seed)) - 1.3


# Knots


@given(
    st.lists(st.floats(-1e30, 1e30), min_size=1, max_size=12),
    st.floats(1e-3, 0.999),
    st.floats(-100, 100),
    st.floats(1e-2, 1e3),
)
def test_knots_keep_order_floor_and_ends_for_any_logits(logits, floor, a, width):
    knots = FreeKnots([KnotGrid.uniform(3, len(logits), (a, a + width))], floor)
    with torch.no_grad():
        knots.logits.copy_(torch.tensor([logits], dtype=torch.float64))
    t = knots().detach()[0]
    assert (t[0], t[-1]) == knots.domain
    rounding = 1e-14 * (abs(a) + width)
    assert float(t.diff().min()) >= floor * width / len(logits) - rounding
    assert float(t.diff().min()) > 0.0


@pytest.mark.parametrize("points", [[0.0, 0.2, 1.0], [-1.0, -0.9, 0.5, 3.0]])
def test_knots_start_where_the_grid_is(points):
    grid = KnotGrid(4, points)
    knots = FreeKnots([grid], 0.05)
    torch.testing.assert_close(knots()[0].detach(), grid.breakpoints, rtol=1e-14, atol=1e-14)


def test_knots_reach_any_admissible_place():
    """A gradient descent on the places themselves finds them: no spacing is out of reach."""
    goal = torch.tensor([[0.0, 0.06, 0.9, 1.0]])
    knots = FreeKnots([KnotGrid.uniform(4, 3)], 0.1)
    optimizer = torch.optim.LBFGS(
        knots.parameters(), max_iter=200, line_search_fn="strong_wolfe", tolerance_change=1e-14
    )

    def closure():
        optimizer.zero_grad()
        loss = (knots() - goal).square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    torch.testing.assert_close(knots().detach(), goal, rtol=0, atol=1e-5)


@pytest.mark.parametrize("floor", [0.0, 1.0, -0.1, 2.0, math.nan])
def test_knots_refuse_a_floor_out_of_range(floor):
    with pytest.raises(ValueError, match=r"floor must be .* got"):
        FreeKnots([KnotGrid.uniform(4, 3)], floor)


def test_knots_refuse_a_grid_at_the_floor():
    with pytest.raises(ValueError, match=r"0\.2 times the mean: choose a smaller floor"):
        FreeKnots([KnotGrid(4, [0.0, 0.1, 1.0])], 0.2)


# Values


@every_basis
@every_sharing
@pytest.mark.parametrize("r", [2, 3, 4, 5])
def test_layer_has_the_values_of_scipys_splines(basis, per, r):
    layer = free_layer(basis, per, r)
    x = inputs().clamp(-1, 1)
    expected = np.zeros((len(x), 3))
    weight = layer.to_basis("spline").weight.detach().numpy()
    for p, grid in enumerate(layer.grids):
        for q in range(3):
            spline = BSpline(grid.knots.numpy(), weight[q, p], r - 1)
            expected[:, q] += spline(x[:, p].numpy())
    np.testing.assert_allclose(layer(x).detach().numpy(), expected, rtol=1e-9, atol=1e-9)
    if per == "input":
        assert layer.grids[0] != layer.grids[1]


@every_basis
@every_sharing
@pytest.mark.parametrize("free", [True, False])
@pytest.mark.parametrize("extension", EXTENSIONS)
def test_fused_and_plain_evaluation_agree(basis, per, free, extension):
    """Values, propagated derivatives, and the gradients in points, weights and knots."""
    layer = free_layer(basis, per, extension=extension)
    layer.knots.requires_grad_(free)
    channels = torch.stack([inputs(200), *torch.randn(5, 200, 2)]).requires_grad_()
    direction, results = torch.randn(6, 200, 3), []
    for name in ("torch", "auto"):
        with backend(name):
            y = layer.propagate(channels, [(0, 0), (0, 1), (1, 1)])
        leaves = [channels, layer.weight, *([layer.knots.logits] if free else [])]
        results.append([y.detach(), *torch.autograd.grad(y, leaves, direction)])
    for plain, fused in zip(*results, strict=True):
        torch.testing.assert_close(fused, plain, rtol=0, atol=1e-12 * float(plain.abs().max()))


@every_basis
@every_sharing
def test_gradients_can_be_differentiated(basis, per):
    layer, x = free_layer(basis, per), inputs(6)

    def values(weight, logits):
        given = {"weight": weight, "knots.logits": logits}
        return torch.func.functional_call(layer, given, (x,))

    parameters = [layer.weight, layer.knots.logits]
    assert torch.autograd.gradgradcheck(values, parameters, atol=1e-5, rtol=1e-4)


@every_basis
@every_sharing
def test_transformations_see_the_motion_of_the_knots(basis, per):
    """Forward mode, and vmap under autograd and under grad, against central differences."""
    layer, x = free_layer(basis, per), inputs(20)
    weight, logits = layer.weight.detach(), layer.knots.logits.detach()
    direction = torch.randn(logits.shape, generator=torch.Generator().manual_seed(5))

    def value(logits):
        given = {"weight": weight, "knots.logits": logits}
        return torch.func.functional_call(layer, given, (x,)).square().sum()

    step = 1e-6
    shift = step * direction
    expected = float(value(logits + shift) - value(logits - shift)) / (2 * step)
    forward = torch.func.jvp(value, (logits,), (direction,))[1]
    within = torch.func.grad(lambda each: torch.func.vmap(value)(each).sum())(logits[None])
    several = logits[None].clone().requires_grad_()
    (backward,) = torch.autograd.grad(torch.func.vmap(value)(several).sum(), several)
    for found in (forward, (within[0] * direction).sum(), (backward[0] * direction).sum()):
        assert float(found) == pytest.approx(expected, rel=1e-6)


@every_basis
@pytest.mark.parametrize("free", [True, False])
def test_compiled_network_has_the_same_values_and_gradients(basis, free):
    torch._dynamo.reset()
    layer, x = free_layer(basis), inputs(30)
    layer.knots.requires_grad_(free)
    leaves = [layer.weight, *([layer.knots.logits] if free else [])]
    results = []
    for function in (layer, torch.compile(layer, backend="aot_eager", fullgraph=True)):
        y = function(x)
        results.append([y.detach(), *torch.autograd.grad(y.square().sum(), leaves)])
    for compiled, plain in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(compiled, plain, rtol=1e-10, atol=1e-10)
    torch._dynamo.reset()


def test_network_keeps_its_function_when_its_knots_are_freed():
    torch.manual_seed(0)
    model, x = KAN([2, 3, 1], n=5, first="affine"), torch.rand(50, 2)
    for per, count in (("layer", 5), ("input", 15)):
        free = model.free(per)
        torch.testing.assert_close(free(x), model(x))
        assert free.num_parameters == model.num_parameters + count
        assert free.n == 5


# Gradients


@every_basis
@every_sharing
@pytest.mark.parametrize("r", [2, 3, 4])
@pytest.mark.parametrize("extension", ["linear", "clamp", "none"])
def test_gradients_agree_with_finite_differences(basis, per, r, extension):
    layer, x = free_layer(basis, per, r, extension), inputs(12)

    def values(weight, logits):
        given = {"weight": weight, "knots.logits": logits}
        return torch.func.functional_call(layer, given, (x,))

    parameters = [layer.weight, layer.knots.logits]
    assert torch.autograd.gradcheck(values, parameters, eps=1e-6, atol=1e-6, rtol=1e-5)


@every_basis
def test_gradient_in_a_knot_is_that_of_scipys_spline(basis):
    """Central differences of SciPy's splines in the place of the second knot."""
    layer = free_layer(basis, "layer", outputs=1)
    with torch.no_grad():
        layer.weight[:, 1] = 0.0
    x = inputs(30).clamp(-1, 1)
    points = layer.knots().detach().requires_grad_()

    class Places(torch.nn.Module):
        def forward(self):
            return points

    layer.knots = Places()
    slope = torch.autograd.grad(layer(x).sum(), points)[0][0, 1]

    def scipys(shift):
        t = points.detach()[0].clone()
        t[1] += shift
        grid = KnotGrid(4, t)
        weight = layer.weight[0, 0].detach()
        if basis == "relu":
            weight = convert_weights(weight, grid, "relu", "spline")
        return BSpline(grid.knots.numpy(), weight.numpy(), 3)(x[:, 0].numpy()).sum()

    step = 1e-5
    expected = (scipys(step) - scipys(-step)) / (2 * step)
    assert float(slope) == pytest.approx(expected, rel=1e-6)


def test_derivatives_in_the_inputs_are_propagated():
    layer, x = free_layer(), inputs(10).requires_grad_()
    direction = torch.tensor([0.6, -0.8])
    channels = torch.stack([x, direction.expand_as(x), torch.zeros_like(x)])
    y, y_a, y_aa = layer.propagate(channels, [(0, 0)])
    torch.testing.assert_close(y, layer(x))

    def along(s):
        return layer(x.detach() + s * direction)

    zero = torch.zeros(())
    slope = torch.func.jacfwd(along)
    torch.testing.assert_close(y_a, slope(zero))
    torch.testing.assert_close(y_aa, torch.func.jacfwd(slope)(zero))


# Refinement


@every_basis
@every_sharing
@pytest.mark.parametrize("r", [2, 4])
def test_refinement_keeps_function_order_and_freedom(basis, per, r):
    layer, x = free_layer(basis, per, r), inputs()
    fine = layer.refine().refine()
    torch.testing.assert_close(fine(x), layer(x), rtol=1e-9, atol=1e-9)
    for coarse, finer in zip(layer.grids, fine.grids, strict=True):
        assert finer.n == 4 * coarse.n
        assert coarse.missing_from(finer) == []
    assert float(fine.knots.floor) == float(layer.knots.floor)
    fine(x).square().sum().backward()
    assert float(fine.knots.logits.grad.abs().max()) > 0.0
    assert fine.knots.logits.requires_grad


@every_basis
def test_refinement_to_given_grids_keeps_the_function_and_lowers_the_floor(basis):
    layer, x = free_layer(basis), inputs()
    new = []
    for p, grid in enumerate(layer.grids):
        t = grid.breakpoints
        close = t[p + 1] + 0.04 * (t[p + 2] - t[p + 1])
        new.append(KnotGrid(4, torch.cat([t, close[None]]).sort().values))
    fine = layer.refine(new)
    torch.testing.assert_close(fine(x), layer(x), rtol=1e-8, atol=1e-8)
    assert float(fine.knots.floor) < float(layer.knots.floor)
    with torch.no_grad():
        fine.knots.logits += 0.1 * torch.randn_like(fine.knots.logits)
    assert float(fine.knots().detach().diff(dim=1).min()) > 0.0


def test_refinement_refuses_grids_that_do_not_fit():
    layer = free_layer()
    with pytest.raises(ValueError, match="not nested"):
        layer.refine(KnotGrid.uniform(4, 8, (-1.0, 1.0)))
    first, second = layer.grids
    with pytest.raises(ValueError, match="2 with the same number of intervals"):
        layer.refine([first.refine(), second])


# Training


@every_sharing
@pytest.mark.parametrize("rate", [1e3, 1e9])
def test_huge_steps_keep_order_and_floor(per, rate):
    layer, x = free_layer(per=per), inputs()
    optimizer = torch.optim.SGD(layer.knots.parameters(), lr=rate)
    for _ in range(20):
        optimizer.zero_grad()
        layer(x).square().sum().backward()
        optimizer.step()
        t = layer.knots().detach()
        assert float(t.diff(dim=1).min()) >= 0.05 * 2 / 4 - 1e-14
        assert t[:, 0].tolist() == [-1.0] * len(t)
        assert t[:, -1].tolist() == [1.0] * len(t)
    assert float(t.diff(dim=1).max()) > 1.5  # the steps were huge


def test_a_free_knot_finds_the_kink_of_its_data():
    """|x - 0.37| is linear on either side: order 2 and one inner knot suffice."""
    x = torch.linspace(0, 1, 400)[:, None]
    torch.manual_seed(0)
    model = KAN([1, 1], n=2, r=2).free("layer")
    run = train(model, MeanSquaredError(x, (x - 0.37).abs()), 30, progress=False)
    assert run.loss < 1e-10
    assert float(model.layers[0].grid.breakpoints[1]) == pytest.approx(0.37, abs=1e-4)


def test_free_knots_train_over_levels_and_load():
    x = torch.rand(100, 1, generator=torch.Generator().manual_seed(0))
    objective = MeanSquaredError(x, torch.tanh(20 * (x - 0.4)))
    torch.manual_seed(0)
    model = KAN([1, 1], n=3).free()
    start = copy.deepcopy(model)
    run = train_multilevel(model, objective, [3, 3], progress=False)
    before, after = (run.history.loss[i] for i in (3, 4))
    assert after == pytest.approx(before, rel=1e-9)
    assert run.model.n == 6
    other = start.refine()
    other.load_state_dict(run.model.state_dict())
    torch.testing.assert_close(other(x), run.model(x), rtol=0, atol=0)


# Errors


def test_layer_refuses_what_it_cannot_be():
    grid = KnotGrid.uniform(4, 5)
    layer = SplineLayer(2, 1, grid)
    with pytest.raises(ValueError, match="per must be one of"):
        layer.free("edge")
    with pytest.raises(ValueError, match="order must be at least 2"):
        SplineLayer(1, 1, KnotGrid.uniform(1, 5)).free()
    with pytest.raises(ValueError, match=r"per must be 'input' .* got 'layer'"):
        layer.free("input").free("layer")
    with pytest.raises(ValueError, match="use grids"):
        _ = layer.free().grid


def test_users_of_fixed_knots_refuse_free_ones():
    model = KAN([1, 1], n=4).free()
    with pytest.raises(
        ValueError, match=r"of the spline basis .* got 'relu' and 'relu': .* model\.fixed"
    ):
        Iteration(partial(torch.optim.SGD, lr=0.1))(model)
    x = torch.rand(20, 1)
    with pytest.raises(ValueError, match="use optimizer_state='fresh'"):
        train_multilevel(
            model, MeanSquaredError(x, x), [1, 1], optimizer_state="carried", progress=False
        )


def test_floor_is_lowered_to_half_the_smallest_spacing():
    layer = SplineLayer(1, 1, KnotGrid.uniform(4, 4)).free(floor=0.5)
    fine = layer.refine(KnotGrid(4, [0, 0.02, 0.25, 0.5, 0.75, 1]))  # 0.1 times the mean
    assert float(fine.knots.floor) == pytest.approx(0.05)


@pytest.mark.parametrize("per", ["layer", "input"])
@pytest.mark.parametrize("n", [7, 49])
def test_floor_is_lowered_to_half_of_the_smallest_spacing(per, n):
    grid = KnotGrid(3, np.linspace(0, 1, n + 1))
    layer = SplineLayer(2, 1, grid, dtype=torch.float64).free(per, floor=0.5)
    points = grid.breakpoints.tolist()
    narrow = KnotGrid(3, [0.0, 0.1 / n, *points[1:]])
    fine = layer.refine(narrow)
    assert float(fine.knots.floor) == pytest.approx(0.5 * (0.1 / n) * (n + 1))
    wide = KnotGrid(3, sorted([*points, 0.5 / n]))
    floor = min(0.5, 0.5 * 0.5 * (n + 1) / n)
    assert float(layer.refine(wide).knots.floor) == pytest.approx(floor)


@pytest.mark.parametrize("floor", [0.0, 1e-14, 1.0, float("nan"), float("inf")])
def test_floor_that_leaves_no_room_for_refinement_is_refused(floor):
    layer = SplineLayer(1, 1, KnotGrid.uniform(3, 4))
    with pytest.raises(ValueError, match=r"floor must be .* got"):
        layer.free(floor=floor)
    assert layer.free(floor=1e-8).refine().refine().knots.floor == 1e-8
