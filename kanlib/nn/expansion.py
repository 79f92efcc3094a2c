"""Networks whose edges are expansions in any basis, beside those of splines.

A basis is an object that offers what :class:`kanlib.bases.protocol.FunctionBasis` says: those of
``kanlib.bases``, or one of your own. Layers evaluate all functions of a basis at each point, so
that their cost grows with its size, where splines need r functions however many there are.
"""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from kanlib._checks import as_integer, as_number, check_factory, check_input
from kanlib.bases.projections import nesting_error
from kanlib.bases.protocol import FunctionBasis, as_basis
from kanlib.kernels import operator
from kanlib.kernels.chain_rule import Higher, check_channels, products, total
from kanlib.nn.described import Described, alteration, check_copyable, check_own_weight, check_same
from kanlib.nn.maps import Kind
from kanlib.nn.networks import (
    calibrate,
    chain,
    check_chain,
    checked_names,
    checked_widths,
    first_weight,
    input_maps,
    num_trainable,
)

__all__ = ["ExpansionKAN", "ExpansionLayer"]

First = Literal["basis", "affine", "linear"]
FIRST_LAYERS: tuple[First, ...] = get_args(First)


class ExpansionLayer(Described):
    """A layer x'_q = sum_p sum_i weight[q, p, i] phi_i(x_p) in the functions of any basis.

    Initial coefficients are ``init_scale`` times independent standard normal numbers, drawn on the
    CPU in float64, so that one seed gives one function on every device and in every dtype. What the
    functions do outside of their domain is up to the basis.

    Args:
        in_features: number of inputs P.
        out_features: number of outputs Q.
        basis: the basis, the same on all edges.
        init_scale: standard deviation of the initial coefficients.
        device: device of the weights.
        dtype: floating-point type of the weights.

    Shape:
        Input (..., P), output (..., Q), ``weight`` (Q, P, size of the basis).

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if a size is below one.

    Examples:
        >>> from kanlib.bases.polynomials import Chebyshev
        >>> layer = ExpansionLayer(2, 3, Chebyshev(4))
        >>> layer(torch.rand(10, 2)).shape, layer.refine().weight.shape
        (torch.Size([10, 3]), torch.Size([3, 2, 9]))
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        basis: FunctionBasis,
        *,
        init_scale: float = 0.1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.in_features = as_integer("in_features", in_features, minimum=1)
        self.out_features = as_integer("out_features", out_features, minimum=1)
        self.basis = as_basis("basis", basis)
        self.init_scale = as_number("init_scale", init_scale, 0)
        check_factory(device, dtype)
        shape = (self.out_features, self.in_features, basis.size)
        self.weight = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw new initial weights from torch's global generator."""
        draw = torch.randn(self.weight.shape, dtype=torch.float64, device="cpu")
        self.weight.copy_(self.init_scale * draw)

    @property
    def n(self) -> int:
        """What counts the resolution of the basis, and grows with :meth:`refine`."""
        return self.basis.n

    @property
    def domain(self) -> tuple[float, float]:
        """The interval (a, b) of the basis."""
        return self.basis.domain

    def forward(self, x: Tensor) -> Tensor:
        """Evaluate the layer at x of shape (..., P); NaN inputs give NaN outputs."""
        check_input(x, self.in_features, self.weight)
        return self._compute(x[None], ())[0]

    def propagate(self, channels: Tensor, pairs: Higher = ()) -> Tensor:
        """Evaluate the layer and propagate derivatives of its inputs through it.

        Args:
            channels: values, first derivatives and higher derivatives, (1 + D + K, ..., P), see
                :meth:`kanlib.nn.spline_layer.SplineLayer.propagate`.
            pairs: the directions of each higher derivative, two to four, and of all its parts.

        Returns:
            The same of the outputs, (1 + D + K, ..., Q).

        Raises:
            TypeError: if ``channels`` is not a tensor of the dtype of the weights.
            ValueError: if shapes or directions do not fit.
        """
        check_input(channels, self.in_features, self.weight, "channels")
        check_channels(channels.shape, pairs)
        return self._compute(channels, pairs)

    def _compute(self, channels: Tensor, pairs: Higher) -> Tensor:
        """Evaluate in single precision at least, whatever torch.autocast says."""
        dtype = self.weight.dtype
        working = operator.working_dtype(dtype)
        with operator.without_autocast(channels.device):
            found = self.jets(channels.to(working), pairs).flatten(-2)
            return linear(found, self.weight.to(working).flatten(1)).to(dtype)

    def jets(self, channels: Tensor, pairs: Higher = ()) -> Tensor:
        """Return the jets of all functions of the basis at all inputs, by the chain rule.

        Args:
            channels: as for :meth:`propagate`.
            pairs: as for :meth:`propagate`.

        Returns:
            Tensor (1 + D + K, ..., P, size of the basis).
        """
        directions, z = len(channels) - 1 - len(pairs), channels[..., None]
        orders = self.basis.derivatives(channels[0], max([min(directions, 1), *map(len, pairs)]))
        first = [orders[1] * z[1 + a] for a in range(directions)]
        higher = [total(terms, [*orders], z) for terms in products(directions, tuple(pairs))]
        return torch.stack([orders[0], *first, *higher])

    def refine(self, basis: FunctionBasis | None = None) -> ExpansionLayer:
        """Return a new layer in a finer basis, which is the same function if bases are nested.

        Args:
            basis: the finer basis, by default what the ``refine()`` of the present one returns.

        Raises:
            TypeError: if ``basis`` is none.
            ValueError: if the present basis cannot be prolonged to it.

        Warns:
            RuntimeWarning: if the bases are not nested, how much the function may change.
        """
        finer = as_basis("basis", self.basis.refine() if basis is None else basis)
        matrix = self.basis.prolongation(finer)
        check_copyable(self, "a copy of a layer")
        check_own_weight(self, "in another basis")
        layer = copy.deepcopy(self, {id(self.weight): None})
        layer.basis = finer
        weight = self.weight.detach().cpu().double() @ matrix.T
        layer.weight = nn.Parameter(weight.to(self.weight), self.weight.requires_grad)
        if not self.basis.nested:
            warnings.warn(
                f"refine() changes the functions of {self.basis} by up to "
                f"{nesting_error(self.basis, finer):.2g} of their size, as it is not nested in "
                f"{finer}: take a nested basis, such as Chebyshev, or splines",
                RuntimeWarning,
                stacklevel=2,
            )
        elif alteration(self, ExpansionLayer):
            check_same(self, layer, self.in_features, "refine")
        return layer

    def describe(self) -> dict[str, Any]:
        """Return what defines the function besides the weights, as plain values."""
        return {
            "basis": type(self.basis).__name__,
            "n": self.n,
            "options": json.loads(json.dumps(self.basis.describe())),  # as a file has them
            "in_features": self.in_features,
            "out_features": self.out_features,
        }

    def extra_repr(self) -> str:
        """Show sizes and basis."""
        return f"{self.in_features}, {self.out_features}, {self.basis}"


