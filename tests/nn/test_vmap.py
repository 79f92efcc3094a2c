"""torch.func.vmap over points and over networks, for all modules that combine others."""

import copy

import pytest
import torch
from torch.func import functional_call, hessian, jacrev, stack_module_state, vmap

import kanlib
from kanlib import (
    KAN,
    MLP,
    Ensemble,
    ExpansionKAN,
    HardConditions,
    Interface,
    Jet,
    TimeSlabs,
    propagate,
)

pytestmark = pytest.mark.usefixtures("float64")
BOX = [(-1, 1), (-1, 1)]


def kan(inputs=2, **options):
    return KAN([inputs, 3, 1], n=4, r=5, domain=(-1, 1), **options)


def ramp(x):
    return 1 - x[:, :1] ** 2  # for points (N, P), as functions are documented


def hard(network=None):
    return HardConditions(kan() if network is None else network, lambda x: x[:, 1:], ramp)


class Kinked(torch.nn.Module):
    """A network behind a level set."""

    def __init__(self):
        super().__init__()
        self.network = kan(3)
        self.circle = Interface(lambda x: x.square().sum(dim=1, keepdim=True) - 0.25)

    def forward(self, x):
        return self.network(self.circle.inputs(x))


MODULES = {
    "periodic splines": lambda: kan(periodic=[0], periodic_as="splines"),
    "circle": lambda: kan(periodic=[0]),
    "relu": lambda: kan(basis="relu", normalisation="tanh"),
    "free knots": lambda: kan().free(),
    "mlp": lambda: MLP([2, 4, 1], "tanh"),
    "expansion": lambda: ExpansionKAN([2, 3, 1], kanlib.Legendre(4), periodic=[0]),
    "hard": hard,
    "box": lambda: HardConditions.on_box(kan(), BOX, value={(1, -1): ramp}, slope={(0, 1): -2.0}),
    "slabs": lambda: TimeSlabs([-1, 0.1, 1], [kan(), kan()]),
    "slabs of hard": lambda: TimeSlabs([-1, -0.2, 0.3, 1], [hard(), hard(), hard()]),
    "hard of slabs": lambda: hard(TimeSlabs([-1, 0, 1], [kan(), kan()])),
    "interface": Kinked,
}


@pytest.fixture(params=MODULES.values(), ids=MODULES)
def module(request):
    torch.manual_seed(0)
    return request.param()


def points():
    torch.manual_seed(1)
    return 1.8 * torch.rand(7, 2) - 0.9


def test_vmap_over_points_is_the_module(module):
    x = points()
    expected = module(x)
    torch.testing.assert_close(vmap(module)(x[:, None])[:, 0], expected)
    torch.testing.assert_close(vmap(module)(torch.stack([x, x.flip(0)]))[1], expected.flip(0))
    if not isinstance(module, Kinked):  # whose function takes rows
        torch.testing.assert_close(vmap(module)(x), expected)


def test_derivatives_under_vmap_are_those_of_jets(module):
    x = points()
    found = propagate(module, Jet.at(x, pairs=[(0, 1)]))

    def value(point):
        return module(point[None])[0, 0]

    slopes = torch.cat([found.d(0), found.d(1)], dim=1)
    torch.testing.assert_close(vmap(jacrev(value))(x), slopes)
    torch.testing.assert_close(vmap(hessian(value))(x)[:, 0, 1], found.d(0, 1)[:, 0])


def test_vmap_over_networks_is_each_of_them(module):
    x, other = points(), copy.deepcopy(module)
    with torch.no_grad():
        for p in other.parameters():
            p.mul_(1.1)
    states = stack_module_state([module, other])
    both = vmap(lambda p, b: functional_call(module, (p, b), (x,)))(*states)
    torch.testing.assert_close(both, torch.stack([module(x), other(x)]))


def test_vmap_over_points_of_an_ensemble():
    ensemble, x = Ensemble([kan(), kan()]), points()
    torch.testing.assert_close(vmap(ensemble)(x[:, None])[:, :, 0], ensemble(x).transpose(0, 1))
    with pytest.raises(ValueError, match=r"x must have shape \(N, P\)"):
        vmap(ensemble)(x)


def test_slabs_compile_to_one_program():
    """A program that is exported for other points than it was traced with is right there, too."""
    slabs = TimeSlabs([-1, 0.1, 1], [kan(), kan()])
    x = points()
    program = torch.export.export(slabs, (x,), dynamic_shapes=({0: torch.export.Dim("N")},))
    torch.testing.assert_close(program.module()(x[:4] * 0.5), slabs(x[:4] * 0.5))
