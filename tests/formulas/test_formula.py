"""Formulas of networks: known functions are found again, and constants with honest errors."""

import pickle

import numpy as np
import pytest
import sympy
import torch

from kanlib import KAN, MLP, GaussNewton, MeanSquaredError, race, train
from kanlib.analysis.pruning import prune
from kanlib.formulas.edges import edges
from kanlib.formulas.expressions import fit, scaled, simple, simplified
from kanlib.formulas.formula import formula
from kanlib.formulas.library import LIBRARY

pytestmark = pytest.mark.usefixtures("float64")


def trained(function, box, widths, noise=0.0, **options):
    """Return points, values and the best of four networks."""
    torch.manual_seed(7)
    low, high = torch.tensor(box).T
    x = low + (high - low) * torch.rand(250, len(box))
    y = function(*x.T)[:, None]
    y = y + noise * y.std() * torch.randn_like(y)
    deep = {"normalisation": "tanh"} if len(widths) > 2 else {}
    starts = [
        KAN(widths, n=4, domain=(-1, 1), input_domain=box, init_scale=0.3, **deep, **options)
        for _ in range(4)
    ]
    run = race(
        starts,
        MeanSquaredError(x, y),
        [12, 12],
        keep=[1],
        optimizer=GaussNewton(),
        progress=False,
    )
    return x, y, run.model


def product(a, b):
    return a**2 / b


BOX = [(0.5, 2.0), (0.5, 2.0)]


@pytest.fixture(scope="module")
def exact():
    torch.set_default_dtype(torch.float64)
    found = trained(product, BOX, [2, 1, 1])
    torch.set_default_dtype(torch.float32)
    return found


def test_sum_of_functions_is_found():
    x, y, model = trained(lambda a, b: torch.sin(2 * a) + 3 * torch.exp(-b), BOX, [2, 1])
    found = formula(model, x, y, names=["a", "b"])
    a, b = found.symbols
    assert sympy.simplify(found.expression - (sympy.sin(2 * a) + 3 * sympy.exp(-b))) == 0
    assert found.error < 1e-10
    assert found.edges[0, 0, 0].name == "sin"


def test_exponential_of_a_sum_is_no_product():
    x, y, model = trained(lambda a, b: torch.exp(torch.sin(3 * a) + b**2), BOX, [2, 1, 1])
    found = formula(model, x, y, names=["a", "b"])
    a, b = found.symbols
    truth = sympy.exp(sympy.sin(3 * a) + b**2)
    assert sympy.simplify(sympy.expand_power_exp(found.expression) / truth) == 1


@pytest.mark.parametrize(
    ("function", "truth"),
    [
        (lambda a, b: 1 / (1 + a * b), "1/(1+a*b)"),
        (lambda a, b: torch.asin(a / (2 + b)), "asin(a/(2+b))"),
    ],
)
def test_function_of_a_product_is_no_function_of_a_sum(function, truth):
    x, y, model = trained(function, BOX, [2, 1, 1])
    found = formula(model, x, y, names=["a", "b"])
    a, b = found.symbols
    expected = sympy.sympify(truth, {"a": a, "b": b})
    assert sympy.simplify(found.expression - expected) == 0
    assert "log" not in {each.name for each in found.edges.values()}


def test_steep_logarithms_are_no_factors():
    """Factors of a product that would overflow are not tried."""
    torch.manual_seed(4)
    x = 0.5 + torch.rand(200, 2)
    data = MeanSquaredError(x, torch.exp(x[:, :1]) - 1e-3 * torch.log(x[:, 1:]))
    start = KAN([2, 1], n=8, domain=(0.5, 1.5))
    first = train(start, data, 6, optimizer=GaussNewton(), progress=False).model.layers[0]
    model = KAN([2, 1, 1], n=8, domain=(0.5, 1.5), hidden_domain=(0, 6))
    with torch.no_grad():
        model.layers[0].weight.copy_(first.weight)
        line = model.layers[1].grid.knots[1:-1].unfold(0, 3, 1).mean(-1)
        model.layers[1].weight.copy_(line)
    assert formula(model, x, tries=2).error < 1e-3


def test_largest_term_of_a_sum_gets_the_factor_one():
    a, b = sympy.symbols("a b")
    factor, rest = scaled(1e-15 * a + 4.0 * b - 2.0, signed=True)
    assert factor == sympy.Float(4)
    assert rest.coeff(b) == 1


