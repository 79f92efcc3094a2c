"""Networks that are periodic in some coordinates."""

import math

import numpy as np
import pytest
import torch

from kanlib import (
    KAN,
    MLP,
    Ensemble,
    GaussNewton,
    HardConditions,
    Jet,
    MeanSquaredError,
    ResidualLoss,
    Term,
    propagate,
    train_multilevel,
)
from kanlib._checks import BASES
from kanlib.analysis.pruning import prune
from kanlib.nn.maps import Circle
from kanlib.training.jacobian import jacobian

pytestmark = pytest.mark.usefixtures("float64")
PAIRS = [(0, 0, 0, 0), (0, 0, 1, 1), (0, 1, 1)]
INTERVALS = [(-3.0, 1.0), (0.0, 2.0)]
NETWORKS = {
    "spline": lambda: KAN([2, 3, 1], n=3, r=6, domain=(-1, 2), **BOTH),
    "relu": lambda: KAN([2, 3, 1], n=3, r=6, basis="relu", **BOTH),
    "affine": lambda: KAN([2, 3, 1], n=3, r=6, first="affine", **BOTH),
    "tanh": lambda: KAN([2, 3, 1], n=3, r=6, normalisation="tanh", **BOTH),
    "mlp": lambda: MLP([2, 4, 1], "tanh", **BOTH),
    "free": lambda: KAN([2, 3, 1], n=3, r=6, **BOTH).free(),
}
BOTH = {"input_domain": INTERVALS, "periodic": [0]}
each_network = pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)


def points(count=19, seed=0):
    torch.manual_seed(seed)
    low, high = torch.tensor(INTERVALS).T
    return low + (high - low) * torch.rand(count, 2)


def nested(function, x, directions):
    """Return a derivative at each point by that many backward passes."""
    x = x.clone().requires_grad_()
    found = function(x)[:, 0]
    for a in directions:
        found = torch.autograd.grad(found.sum(), x, create_graph=True)[0][:, a]
    return found.detach()[:, None]


