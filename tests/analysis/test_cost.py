import numpy as np
import pytest
import torch
from scipy.interpolate import BSpline

from kanlib import KnotGrid, SplineLayer
from kanlib.analysis.cost import (
    METHODS,
    Operations,
    count_operations,
    evaluate,
    float32_error,
    measure,
    one_by_one,
    step,
)
from kanlib.splines.bspline import cox_de_boor
from kanlib.splines.truncated_power import dense_basis

ORDERS = (1, 2, 3, 4, 5)
UNEVEN = [0.0, 0.1, 0.15, 0.4, 0.7, 1.0]
RECURSIONS = ("one by one", "cox-de boor")
RELU = ("relu, A b", "relu, A w")


def points(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def scipy_basis(x, grid):
    """All B-splines at x (...), shape (..., n + r - 1)."""
    splines = BSpline(grid.knots.numpy(), np.eye(grid.num_basis), grid.order - 1)
    return torch.from_numpy(splines(x.detach().numpy()))


def some_layer(order, n=6, inputs=3, outputs=2, basis="spline"):
    torch.manual_seed(order)
    grid = KnotGrid.uniform(order, n)
    return SplineLayer(inputs, outputs, grid, basis=basis, dtype=torch.float64)


@pytest.mark.parametrize("basis", ["spline", "relu"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("order", ORDERS)
def test_method_evaluates_the_layer(order, method, basis):
    x = points(50, 3)
    for grid in (KnotGrid.uniform(order, 6), KnotGrid(order, UNEVEN)):
        layer = SplineLayer(3, 4, grid, basis=basis, dtype=torch.float64)
        u = layer.to_basis("spline").weight
        expected = torch.einsum("bpi,qpi->bq", scipy_basis(x, grid), u)
        torch.testing.assert_close(evaluate(layer, x, method), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("order", ORDERS)
def test_recursions_are_right_continuous_at_knots(order):
    grid = KnotGrid(order, UNEVEN)
    x = grid.breakpoints[:-1]
    for basis in (one_by_one, cox_de_boor):
        torch.testing.assert_close(basis(x, grid), scipy_basis(x, grid))


def test_unknown_method_is_refused():
    with pytest.raises(ValueError, match=r"method must be one of .*, got 'fast'"):
        evaluate(some_layer(2), points(5, 3), "fast")


@pytest.mark.parametrize("method", METHODS)
def test_step_has_the_gradients_of_finite_differences(method):
    layers = [some_layer(3, outputs=3), some_layer(3, n=4)]
    x = points(10, 3)

    def network():
        hidden = torch.einsum("bpi,qpi->bq", scipy_basis(x, layers[0].grid), layers[0].weight)
        hidden = torch.sigmoid(hidden)
        return torch.einsum("bpi,qpi->bq", scipy_basis(hidden, layers[1].grid), layers[1].weight)

    for _ in range(2):  # gradients of the second step replace those of the first
        output = step(layers, x, method)
    torch.testing.assert_close(output, network().detach(), rtol=0, atol=1e-11)
    with torch.no_grad():
        for layer in layers:
            direction = torch.randn_like(layer.weight)
            layer.weight += 1e-5 * direction
            above = network().sum()
            layer.weight -= 2e-5 * direction
            below = network().sum()
            layer.weight += 1e-5 * direction
            slope = (above - below) / 2e-5
            torch.testing.assert_close((layer.weight.grad * direction).sum(), slope)


# Counts derived by hand, for B points of P inputs, Q outputs, N = n + r - 1 functions.


@pytest.mark.parametrize("n", [1, 7])
@pytest.mark.parametrize("order", ORDERS)
def test_one_by_one_counts(order, n):
    size, leaves = n + order - 1, 2 ** (order - 1)
    x = points(4, 3)
    counts = count_operations(lambda: one_by_one(x, KnotGrid.uniform(order, n)))
    # A leaf compares twice and combines; each of the leaves - 1 inner nodes is two differences,
    # two quotients, two products and a sum.
    assert counts.elementwise == 12 * size * (3 * leaves + 7 * (leaves - 1))
    # Leaves are cast to the dtype of x, and all functions are stacked at the end.
    assert counts.launches == size * (4 * leaves + 7 * (leaves - 1)) + 1
    assert counts.moved == 12 * size * (leaves + 1)
    assert counts.products == 0


@pytest.mark.parametrize("n", [1, 7])
@pytest.mark.parametrize("order", ORDERS)
def test_cox_de_boor_counts(order, n):
    knots = n + 2 * order - 1
    functions = sum(knots - q for q in range(2, order + 1))
    x = points(4, 3)
    counts = count_operations(lambda: cox_de_boor(x, KnotGrid.uniform(order, n)))
    # Per point: three for each interval, two for the closed end, seven for each function of
    # each order above one. Per call: two distances of knots for each of those functions.
    assert counts.elementwise == 12 * (3 * (knots - 1) + 2 + 7 * functions) + 2 * functions
    assert counts.launches <= 9 * order + 1
    assert counts.products == 0


@pytest.mark.parametrize("n", [1, 7])
@pytest.mark.parametrize("order", ORDERS[1:])
def test_truncated_powers_count(order, n):
    x, grid = points(4, 3), KnotGrid.uniform(order, n)
    counts = count_operations(lambda: dense_basis(x, grid, extension="clamp"))
    # Difference, threshold and power for each function; clamping takes two a point.
    assert counts.elementwise == 12 * (3 * grid.num_basis + 2)


@pytest.mark.parametrize("order", ORDERS)
def test_change_of_basis_counts(order):
    size, layer = 6 + order - 1, some_layer(order)
    relu = some_layer(order, basis="relu")

    def elementwise(layer, method, batch):
        x = points(batch, 3)
        return count_operations(lambda: evaluate(layer, x, method)).elementwise

    # r differences and r - 1 scalings, whose constants take three operations each.
    sweep, constants = (2 * order - 1) * size, 3 * (order - 1) * size
    for batch in (1, 8):
        plain = elementwise(relu, "relu, A w", batch)
        values = elementwise(layer, "relu, A b", batch)
        weights = elementwise(layer, "relu, A w", batch)
        assert plain == 3 * batch * ((3 if order > 1 else 5) * size + 2)
        assert values - plain == 3 * batch * sweep + constants
        assert weights - plain == 3 * 2 * sweep + constants


@pytest.mark.parametrize("method", METHODS[:-1])
def test_contraction_counts(method):
    layer, x = some_layer(3), points(8, 3)
    assert count_operations(lambda: evaluate(layer, x, method)).products == 2 * 8 * 3 * 2 * 8
    # Backward without the gradient of the inputs: one more product, for the weights.
    assert count_operations(lambda: step([layer], x, method)).products == 4 * 8 * 3 * 2 * 8


@pytest.mark.parametrize("order", ORDERS)
def test_local_count_is_free_of_the_number_of_intervals(order):
    def per_point(n):
        layer, x = some_layer(order, n, inputs=3, outputs=8), points(2, 3)
        one, two = (count_operations(lambda b=b: evaluate(layer, x[:b])) for b in (1, 2))
        assert one.launches == two.launches
        return two.elementwise - one.elementwise, two.products - one.products

    assert per_point(10) == per_point(200)
    # One product and one sum for each power, input and output; a few for each power.
    elementwise, products = per_point(10)
    assert products == 2 * 3 * 8 * order
    assert 0 < elementwise <= 3 * (8 * order + 12)


def test_counts_of_a_small_graph():
    a, b = torch.rand(2, 3, requires_grad=True), torch.rand(3, 4)
    # Forward: the product, relu on (2, 4), the sum of 8. Backward: the seed, the threshold on
    # (2, 4), and the product for the gradient of a.
    counts = count_operations(lambda: torch.relu(a @ b).sum().backward())
    assert counts == Operations(elementwise=8 + 8 + 8, products=2 * 48, moved=1, launches=6)


def test_views_are_free_and_copies_are_moves():
    a = torch.rand(4, 6)
    assert count_operations(lambda: a.T[1:3].reshape(2, 4)[None]) == Operations(0, 0, 0, 0)
    assert count_operations(lambda: a.T.reshape(24)) == Operations(0, 0, 24, 1)
    index = torch.tensor([0, 3])
    assert count_operations(lambda: a[index]) == Operations(0, 0, 12, 1)
    assert count_operations(lambda: a.index_add(0, index, a[:2])) == Operations(12, 0, 0, 1)
    assert count_operations(lambda: a.cumsum(1)) == Operations(24, 0, 0, 1)


def test_measured_functions_take_turns():
    calls = []
    functions = {name: lambda name=name: calls.append(name) for name in "ab"}
    seconds = measure(functions, repeats=3)
    assert calls == ["a", "b"] * 4
    assert {name: len(rounds) for name, rounds in seconds.items()} == {"a": 3, "b": 3}
    assert all(second >= 0 for rounds in seconds.values() for second in rounds)
    with pytest.raises(ValueError, match="repeats must be at least 1, got 0"):
        measure(functions, repeats=0)


def test_measure_excludes_the_first_round(monkeypatch):
    clock = iter([0.0, 100.0, 200.0, 201.0, 300.0, 302.0])
    monkeypatch.setattr("kanlib.analysis.cost.time.perf_counter", lambda: next(clock))
    assert measure({"a": lambda: None}, repeats=2) == {"a": [1.0, 2.0]}


def test_float32_error_is_the_distance_to_exact_splines():
    grid = KnotGrid.uniform(3, 20)
    x = ((torch.arange(500, dtype=torch.float64) + 0.5) / 500).float()
    error = (cox_de_boor(x, grid) - scipy_basis(x.double(), grid)).abs().max()
    assert float32_error(grid, "cox-de boor", points=500) == pytest.approx(float(error), rel=1e-3)


def test_float32_error_of_order_one_vanishes():
    assert all(float32_error(KnotGrid.uniform(1, 10), method) == 0 for method in METHODS)


def test_float32_keeps_local_values_and_recursions():
    for n in (10, 50, 200):
        for order in ORDERS[:4]:
            grid = KnotGrid.uniform(order, n)
            assert float32_error(grid, "local") < 5e-7
            for method in RECURSIONS:
                assert float32_error(grid, method) < 1e-7 * (n + 10)


@pytest.mark.parametrize("method", RELU)
def test_float32_loses_truncated_powers(method):
    # The row sums of |A| amplify a rounding error by 2**r n**(r-1) / (r-1)!.
    for n in (10, 50, 200):
        for order, factorial in ((2, 1), (3, 2), (4, 6)):
            scale = 2.0**-23 * 2**order * n ** (order - 1) / factorial
            assert scale / 50 < float32_error(KnotGrid.uniform(order, n), method) < 2 * scale
    assert float32_error(KnotGrid.uniform(4, 50), method) > 1e-2
    assert float32_error(KnotGrid.uniform(4, 200), method) > 1


def test_float32_loses_relu_weights_however_they_are_evaluated():
    for method in METHODS:
        assert float32_error(KnotGrid.uniform(4, 50), method, basis="relu") > 1e-3
