"""Hard conditions: boundary and initial values that a network has by construction.

With functions g and d of the coordinates, where g has the given values and d vanishes where they
are given, the solution

    u(x) = g(x) + d(x) N(x)

has these values whatever the network N, as proposed by I. E. Lagaris, A. Likas and D. I. Fotiadis,
IEEE Transactions on Neural Networks 9 (1998). Refinement of N keeps u, and with it the conditions.
Derivatives of u follow by the product rule from those of g, d and N.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from kanlib._checks import as_list, as_number, check_function, check_tensor, check_types, shown
from kanlib.nn.described import check_copyable
from kanlib.nn.jets import Jet, propagate
from kanlib.nn.networks import num_trainable
from kanlib.nn.transfinite import (
    Folded,
    Given,
    Lift,
    Vanishing,
    box_of,
    check_agree,
    check_columns,
)

__all__ = ["HardConditions"]

#: Jets of g, d and the inputs at so many sets of points are kept.
KEPT = 32


class HardConditions(nn.Module):
    """The solution u = g + d N, or g + d N(inputs(x)), of a network N.

    It is a network like N: with derivatives, ``refine()``, training over levels, races, ensembles
    and checkpoints. Functions take points (N, P), row by row, and must be differentiable as often
    as derivatives of u are asked for; they are constants of the training. Their jets are kept for
    points that stay, and follow tensors of functions that are modules. Where anything else in a
    function changes, assign a new one, as in ``u.g = other``.

    Args:
        network: the network N.
        g: function that returns (N, 1) or (N, Q), or a number.
        d: function that returns (N, 1), or (N, Q) with a factor for each output.
        inputs: function that returns the inputs of the network, by default the points themselves.
        boundary: points of shape (M, P) where d must vanish, if that is to be checked.

    Raises:
        TypeError: if the network is no module, or g or d no function.
        ValueError: if d does not vanish at the points of the boundary.

    Examples:
        Zero on the unit circle, with any network:

        >>> from kanlib import KAN
        >>> angle = torch.linspace(0, 6.28, 50)[:, None]
        >>> circle = torch.cat([angle.cos(), angle.sin()], dim=1)
        >>> network = KAN([2, 5, 1], n=4, r=5, domain=(-1, 1))
        >>> u = HardConditions(network, 0.0, lambda x: 1 - x.square().sum(1, True), boundary=circle)
        >>> bool(u(circle).abs().max() < 1e-6)
        True
    """

    network: Any
    g: Callable[[Tensor], Tensor] | float
    d: Callable[[Tensor], Tensor]
    inputs: Callable[[Tensor], Tensor] | None

    def __init__(
        self,
        network: nn.Module,
        g: Callable[[Tensor], Tensor] | float,
        d: Callable[[Tensor], Tensor],
        *,
        inputs: Callable[[Tensor], Tensor] | None = None,
        boundary: Tensor | None = None,
    ) -> None:
        super().__init__()
        check_types(HardConditions.__init__, {"network": network, "boundary": boundary})
        self.network = network
        self.g = g if callable(g) else as_number("g", g)
        self.d, self.inputs = d, inputs
        for name, function in {"g": g, "d": d, "inputs": inputs}.items():
            if callable(function) or name == "d" or (name == "inputs" and inputs is not None):
                check_function(name, function, "function of points")
            own = function.parameters() if isinstance(function, nn.Module) else ()
            if any(p.requires_grad for p in own):
                raise ValueError(
                    f"{name} must be a constant of the training, got {shown(function)} with "
                    "trainable parameters: freeze them with requires_grad_(False)"
                )
        self._known: OrderedDict[Any, Any] = OrderedDict()
        if boundary is not None:
            self._check_vanishes(boundary)

    @classmethod
    def on_box(
        cls,
        network: nn.Module,
        intervals: Sequence[tuple[float, float]],
        *,
        value: Given = None,
        slope: Given = None,
        of: Sequence[str] | None = None,
    ) -> HardConditions:
        """Return the solution with given values and slopes on faces of a box.

        A slope is the derivative along the coordinate of the face. On a face with a value and a
        slope, as of an initial position and velocity or a clamped plate, d vanishes twice. On one
        with a slope alone, the network sees the coordinate through a map with slope zero there, so
        that u - g is even across the face; solutions whose third derivative differs from that of g
        are then only approximated to low order, and better served by a Term. The data are
        blended over the box, see :mod:`kanlib.nn.transfinite`.

        Args:
            network: the network N.
            intervals: (low, high) of each of the P coordinates.
            value: a number, or a function of points (N, P) that returns (N, 1) or (N, Q), for all
                faces; or a dictionary with one for some: (j, place) is the face where
                coordinate j is place.
            slope: slopes, in the same form.
            of: names of the outputs that have these conditions, by default all. Give others to
                the result by a second call.

        Raises:
            TypeError: if an argument has the wrong type.
            ValueError: if the intervals do not fit the network, a face is none of the box, data
                have another shape or do not agree where faces meet, an output is unknown, or ``of``
                goes with a face that has a slope alone.

        Examples:
            The heat equation on [-1, 1] from sin(pi x), zero at both ends:

            >>> from kanlib import KAN
            >>> network = KAN([2, 5, 1], n=4, domain=(-1, 1), input_domain=[(-1, 1), (0, 2)])
            >>> start = lambda x: torch.sin(torch.pi * x[:, :1])
            >>> u = HardConditions.on_box(
            ...     network,
            ...     [(-1, 1), (0, 2)],
            ...     value={(0, -1): 0.0, (0, 1): 0.0, (1, 0): start},
            ... )
            >>> x = torch.tensor([[0.5, 0.0], [1.0, 1.5]])
            >>> u(x).detach().round(decimals=6) + 0.0
            tensor([[1.],
                    [0.]])
        """
        check_types(HardConditions.__init__, {"network": network})
        columns: tuple[float, ...] = ()
        if of is not None:
            outputs, chosen = getattr(network, "outputs", ()), as_list("of", of, "names")
            if not chosen or any(name not in outputs for name in chosen):
                raise ValueError(
                    f"of must list outputs of the network, which has {[*outputs]}, got "
                    f"{shown(of)}: name them, as in KAN(..., outputs=('u', 'p'))"
                )
            columns = tuple(float(name in chosen) for name in outputs)
        box = box_of(intervals, value, slope, columns)
        widths = getattr(network, "widths", None)
        if widths and widths[0] != len(box.intervals):
            raise ValueError(
                f"intervals must hold one pair for each of the {widths[0]} inputs of the network, "
                f"got {len(box.intervals)}"
            )
        known = int(sum(columns)) if columns else widths[-1] if widths else None
        check_agree(box, next(network.parameters(), torch.empty(0)).detach(), known)
        data = [c.data for own in box.conditions for c in own]
        folded = any(any(box.folded(j)) for j in range(len(box.intervals)))
        return cls(
            network,
            Lift(box) if any(data) else 0.0,
            Vanishing(box),
            inputs=Folded(box) if folded else None,
        )

    @property
    def n(self) -> int:
        """Number of intervals of the splines of the network."""
        n: int = self.network.n
        return n

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs of the network."""
        names: tuple[str, ...] = getattr(self.network, "outputs", ())
        return names

    @property
    def num_parameters(self) -> int:
        """Number of trainable parameters."""
        return num_trainable(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return u at points x of shape (..., P).

        Raises:
            ValueError: if g or d does not return one column, or one for each output.
        """
        inner: Tensor = self.network(x if self.inputs is None else _at(self.inputs, x))
        shift = _at(self.g, x) if callable(self.g) else self.g
        factor = _at(self.d, x)
        if callable(self.g):
            check_columns("g", shift, x, inner.shape[-1])
        check_columns("d", factor, x, inner.shape[-1])
        return shift + factor * inner

    def refine(self, *arguments: Any) -> HardConditions:
        """Return the same function with a refined network.

        Args:
            *arguments: those of the network's own ``refine``.

        Returns:
            A new module; this one is untouched.
        """
        check_copyable(self, "a copy of a network with hard conditions")
        return copy.deepcopy(self, {id(self.network): self.network.refine(*arguments)})

    def entered(self, jet: Jet) -> Jet:
        """Return the jet of the inputs of the network."""
        return self._fixed(jet)[2]

    def imposed(self, jet: Jet, inner: Jet) -> Jet:
        """Return the jet of u.

        Args:
            jet: jet of the points.
            inner: jet of the network.

        Raises:
            ValueError: if g or d does not return one column, or one for each output.
        """
        shift, factor, _ = self._fixed(jet)
        for name, part in {"g": shift, "d": factor}.items():
            if part is not None:
                check_columns(name, part.value, jet.value, inner.channels.shape[-1])
        found = factor.times(inner)
        return found if shift is None else replace(found, channels=found.channels + shift.channels)

    def _fixed(self, jet: Jet) -> tuple[Jet | None, Jet, Jet]:
        """Return the jets of g, d and the inputs, which are kept for points that stay."""
        channels = jet.channels
        hidden = torch.compiler.is_compiling() or torch._C._functorch.get_interpreter_stack()
        functions = self.g, self.d, self.inputs
        held = channels, *(t.detach() for each in functions for t in _tensors(each))
        if hidden or channels.requires_grad or any(t.is_inference() for t in held):
            return self._computed(jet)
        places = tuple((t.data_ptr(), t.shape, t.stride(), t._version) for t in held)
        key = (
            places,
            *map(id, functions),
            channels.dtype,
            channels.device,
            jet.directions,
            jet.pairs,
        )
        if key not in self._known:
            with torch.enable_grad():
                found = self._computed(jet)
            for name, part in zip(("g", "d", "inputs"), found, strict=True):
                if part is not None and part.channels.requires_grad:
                    raise ValueError(
                        f"{name} must be a constant of the training, but depends on a tensor that "
                        "requires a gradient: detach it, or freeze it with requires_grad_(False)"
                    )
            # What the key names is kept, too, so that nothing else takes its place in memory.
            self._known[key] = held, functions, found
            if len(self._known) > KEPT:
                self._known.popitem(last=False)
        kept: tuple[Jet | None, Jet, Jet] = self._known[key][-1]
        return kept

    def _computed(self, jet: Jet) -> tuple[Jet | None, Jet, Jet]:
        shift = jet.through(partial(_at, self.g), name="g") if callable(self.g) else None
        factor = jet.through(partial(_at, self.d), name="d")
        if not callable(self.g) and self.g:
            constant = torch.zeros_like(factor.channels)
            constant[0] = self.g
            shift = replace(factor, channels=constant)
        if self.inputs is None:
            return shift, factor, jet
        inputs = jet.through(partial(_at, self.inputs), name="inputs")
        return shift, factor, inputs

    def _check_vanishes(self, boundary: Tensor) -> None:
        check_tensor("boundary", boundary)
        if boundary.ndim != 2 or not len(boundary):
            raise ValueError(
                f"boundary must have shape (M, P) with M >= 1, got {tuple(boundary.shape)}"
            )
        between = 0.5 * (boundary + boundary.flip(0))
        size, scale = self.d(boundary).detach().abs(), self.d(between).detach().abs()
        off, most = size.flatten(1).amax(1), float(torch.cat([size, scale]).max())
        if not float(off.max()) <= torch.finfo(size.dtype).eps ** 0.5 * most:
            point = boundary[off.argmax()].tolist()
            raise ValueError(
                f"d must vanish on the boundary, but is {float(off.max()):.3g} at {point}: choose "
                "a factor that is zero where the values of g hold, such as 1 - x**2 at x = -1, 1"
            )

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy or a file holds: all but the jets that are kept."""
        return {**self.__dict__, "_known": OrderedDict()}

    def extra_repr(self) -> str:
        """Show the functions."""
        shown_g = shown(self.g) if not callable(self.g) else _name(self.g)
        return f"g={shown_g}, d={_name(self.d)}"


def _at(function: Callable[[Tensor], Any], x: Tensor) -> Any:
    """Return a function of points (N, P) at points (..., P), such as one point under vmap."""
    if x.ndim == 2:
        return function(x)
    found = function(x.reshape(-1, x.shape[-1]))
    fits = isinstance(found, Tensor) and found.ndim == 2 and len(found) == x.shape[:-1].numel()
    return found.reshape(*x.shape[:-1], found.shape[-1]) if fits else found


def _tensors(function: Any) -> Iterator[Tensor]:
    """Yield the parameters and buffers of a function that is a module, or has such data."""
    box = getattr(function, "box", None)
    data = [c.data for own in box.conditions for c in own] if box is not None else [function]
    for each in data:
        if isinstance(each, nn.Module):
            yield from each.parameters()
            yield from each.buffers()


def _name(function: Any) -> str:
    return getattr(function, "__name__", type(function).__name__)


@propagate.register
def _(module: HardConditions, jet: Jet) -> Jet:
    return module.imposed(jet, propagate(module.network, module.entered(jet)))
