"""Interfaces: inputs, normals, projection, and jumps by jets of both sides."""

import math

import pytest
import torch
from torch.func import jacrev, vmap

from kanlib import KAN, GaussNewton, Interface, Jet, ResidualLoss, Sampler, Term, propagate, train
from kanlib.domains.shapes import Box

DOUBLE = torch.float64
BOX = [(-1.0, 1.0), (-1.0, 1.0)]


def ellipse(x):
    return x[:, :1] ** 2 + 4 * x[:, 1:] ** 2 - 0.5


def wave(x):
    return x[:, 1:] - 0.3 * torch.sin(3 * x[:, :1])


FIELDS = pytest.mark.parametrize("phi", [ellipse, wave])


@FIELDS
def test_project_finds_the_interface(phi):
    x = Interface(phi).project(Box(BOX).points(200))
    assert phi(x).abs().max() < 1e-14


@FIELDS
def test_normals_are_those_of_finite_differences(phi):
    interface = Interface(phi)
    x = interface.project(Box(BOX).points(50))
    slopes = []
    for a in range(2):
        step = torch.zeros(2, dtype=DOUBLE)
        step[a] = 1e-6
        slopes.append((phi(x + step) - phi(x - step)) / 2e-6)
    slope = torch.cat(slopes, dim=1)
    assert (interface.normal(x) - slope / slope.norm(dim=1, keepdim=True)).abs().max() < 1e-9


@FIELDS
@pytest.mark.parametrize("jump", [False, True])
def test_sides_are_limits_of_the_inputs(phi, jump):
    """Off the interface, each side is what the network is there; on it, the two differ in slope."""
    torch.manual_seed(0)
    interface = Interface(phi, jump=jump)
    model = KAN([4 if jump else 3, 3, 1], n=4, r=5, domain=(-8, 8), init_scale=2.0, dtype=DOUBLE)
    x = Box(BOX).points(100)
    off = x[(phi(x).abs() > 1e-2).flatten()]
    inner = (phi(off) < 0).flatten()
    assert 0 < inner.sum() < len(off)
    values = model(interface.inputs(off))
    for side, chosen in zip(interface.sides, (inner, ~inner), strict=True):
        assert torch.allclose(values[chosen], model(side(off))[chosen], atol=1e-14)
    on = interface.project(x)
    one, two = (propagate(model, Jet.at(on, features=side)) for side in interface.sides)
    assert jump or torch.allclose(one.value, two.value, atol=1e-12)
    for sign, jet in zip((-1, 1), (one, two), strict=True):
        near = on + sign * 1e-6 * interface.normal(on)
        far = on + sign * 2e-6 * interface.normal(on)
        slope = (model(interface.inputs(far)) - model(interface.inputs(near))) * sign / 1e-6
        assert (interface.slopes(jet, on) - slope).abs().max() < 1e-4
    assert (interface.flux_jump(one, two, on, 1.0, 1.0).abs() > 0.1).double().mean() > 0.5


def test_flux_jump_of_the_known_solution_of_a_cylinder_in_a_field():
    """The potential of a dielectric cylinder has none, with the coefficients that it belongs to."""
    a, radius = 5.0, 0.5
    circle = Interface(lambda x: x.norm(dim=1, keepdim=True) - radius)

    class Outer(torch.nn.Module):
        def forward(self, x):
            return x[:, :1] * (1 - (a - 1) / (a + 1) * radius**2 / x.square().sum(1, True))

    inner = torch.nn.Linear(2, 1, bias=False, dtype=DOUBLE)
    inner.weight.data = torch.tensor([[2 / (a + 1), 0.0]], dtype=DOUBLE)
    x = circle.project(Box(BOX).points(100))
    left = propagate(inner, Jet.at(x))
    right = Jet.at(x).through(Outer())
    assert (left.value - right.value).abs().max() < 1e-14
    assert circle.flux_jump(left, right, x, a, 1.0).abs().max() < 1e-13
    assert circle.flux_jump(left, right, x, 1.0, 1.0).abs().max() > 0.1
    slopes = vmap(jacrev(lambda z: Outer()(z[None])[0, 0]))(x)
    normal = x / x.norm(dim=1, keepdim=True)
    assert torch.allclose(circle.slopes(right, x), (slopes * normal).sum(1, True), atol=1e-13)


def test_a_jump_of_the_value_is_solved_for():
    """u'' = 0 on both sides of 1/3, with a jump of 1 and equal fluxes, a = 2 on the right."""
    place = 1 / 3
    interface = Interface(lambda x: x - place, jump=True)
    line = Sampler([(0, 1)], 60, dtype=DOUBLE)
    middle = torch.tensor([[place]], dtype=DOUBLE)
    ends = torch.tensor([[0.0], [1.0]], dtype=DOUBLE)

    def conditions(left, right, x):
        flux = interface.flux_jump(left, right, x, 1.0, 2.0)
        return torch.cat([right.value - left.value - 1, flux], dim=1)

    loss = ResidualLoss(
        inside=Term(lambda u, x: u.d(0, 0), line, pairs=[(0, 0)], features=interface.inputs),
        middle=Term(conditions, middle, features=interface.sides),
        ends=Term(lambda u, x: u.value - 3 * x, ends, features=interface.inputs),
    )
    torch.manual_seed(0)
    model = KAN([3, 1], n=2, r=5, domain=(-1, 1), dtype=DOUBLE)
    model = train(model, loss, 20, optimizer=GaussNewton(), progress=False).model
    # slope s on the left and s / 2 on the right: s/3 + 1 + s/2 * 2/3 = 3
    x = torch.linspace(0, 1, 31, dtype=DOUBLE)[:, None]
    exact = torch.where(x < place, 3 * x, 1 + 1.0 + 1.5 * (x - place))
    assert (model(interface.inputs(x)) - exact).abs().max() < 1e-4


def test_bad_interfaces():
    circle = Interface(lambda x: x.square().sum(dim=1) - 1)
    with pytest.raises(ValueError, match=r"phi must return \(5, 1\), one value for each point"):
        circle.inputs(torch.zeros(5, 2))
    with pytest.raises(TypeError, match="phi must be a function of points"):
        Interface(1.0)
    never = Interface(lambda x: x[:, :1] ** 2 + 1)
    with pytest.raises(ValueError, match="did not arrive in 20 steps"):
        never.project(torch.rand(5, 2, dtype=DOUBLE))
    flat = Interface(lambda x: x.square().sum(1, True) - 1)
    with pytest.raises(ValueError, match="did not arrive"):
        flat.project(torch.zeros(1, 2))  # no direction to go
    x = torch.tensor([[1.0, 0.0]])
    with pytest.raises(ValueError, match="gradient at the interface, got none at 1 of 1"):
        Interface(lambda x: x.square().sum(1, keepdim=True)).normal(torch.zeros(1, 2))
    with pytest.raises(ValueError, match="derivatives along all 2 coordinates, got 0"):
        flat.slopes(Jet.at(x, directions=()), x)


def test_project_in_single_precision():
    circle = Interface(lambda x: x.square().sum(1, True) - 0.25)
    x = circle.project(Box(BOX).points(300).float())
    assert (x.norm(dim=1) - 0.5).abs().max() < 1e-6
    assert math.isclose(float(x.mean()), 0, abs_tol=0.05)