@pytest.mark.parametrize("basis", ["spline", "relu"])
def test_product_is_found_whatever_the_basis_and_grid(exact, basis):
    x, y, model = exact
    for network in (model.to_basis(basis), model.refine().to_basis(basis)):
        found = formula(network, x, y)
        first, second = found.symbols
        assert sympy.simplify(found.expression - first**2 / second) == 0
        assert not found.constants


def test_formula_evaluates_prints_and_becomes_a_function(exact):
    x, y, model = exact
    found = formula(model, x, y, names=["m", "v"])
    torch.testing.assert_close(found(x), y, rtol=1e-10, atol=1e-10)
    assert found(x.float()).dtype == torch.float32
    np.testing.assert_allclose(found.lambdify()(3.0, 2.0), 4.5)
    assert found.latex() == r"\frac{m^{2}}{v}"
    assert repr(found).startswith("Formula(m**2/v, error=")
    assert found.network < 1e-2


def test_without_targets_the_network_is_what_is_explained(exact):
    x, _, model = exact
    found = formula(model, x)
    assert found.network == 0.0
    assert found.error < 1e-2


@pytest.mark.parametrize("input_domain", [None, [(0.0, 2 * np.pi), (0.0, 1.0)]])
def test_periodic_coordinates_enter_by_cosine_and_sine(input_domain):
    torch.manual_seed(1)
    low, high = torch.tensor(input_domain or [(0.0, 1.0), (0.0, 1.0)]).T
    x = low + (high - low) * torch.rand(200, 2)
    angle = 2 * torch.pi * (x[:, :1] - low[0]) / (high - low)[0]
    y = 3 * torch.sin(angle) + 2 * angle.cos() ** 2 + torch.exp(-x[:, 1:])
    domain = (-1.0, 1.0) if input_domain else (0.0, 1.0)
    model = KAN([2, 1], n=4, domain=domain, input_domain=input_domain, periodic=[0])
    model = train(model, MeanSquaredError(x, y), 8, optimizer=GaussNewton(), progress=False).model
    found = formula(model, x, y)
    first, second = found.symbols
    angle = first if input_domain else 2 * sympy.pi * first
    truth = 3 * sympy.sin(angle) + 2 * sympy.cos(angle) ** 2 + sympy.exp(-second)
    assert sympy.simplify(found.expression - truth) == 0  # cos^2 = 1 - sin^2


def test_float32_network_and_pruned_edges(exact):
    x, y, model = exact
    single = KAN(
        [2, 1, 1], n=8, domain=(-1, 1), input_domain=BOX, normalisation="tanh", dtype=torch.float32
    )
    single.load_state_dict(model.state_dict())
    assert formula(single, x.float(), y.float()).error < 1e-5
    x, y, model = trained(lambda a, b: torch.exp(-a) + 0 * b, BOX, [2, 1])
    pruned = prune(model, MeanSquaredError(x, y)).model
    found = formula(pruned, x, y)
    assert str(found.expression) == "exp(-x1)"
    assert [*found.edges] == [(0, 0, 0)]


def test_affine_first_layers_and_outputs_are_followed():
    torch.manual_seed(2)
    box = [(0.0, 1.0), (0.0, 2.0)]
    model = KAN([2, 2, 2], n=3, first="affine", input_domain=box)
    with torch.no_grad():
        for layer in model.spline_layers:
            grid = layer.grid.knots[1:-1].unfold(0, 3, 1).mean(-1)  # straight lines
            layer.weight.copy_(torch.tensor([1.0, -2.0])[:, None, None] * grid)
    x = torch.rand(50, 2) * torch.tensor([1.0, 2.0])
    for output in (0, 1):
        found = formula(model, x, output=output)
        torch.testing.assert_close(found(x), model(x)[:, output, None].detach())
        assert sympy.Poly(found.expression, *found.symbols).total_degree() == 1


@pytest.mark.parametrize("normalisation", [None, "tanh", "sigmoid"])
def test_edges_are_the_functions_of_what_enters_the_maps_before_them(normalisation):
    torch.manual_seed(3)
    box = [(1.0, 3.0), (0.0, 2.0)]
    model = KAN([2, 2, 1], n=3, init_scale=2.0, input_domain=box, normalisation=normalisation)
    x = torch.rand(80, 2) * 2 + torch.tensor([1.0, 0.0])
    first, second = edges(model, x)
    with torch.no_grad():
        entered, layers = x, [*model.layers]
        for found in (first, second):
            while not hasattr(layers[0], "grids"):
                layers.pop(0)
            layer = layers.pop(0)
            before = model.layers[[*model.layers].index(layer) - 1]
            mapped = before if not hasattr(before, "grids") else torch.nn.Identity()
            for p in range(2):
                edge = found[0][p]
                low, high = float(entered[:, p].min()), float(entered[:, p].max())
                assert low <= edge.x.min() < edge.x.max() <= high
                assert edge.weights.sum() == pytest.approx(1.0)
                points = torch.from_numpy(edge.x)[:, None].repeat(1, 2)
                points[:, 1 - p] = entered[0, 1 - p]
                alone = layer.masked(torch.arange(2).expand(len(found), 2) == p)
                expected = alone(mapped(points))[:, 0].numpy()
                np.testing.assert_allclose(edge.y, expected, atol=1e-12)
            entered = layer(mapped(entered))