class ExpansionKAN(nn.Module):
    """A Kolmogorov-Arnold network whose edges are expansions in any basis.

    It trains, refines, races and is saved as a :class:`kanlib.nn.networks.KAN` is, and has jets and
    Jacobians. What is about splines needs a KAN: free knots, masks and pruning, importance,
    formulas, pictures of the network, penalties on edges, export, carried optimizer states, and
    levels within an optimizer (Cycle, Additive, multigrid).

    Args:
        widths: layer widths, e.g. [2, 5, 1].
        basis: the basis of every edge.
        first: "basis" for edges in the first layer, too; "affine" ("linear") for a trainable map
            with (without) bias there.
        hidden_basis: the basis behind the first layer, if not ``basis``.
        init_scale: standard deviation of the initial coefficients. Polynomials and wavelets grow
            fast outside of their domain, so that behind hidden values that leave it the start is
            wild: take domain=(-1, 1), a ``normalisation``, or less.
        input_domain: one interval (low, high) for each coordinate, mapped affinely onto the domain
            of the basis; by default inputs enter as they are.
        periodic: coordinates in which the network is periodic, see :class:`kanlib.nn.maps.Circle`.
        normalisation: None, or "sigmoid" or "tanh": a map of all hidden values onto the domain of
            the basis that follows (see :class:`kanlib.nn.maps.Normalisation`).
        outputs: names of the outputs, for :meth:`kanlib.nn.jets.Jet.of`.
        device: device of the parameters.
        dtype: floating-point type of the parameters.

    Shape:
        Input (..., widths[0]), output (..., widths[-1]).

    Raises:
        TypeError: if the basis is none.
        ValueError: if the widths or an option are not admissible.

    Examples:
        >>> from kanlib.bases.polynomials import Legendre
        >>> model = ExpansionKAN([2, 5, 1], Legendre(7), first="affine", dtype=torch.float64)
        >>> fine = model.refine()
        >>> model.num_parameters, fine.n, fine.num_parameters
        (55, 14, 90)
        >>> x = torch.rand(100, 2, dtype=torch.float64)
        >>> torch.allclose(model(x), fine(x), rtol=1e-12)
        True
    """

    #: Names of the outputs, if they have some.
    outputs: tuple[str, ...] = ()

    def __init__(
        self,
        widths: Sequence[int],
        basis: FunctionBasis,
        first: First = "basis",
        *,
        hidden_basis: FunctionBasis | None = None,
        init_scale: float = 0.1,
        input_domain: Sequence[tuple[float, float]] | None = None,
        periodic: Sequence[int] = (),
        normalisation: Kind | None = None,
        outputs: Sequence[str] | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.widths = checked_widths(widths)
        if outputs is not None:
            self.outputs = checked_names(outputs, self.widths[-1])
        check_chain(self.widths, first, FIRST_LAYERS, normalisation)
        check_factory(device, dtype)
        basis = as_basis("basis", basis)
        hidden = basis if hidden_basis is None else as_basis("hidden_basis", hidden_basis)
        edges = partial(ExpansionLayer, init_scale=init_scale, device=device, dtype=dtype)
        maps = input_maps(input_domain, periodic, self.widths[0], basis.domain, device, dtype)
        self.layers = chain(
            self.widths, maps, edges, (basis, hidden), first, normalisation, device, dtype
        )

    @property
    def expansion_layers(self) -> Iterator[ExpansionLayer]:
        """The layers of expansions, from input to output, those within other modules included."""
        return (part for part in self.layers.modules() if isinstance(part, ExpansionLayer))

    @property
    def n(self) -> int:
        """The resolution of the bases (the largest, should layers differ)."""
        return max(layer.n for layer in self.expansion_layers)

    @property
    def num_parameters(self) -> int:
        """Number of trainable parameters."""
        return num_trainable(self)

    def forward(self, x: Tensor) -> Tensor:
        """Evaluate the network at x of shape (..., widths[0])."""
        check_input(x, self.widths[0], first_weight(self.layers))
        for layer in self.layers:
            x = layer(x)
        return x

    def refine(
        self, basis: FunctionBasis | Callable[[FunctionBasis], FunctionBasis] | None = None
    ) -> ExpansionKAN:
        """Return a new network in a finer basis, which is the same function if bases are nested.

        Args:
            basis: the finer basis of all layers, or a function from the basis of a layer to the
                finer one; by default what the ``refine()`` of each returns.

        Returns:
            A new network; this one is untouched.

        Raises:
            TypeError: if ``basis`` is none.
            ValueError: if a layer cannot be prolonged to it.

        Warns:
            RuntimeWarning: if the bases are not nested, how much the functions may change.
        """
        check_copyable(self, "a copy of a network")
        layers, given = [*self.expansion_layers], cast(Any, basis)
        own = callable(basis) and not isinstance(basis, FunctionBasis | type)
        changed = {id(v): v.refine(given(v.basis) if own else given) for v in layers}
        other = copy.deepcopy(self, changed)
        if alteration(self, ExpansionKAN) and all(layer.basis.nested for layer in layers):
            check_same(self, other, self.widths[0], "refine")
        return other

    def calibrate_(self, x: Tensor) -> ExpansionKAN:
        """Rescale the leading linear map so that its outputs on x cover the domain of the basis.

        See :meth:`kanlib.nn.networks.KAN.calibrate_`.

        Args:
            x: representative inputs of shape (N, widths[0]), N >= 2.

        Returns:
            This network, changed in place.

        Raises:
            TypeError: if x is not a tensor of the dtype of the network.
            ValueError: if the first layer is no linear map or altered, hidden values are
                normalised, or x is not a finite (N, P) tensor.
        """
        calibrate(self, x, next(self.expansion_layers).domain)
        return self

    def extra_repr(self) -> str:
        """Show widths and the number of parameters."""
        return f"widths={self.widths}, parameters={self.num_parameters}"