@pytest.mark.parametrize("domain", [(-1.0, 1.0), (0.0, 3.0), (-7.0, -2.0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_circle_is_cosine_and_sine(domain, dtype):
    a, b = domain
    z = torch.stack([torch.linspace(a - 3, b + 3, 40), torch.randn(40), torch.randn(40)], dim=1)
    angle = 2 * np.pi * (z.numpy() - a) / (b - a)
    middle, half = (a + b) / 2, (b - a) / 2
    expected = np.stack(
        [
            middle + half * np.cos(angle[:, 0]),
            z[:, 1],
            middle + half * np.cos(angle[:, 2]),
            middle + half * np.sin(angle[:, 2]),
            middle + half * np.sin(angle[:, 0]),
        ],
        axis=1,
    )
    found = Circle([2, 0], 3, domain).to(dtype)(z.to(dtype))
    assert found.dtype == dtype
    tolerance = 1e-14 if dtype == torch.float64 else 1e-5
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=20 * tolerance)


@each_network
def test_derivatives_to_order_four_are_those_of_autograd(make):
    torch.manual_seed(0)
    model, x = make(), points()
    jet = propagate(model, Jet.at(x, pairs=PAIRS))
    torch.testing.assert_close(jet.value, model(x))
    for directions in [(0,), (1,), (0, 0), *PAIRS]:
        expected = nested(model, x, directions)
        close = 1e-8 * max(1.0, float(expected.abs().max()))
        torch.testing.assert_close(jet.d(*directions), expected, rtol=0, atol=close)


@each_network
def test_ends_meet_with_all_derivatives(make):
    torch.manual_seed(0)
    model, x = make(), points()
    ends = []
    for place in (-3.0, 1.0):
        x[:, 0] = place
        ends.append(propagate(model, Jet.at(x, pairs=PAIRS)).channels)
    torch.testing.assert_close(*ends, rtol=0, atol=0)
    y = points() + torch.tensor([4.0, 0.0])
    torch.testing.assert_close(model(y), model(points()))
    assert (model(points() + torch.tensor([2.0, 0.0])) - model(points())).abs().max() > 1e-3


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_refinement_is_exact(basis, dtype):
    torch.manual_seed(0)
    model = KAN([2, 3, 1], n=3, r=4, basis=basis, dtype=dtype, **BOTH)
    fine, x = model.refine().refine(), points().to(dtype)
    tolerance = 1e-12 if dtype == torch.float64 and basis == "spline" else 1e-4
    torch.testing.assert_close(fine(x), model(x), rtol=tolerance, atol=tolerance)
    assert fine.n == 12
    x[:, 0] = 1.0
    y = x.clone()
    y[:, 0] = -3.0
    torch.testing.assert_close(fine(x), fine(y), rtol=0, atol=0)


def test_graded_grids():
    model = KAN([2, 3, 1], r=4, breakpoints=[0.0, 0.1, 0.15, 0.7, 1.0], **BOTH)
    x = points()
    torch.testing.assert_close(model.refine()(x), model(x))


def equation(u, x):
    return u.d(1) + u.value * u.d(0) - 0.1 * u.d(0, 0)


def test_rows_of_the_jacobian_are_those_of_the_layers():
    torch.manual_seed(0)
    model = KAN([2, 3, 1], n=16, r=4, **BOTH)
    loss = ResidualLoss(inside=Term(equation, points(), pairs=[(0, 0)]))
    found = jacobian(model, loss)
    assert max(run.values.shape[1] for block in found._blocks for run in block.runs) == 4 * 3
    parameters = [*model.parameters()]
    for row in (0, 7):
        one = ResidualLoss(inside=Term(equation, points()[row : row + 1], pairs=[(0, 0)]))
        (residual,) = (r(model) for r in one.residuals())
        parts = torch.autograd.grad(residual.sum(), parameters)
        expected = torch.cat([part.flatten() for part in parts]) / math.sqrt(19)
        torch.testing.assert_close(found.dense()[row], expected)


def test_advection_with_diffusion_over_levels(tmp_path):
    """u_t + u_x = 0.1 u_xx from sin x, hard initial values: no boundary term at all."""
    box = [(0.0, 2 * math.pi), (0.0, 1.0)]
    torch.manual_seed(0)
    network = KAN([2, 3, 1], n=3, r=6, domain=(-1, 1), input_domain=box, periodic=[0])
    model = HardConditions.on_box(network, box, value={(1, 0.0): lambda x: torch.sin(x[:, :1])})
    grid = torch.cartesian_prod(torch.linspace(0, 2 * math.pi, 33)[:-1], torch.linspace(0, 1, 13))
    loss = ResidualLoss(
        inside=Term(lambda u, x: u.d(1) + u.d(0) - 0.1 * u.d(0, 0), grid, pairs=[(0, 0)])
    )
    run = train_multilevel(
        model,
        loss,
        [12, 12],
        optimizer=GaussNewton(),
        checkpoint=tmp_path / "run.pt",
        progress=False,
    )
    exact = torch.exp(-0.1 * grid[:, 1:]) * torch.sin(grid[:, :1] - grid[:, 1:])
    assert (run.model(grid) - exact).norm() < 1e-2 * exact.norm()
    again = train_multilevel(
        HardConditions(KAN(network.widths, n=3, r=6, domain=(-1, 1), input_domain=box,
                           periodic=[0]), model.g, model.d),
        loss,
        [12, 12],
        optimizer=GaussNewton(),
        checkpoint=tmp_path / "run.pt",
        resume=True,
        progress=False,
    )  # fmt: skip
    torch.testing.assert_close(again.model(grid), run.model(grid), rtol=0, atol=0)


def test_ensemble_is_its_members():
    members = []
    for seed in range(3):
        torch.manual_seed(seed)
        members.append(KAN([2, 3, 1], n=3, r=4, **BOTH))
    together, jet = Ensemble(members), Jet.at(points(), pairs=[(0, 0)])
    torch.testing.assert_close(
        propagate(together.refine(), jet).channels,
        torch.stack([propagate(m, jet).channels for m in members], dim=1),
    )
    with pytest.raises(ValueError, match="member 1 differs from member 0 in"):
        Ensemble([members[0], KAN([2, 3, 1], n=3, r=4, input_domain=INTERVALS, periodic=[1])])


def test_weights_belong_to_the_same_coordinates():
    model = KAN([2, 3, 1], n=3, **BOTH)
    KAN([2, 3, 1], n=3, **BOTH).load_state_dict(model.state_dict())
    with pytest.raises(RuntimeError, match=r"periodic = \[0\] \(model: \[1\]\)"):
        KAN([2, 3, 1], n=3, input_domain=INTERVALS, periodic=[1]).load_state_dict(
            model.state_dict()
        )


def test_calibration_and_drawing():
    model = KAN([2, 3, 1], first="affine", **BOTH).calibrate_(points())
    inner = model.layers[2](model.layers[1](model.layers[0](points())))
    torch.testing.assert_close(inner.amin(0), torch.zeros(3), rtol=0, atol=1e-12)
    torch.testing.assert_close(inner.amax(0), torch.ones(3))
    pytest.importorskip("plotly")
    from kanlib.viz.drawings import draw_network

    nodes = draw_network(KAN([2, 3, 1], **BOTH)).data[-1]
    assert len(nodes.x) == 3 + 3 + 1


def test_periodic_input_stays_or_goes_with_both_of_its_columns():
    torch.manual_seed(0)
    options = {"input_domain": [(0, 1), *INTERVALS], "periodic": [1, 0]}
    model, x = KAN([3, 2, 1], n=3, **options), torch.rand(40, 3)
    with torch.no_grad():
        model.layers[2].weight[:, [0, 4]] = 0.0  # nothing depends on the first coordinate
    found = prune(model, MeanSquaredError(x, model(x).detach()), inputs=True)
    assert found.inputs == [1, 2]
    torch.testing.assert_close(found.model(x[:, 1:]), model(x))
    assert model.select([[0, 2], [0, 1], [0]]).entering == [0, 1, 0]
    torch.testing.assert_close(
        model.select([[1, 2], [0, 1], [0]])(x[:, 1:]), model(x), rtol=0, atol=1e-12
    )
    turned = model.select([[2, 1], [0, 1], [0]])
    torch.testing.assert_close(turned(x[:, [2, 1]]), model(x), rtol=0, atol=1e-12)
    alone = model.select([[2], [0, 1], [0]])
    assert alone.entering == [0]
    alone(x[:, 2:])


@pytest.mark.parametrize("bad", [[2], [-1], [0, 0], ["x"], [0.5]])
@pytest.mark.parametrize("network", [KAN, MLP])
def test_coordinates_must_be_different_and_exist(network, bad):
    with pytest.raises(ValueError, match="periodic must list different coordinates from 0 to 1"):
        network([2, 3, 1], periodic=bad)