def test_noise_gives_constants_with_errors_that_hold_the_truth():
    """Over many draws of noise, the truth is within two errors about as often as it should be."""
    a, b = sympy.symbols("a b")
    rng = np.random.default_rng(0)
    x = rng.random((200, 2))
    y = 2.3 * np.exp(-1.7 * x[:, 0]) + 0.6 * x[:, 1]
    start = sympy.Float(2.0) * sympy.exp(-sympy.Float(1.5) * a) + sympy.Float(0.5) * b
    inside = []
    for _ in range(60):
        found = fit(start, (a, b), x, y + 0.05 * rng.standard_normal(200))
        truth = {2.3, -1.7, 0.6}
        for value, error in zip(found.values, found.errors, strict=True):
            nearest = min(truth, key=lambda t: abs(t - value))
            inside.append(abs(value - nearest) < 2 * error)
    assert 0.90 < np.mean(inside) < 0.99


def test_errors_are_those_of_the_normal_equations():
    a = sympy.Symbol("a")
    rng = np.random.default_rng(1)
    x = rng.random((40, 1))
    y = 1.5 * x[:, 0] + 0.7 + 0.1 * rng.standard_normal(40)
    found = fit(sympy.Float(1.0) * a + sympy.Float(0.1), (a,), x, y)
    order = ["a" in str(sympy.diff(found.template, c)) for c in found.constants]
    _, covariance = np.polyfit(x[:, 0], y, 1, cov=True)
    slope, constant = (found.errors[order.index(each)] for each in (True, False))
    np.testing.assert_allclose([slope, constant], np.sqrt(np.diag(covariance)), rtol=1e-6)


def test_constants_that_data_do_not_tell_apart_have_no_error():
    a = sympy.Symbol("a", positive=True)
    x = np.linspace(1, 2, 30)[:, None]
    c, d, e = (sympy.Float(v) for v in (1.1, 1.2, 1.3))
    template = c * (d * a + e) ** 2
    found = fit(template, (a,), x, (x[:, 0] + 1) ** 2 + 0.01 * np.sin(50 * x[:, 0]))
    assert np.isinf(found.errors).all()


def test_simple_numbers_go_in_only_where_data_allow_it():
    a = sympy.Symbol("a", positive=True)
    rng = np.random.default_rng(2)
    x = 1 + rng.random((300, 1))
    start = sympy.Float(1.05) * a ** sympy.Float(1.9)
    y = x[:, 0] ** 2
    assert simplified(fit(start, (a,), x, y), (a,), x, y).expression == a**2
    noisy = y + 0.02 * rng.standard_normal(300)
    assert simplified(fit(start, (a,), x, noisy), (a,), x, noisy).expression == a**2
    y = 1.03 * x[:, 0] ** 2.04
    found = simplified(fit(start, (a,), x, y), (a,), x, y)
    np.testing.assert_allclose(sorted(found.values), [1.03, 2.04], rtol=1e-8)


def test_phases_become_quarter_turns_where_data_allow_it():
    a = sympy.Symbol("a", real=True)
    x = 3 * np.random.default_rng(5).random((300, 1))
    start = sympy.Float(1.98) * sympy.sin(a + sympy.Float(1.55)) + sympy.Float(0.1)
    for noise in (0.0, 0.02):
        y = 2 * np.cos(x[:, 0]) + noise * np.random.default_rng(6).standard_normal(300)
        assert simplified(fit(start, (a,), x, y), (a,), x, y).expression == 2 * sympy.cos(a)
    y = 2 * np.sin(x[:, 0] + 1.52)
    found = simplified(fit(start, (a,), x, y), (a,), x, y)
    np.testing.assert_allclose(found.values, [1.52], rtol=1e-8)


