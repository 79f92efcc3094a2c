"""Known functions that go into residuals in the place of networks."""

from dataclasses import replace

import torch
from torch import nn
from torch.func import jvp

from kanlib.nn.jets import propagate


def residuals(problem, function):
    """The residuals of the terms of a problem, without weights, of a function of its inputs."""
    model = Function(function)
    return {
        name: term.residual(*(propagate(model, jet) for jet in term.jets), term.points)
        for name, term in problem.loss().terms.items()
    }


class Function(nn.Module):
    """A smooth function of the network's inputs, (N, P) to (N, 1), as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, z):
        return self.function(z)


@propagate.register
def _(module: Function, jet):
    """Apply the chain rule to u(z): u_a = u' z_a, and u_ab = u'' z_a z_b + u' z_ab."""

    def slope(z, direction):
        return jvp(module.function, (z,), (direction,))[1]

    z = jet.value
    first = [slope(z, jet.d(a)) for a in range(jet.directions)]
    second = [
        jvp(lambda z, a=a: slope(z, jet.d(a)), (z,), (jet.d(b),))[1] + slope(z, jet.d(a, b))
        for a, b in jet.pairs
    ]
    return replace(jet, channels=torch.stack([module(z), *first, *second]))
