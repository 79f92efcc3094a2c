"""What a basis of functions on edges must offer, so that layers of it train, refine and are saved.

A layer holds x'_q = sum_p sum_i c[q, p, i] phi_i(x_p). Lemma 6 needs no splines: it holds for any
sequence of bases whose spans contain each other, since then phi_i = sum_j P[j, i] phi'_j, and the
coefficients P c of the finer basis are the same function.
"""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from kanlib._checks import as_integer, as_interval, check_types, shown

__all__ = ["FunctionBasis", "appended", "continued"]

Own = TypeVar("Own", bound="FunctionBasis")


class FunctionBasis(ABC):
    """A finite basis of functions of one variable.

    Six members make a basis: :attr:`size`, :attr:`domain`, :meth:`derivatives`, :meth:`refine`,
    :meth:`prolongation` and :meth:`describe`. :attr:`n`, :attr:`smoothness`, :attr:`nested` and
    :attr:`pieces` have defaults. :func:`kanlib.bases.projections.check_basis` tells whether they
    fit together.

    Two bases are equal if they are of one class and describe themselves alike. A basis has no
    state: nothing in it is trained.

    Examples:
        Powers of x, nested by degree:

        >>> class Powers(FunctionBasis):
        ...     def __init__(self, degree):
        ...         self.size, self.domain = degree + 1, (-1.0, 1.0)
        ...     def derivatives(self, x, order):
        ...         terms = [
        ...             [math.perm(k, m) * x ** max(k - m, 0) for k in range(self.size)]
        ...             for m in range(order + 1)
        ...         ]
        ...         return torch.stack([torch.stack(each, dim=-1) for each in terms])
        ...     def refine(self):
        ...         return Powers(2 * (self.size - 1))
        ...     def prolongation(self, finer):
        ...         return appended(self, finer)
        ...     def describe(self):
        ...         return {"degree": self.size - 1}
        >>> Powers(2).derivatives(torch.tensor(3.0), 1)
        tensor([[1., 3., 9.],
                [0., 1., 6.]])
        >>> Powers(2).refine(), Powers(1) == Powers(1)
        (Powers(degree=4), True)
    """

    #: Number of functions.
    size: int
    #: The interval (a, b) on which the functions are a basis.
    domain: tuple[float, float]
    #: How many derivatives the functions have, for :class:`kanlib.nn.jets.Jet`.
    smoothness: float = math.inf
    #: Whether the span of :meth:`refine` contains this one.
    nested: bool = True

    @property
    def n(self) -> int:
        """What counts the resolution and grows with :meth:`refine`; by default the size."""
        return self.size

    @property
    def pieces(self) -> Tensor:
        """Increasing points from a to b, float64, between which all functions are smooth.

        Integrals are sums over these pieces. By default there are as many, of one length, as
        there are functions.
        """
        a, b = self.domain
        return torch.linspace(a, b, self.size + 1, dtype=torch.float64, device="cpu")

    @abstractmethod
    def derivatives(self, x: Tensor, order: int) -> Tensor:
        """Return all functions and their derivatives up to an order.

        Made of operations that autograd differentiates in x, for every real x: what happens
        outside the domain is part of the basis, see :func:`continued`.

        Args:
            x: floating-point points of any shape (...).
            order: highest derivative, from 0 to 4.

        Returns:
            Tensor (order + 1, ..., size) in the dtype of x.
        """

    @abstractmethod
    def refine(self: Own) -> Own:
        """Return the next finer basis, which has a larger :attr:`n`."""

    @abstractmethod
    def prolongation(self: Own, finer: Own) -> Tensor:
        """Return the float64 matrix P (size of finer, size) of phi_i = sum_j P[j, i] phi'_j.

        Raises:
            ValueError: if ``finer`` is none that this basis can be prolonged to.
        """

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Return what the functions depend on, as plain numbers, strings and lists of them."""

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other) or not isinstance(other, FunctionBasis):
            return False
        return self.describe() == other.describe()

    def __hash__(self) -> int:
        return hash((type(self), json.dumps(self.describe())))

    def __repr__(self) -> str:
        parts = ", ".join(f"{name}={value}" for name, value in self.describe().items())
        return f"{type(self).__name__}({parts})"


def as_basis(name: str, basis: FunctionBasis) -> FunctionBasis:
    """Return a basis, or raise unless it has what layers need.

    Raises:
        TypeError: if it is no :class:`FunctionBasis`, or describes itself by more than plain
            values.
        ValueError: if its size or domain is not admissible.
    """
    if not isinstance(basis, FunctionBasis):
        raise TypeError(
            f"{name} must be a basis such as Chebyshev(8), or an object of your own subclass of "
            f"FunctionBasis, got {shown(basis)}"
        )
    kind = type(basis).__name__
    missing = [each for each in ("size", "domain") if not hasattr(basis, each)]
    if missing:
        raise TypeError(f"{name} must have a {missing[0]}, but {kind} has none: set it")
    as_integer(f"size of {kind}", basis.size, minimum=1)
    as_interval(f"domain of {kind}", basis.domain)
    try:
        json.dumps(basis.describe())
    except (TypeError, ValueError):
        raise TypeError(
            f"describe() of {kind} must return a dict of plain numbers, strings and lists, got "
            f"{shown(basis.describe())}"
        ) from None
    return basis


def continued(
    x: Tensor,
    domain: tuple[float, float],
    order: int,
    evaluate: Callable[[Tensor, int], Tensor],
) -> Tensor:
    """Return derivatives of functions that continue linearly from the ends of an interval.

    Args:
        x: points of any shape.
        domain: the interval (a, b).
        order: highest derivative.
        evaluate: function from points of [a, b] and an order to derivatives (order + 1, ..., size).

    Returns:
        Tensor (order + 1, ..., size), as :meth:`FunctionBasis.derivatives` returns it.

    Examples:
        >>> def square(x, order):
        ...     return torch.stack([x**2, 2 * x, 0 * x + 2])[: order + 1, ..., None]
        >>> continued(torch.tensor([0.5, 3.0]), (0.0, 1.0), 2, square)[..., 0]
        tensor([[0.2500, 5.0000],
                [1.0000, 2.0000],
                [2.0000, 0.0000]])
    """
    inside = torch.clamp(x, *domain)
    outside = (x - inside)[..., None]
    found = evaluate(inside, max(order, 1))
    parts = [found[0] + outside * found[1], found[1]]
    return torch.stack([*parts, *(found[2:] * (outside == 0))][: order + 1])


def appended(coarse: FunctionBasis, finer: FunctionBasis) -> Tensor:
    """Return the prolongation to a basis that begins with the functions of the coarse one.

    It appends zeros to the coefficients.

    Args:
        coarse: a basis.
        finer: a basis of the same class and domain, with at least as many functions.

    Raises:
        ValueError: if the finer basis is of another class or domain, or has fewer functions.

    Examples:
        >>> from kanlib import Legendre
        >>> appended(Legendre(2), Legendre(4))
        tensor([[1., 0., 0.],
                [0., 1., 0.],
                [0., 0., 1.],
                [0., 0., 0.],
                [0., 0., 0.]], dtype=torch.float64)
    """
    check_types(appended, locals())
    if type(finer) is not type(coarse) or finer.domain != coarse.domain or finer.size < coarse.size:
        raise ValueError(
            f"finer must be a {type(coarse).__name__} on {coarse.domain} with at least "
            f"{coarse.size} functions, got {shown(finer)}: use refine()"
        )
    return torch.eye(finer.size, coarse.size, dtype=torch.float64, device="cpu")