def test_terms_that_data_do_not_need_are_left_out():
    a, b = sympy.symbols("a b", real=True)
    rng = np.random.default_rng(3)
    x = rng.random((200, 2))
    c = [sympy.Float(v) for v in (1.9, 1e3, 4.0, 20.0, -1e3)]
    saturated = c[1] * sympy.tanh(c[2] * b + c[3]) + c[4]
    for noise in (0.0, 0.01):
        y = sympy.lambdify((a, b), sympy.exp(2 * a))(*x.T) + noise * rng.standard_normal(200)
        found = simplified(fit(sympy.exp(c[0] * a) + saturated, (a, b), x, y), (a, b), x, y)
        assert found.expression == sympy.exp(2 * a)
    y = y + 0.1 * np.tanh(4 * x[:, 1])
    needed = sympy.exp(c[0] * a) + sympy.Float(0.2) * sympy.tanh(c[2] * b) + sympy.Float(0.1)
    found = simplified(fit(needed, (a, b), x, y), (a, b), x, y)
    assert b in found.expression.free_symbols


def test_simple_numbers_and_scaled_sums():
    assert simple(0.4998, 1e-3) == sympy.Rational(1, 2)
    assert simple(1.9999, 1e-3) == 2
    assert simple(0.4, 1e-3) is None
    a, b = sympy.symbols("a b")
    factor, rest = scaled(-2.0 * a + 3.0 * b, signed=False)
    assert sympy.expand(factor * rest - (3.0 * b - 2.0 * a)) == 0
    assert factor > 0
    assert scaled(2.5 * a + 5.0, signed=True)[1].coeff(a) == sympy.Integer(1)
    assert not scaled(2.5 * a, signed=True)[1].atoms(sympy.Float)


def test_constants_that_data_do_not_tell_apart_become_no_fractions():
    a = sympy.Symbol("a", real=True)
    x = np.random.default_rng(4).uniform(-1, 1, (200, 1))
    y = 2.37 * (x[:, 0] + 0.41) ** 2 + 1.477
    start = sympy.Float(2.33) * (sympy.Float(1.008) * a + sympy.Float(0.4)) ** 2 + sympy.Float(1.5)
    found = simplified(fit(start, (a,), x, y), (a,), x, y)
    assert not [q for q in found.expression.atoms(sympy.Rational) if not q.is_integer]


@pytest.mark.parametrize("value", [0.0, 3.0, 0.1])
def test_constant_targets_have_a_constant_formula(value):
    torch.manual_seed(10)
    x = 2 * torch.rand(100, 2) - 1
    y = torch.full((100, 1), value)
    data = MeanSquaredError(x, y)
    start = KAN([2, 1], n=5, domain=(-1, 1))
    model = train(start, data, 6, optimizer=GaussNewton(), progress=False).model
    found = formula(model, x, y)
    assert not found.expression.free_symbols
    assert float(found.expression) == pytest.approx(value, abs=1e-12)
    assert found.error < 1e-10


def test_inputs_may_have_the_names_of_constants():
    x = 2 * torch.rand(100, 2) - 1
    model = KAN([2, 1], n=4, domain=(-1, 1))
    for data in (x, x + 2):
        found = formula(model, data, names=["c1", "c3"], tries=1)
        assert [s.name for s in found.symbols] == ["c1", "c3"]
        assert not {c.symbol.name for c in found.constants} & {"c1", "c3"}
        names = [s.name for s in found.template.free_symbols]
        assert len({*names}) == len(names)


def test_formula_is_pickled_whatever_its_functions(exact):
    x, y, model = exact
    found = formula(model, x, y)
    again = pickle.loads(pickle.dumps(found))
    assert again.expression == found.expression
    assert again.edges == found.edges
    assert torch.equal(again(x), found(x))
    assert pickle.loads(pickle.dumps(LIBRARY)) == LIBRARY


def test_formula_refuses_what_does_not_fit():
    x, model = torch.rand(20, 2), KAN([2, 1], n=3)
    with pytest.raises(TypeError, match="model must be a KAN"):
        formula(MLP([2, 1]), x)
    with pytest.raises(ValueError, match="names must hold 2 different names"):
        formula(model, x, names=["a", "a"])
    with pytest.raises(ValueError, match="y must be finite, got NaN"):
        formula(model, x, torch.full((20, 1), torch.nan))
    with pytest.raises(ValueError, match="output must be at most 0"):
        formula(model, x, output=1)
    with pytest.raises(ValueError, match="y must have the shape"):
        formula(model, x, x)
    with pytest.raises(TypeError, match=r"functions must hold functions of kanlib\.formulas"):
        formula(model, x, functions=["sin"])
