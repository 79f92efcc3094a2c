"""Interfaces: one network for a function whose value or slope jumps where a field is zero.

A network that sees ``|phi|`` beside the coordinates is continuous, and its slope may jump where phi
is zero. Given phi in place of ``|phi|`` it continues what it is where phi > 0, and given -phi what
it is on the other side: so both sides have jets on the interface itself, and conditions between
them are terms like others::

    circle = Interface(lambda x: x.square().sum(dim=1, keepdim=True) - 0.25)

    def conditions(inner, outer, x):
        return circle.flux_jump(inner, outer, x, 5, 1)  # the value has no jump by itself

    places = Sampler([(-0.6, 0.6), (-0.6, 0.6)], 200, map=circle.project)
    loss = ResidualLoss(
        inside=Term(equation, points, pairs=[(0, 0), (1, 1)], features=circle.inputs),
        circle=Term(conditions, places, features=circle.sides),
    )
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import vjp

from kanlib._checks import as_integer, check_function, check_tensor, check_types
from kanlib.nn.jets import Jet

__all__ = ["Interface"]


class Interface:
    """The zeros of a level-set field phi, and what a network sees of it.

    Args:
        phi: function from points (N, P) to (N, 1), smooth where it is zero, with a gradient that
            does not vanish there. Negative is the inner side, positive the outer one.
        jump: whether the value may jump, too: the network then sees the sign of phi as one more
            input, -1 inside and 1 outside.

    Raises:
        TypeError: if phi is no function.

    Examples:
        >>> circle = Interface(lambda x: x.square().sum(dim=1, keepdim=True) - 4)
        >>> circle.inputs(torch.tensor([[1.0, 0.0]]))  # x, y and |phi|
        tensor([[1., 0., 3.]])
        >>> x = circle.project(torch.tensor([[1.0, 0.0]]))
        >>> x, circle.normal(x)
        (tensor([[2., 0.]]), tensor([[1., 0.]]))
    """

    def __init__(self, phi: Callable[[Tensor], Tensor], *, jump: bool = False) -> None:
        check_types(Interface.__init__, {"jump": jump})
        check_function("phi", phi, "function of points")
        self.phi, self.jump = phi, jump

    def inputs(self, x: Tensor) -> Tensor:
        """Return the inputs of the network at points (N, P): x, ``|phi|``, the sign for a jump."""
        field = self._field(x)
        return self._joined(x, field.abs(), torch.where(field < 0, -1.0, 1.0))

    @property
    def sides(self) -> list[Callable[[Tensor], Tensor]]:
        """The inputs on the inner and on the outer side, continued across, for ``features``."""
        return [lambda x: self._side(x, -1.0), lambda x: self._side(x, 1.0)]

    def _side(self, x: Tensor, sign: float) -> Tensor:
        field = self._field(x)
        return self._joined(x, sign * field, torch.full_like(field, sign))

    def _joined(self, x: Tensor, size: Tensor, sign: Tensor) -> Tensor:
        return torch.cat([x, size, sign.to(x)] if self.jump else [x, size], dim=1)

    def _field(self, x: Tensor) -> Tensor:
        """Return phi (N, 1)."""
        check_tensor("x", x)
        if x.ndim != 2 or not len(x):
            raise ValueError(f"x must have shape (N, P) with N >= 1, got {(*x.shape,)}")
        field = self.phi(x)
        if not isinstance(field, Tensor) or field.shape != (len(x), 1):
            got = tuple(field.shape) if isinstance(field, Tensor) else type(field).__name__
            raise ValueError(
                f"phi must return ({len(x)}, 1), one value for each point, got {got}: keep the "
                "column, as in x[:, :1] or sum(dim=1, keepdim=True)"
            )
        return field

    def _slope(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return phi (N, 1) and its gradient (N, P)."""
        check_tensor("x", x)
        field, pull, *_ = vjp(self._field, x)
        return field, pull(torch.ones_like(field))[0]

    def normal(self, x: Tensor) -> Tensor:
        """Return the unit normals (N, P), from the inner to the outer side.

        Raises:
            ValueError: if the gradient of phi vanishes at a point.
        """
        slope = self._slope(x)[1]
        length = slope.norm(dim=1, keepdim=True)
        if not (length > 0).all():
            raise ValueError(
                f"phi must have a gradient at the interface, got none at {int((length <= 0).sum())}"
                f" of {len(x)} points: take phi whose zeros are simple, and points on it"
            )
        return slope / length

    def project(self, x: Tensor, steps: int = 20) -> Tensor:
        """Return points (N, P) of the interface, near points of any place.

        Newton's method along the gradient of phi, for ``map`` of a
        :class:`kanlib.objectives.samplers.Sampler`.

        Args:
            x: points (N, P), not where the gradient of phi vanishes.
            steps: steps of the method.

        Raises:
            ValueError: if it ends beside the interface.
        """
        for _ in range(as_integer("steps", steps, minimum=1)):
            field, slope = self._slope(x)
            x = x - field * slope / slope.square().sum(dim=1, keepdim=True)
        field, slope = self._slope(x)
        beside = field.abs() > 1e3 * torch.finfo(x.dtype).eps * (1 + x.abs().amax()) * slope.norm(
            dim=1, keepdim=True
        )
        lost = beside | ~field.isfinite()
        if lost.any():
            raise ValueError(
                f"x must lie near the interface, got {int(lost.sum())} of {len(x)} points that did "
                f"not arrive in {steps} steps: begin in a box around it, and where the gradient of "
                "phi does not vanish"
            )
        return x

    def slopes(self, u: Jet, x: Tensor) -> Tensor:
        """Return the normal derivatives (N, Q) of a jet at points (N, P) of the interface.

        Raises:
            ValueError: if the jet has no derivative along each coordinate.
        """
        normal = self.normal(x)
        if u.directions != x.shape[1]:
            raise ValueError(
                f"u must have first derivatives along all {x.shape[1]} coordinates, got "
                f"{u.directions}: leave out directions= of its term"
            )
        along = [u.d(a) * normal[:, a : a + 1] for a in range(x.shape[1])]
        return torch.stack(along).sum(dim=0)

    def flux_jump(
        self,
        inner: Jet,
        outer: Jet,
        x: Tensor,
        inner_coefficient: Tensor | float,
        outer_coefficient: Tensor | float,
    ) -> Tensor:
        """Return the jump of the flux, a_o du_o/dn - a_i du_i/dn, of shape (N, Q).

        Args:
            inner: jet on the inner side, the first of :attr:`sides`.
            outer: jet on the outer side.
            x: points (N, P) of the interface.
            inner_coefficient: a_i, a number or a column (N, 1).
            outer_coefficient: a_o.
        """
        flux = outer_coefficient * self.slopes(outer, x)
        return flux - inner_coefficient * self.slopes(inner, x)
