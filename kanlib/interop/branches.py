"""A layer of splines beside a linear map of an activation, as other libraries have it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from torch import Tensor, nn

from kanlib._checks import check_input, check_option
from kanlib.nn.described import Described
from kanlib.nn.jets import Jet, propagate
from kanlib.nn.spline_layer import SplineLayer

__all__ = ["BranchedLayer"]

Activation = Literal["silu", "identity"]
ACTIVATIONS: dict[str, type[nn.Module]] = {"silu": nn.SiLU, "identity": nn.Identity}


class BranchedLayer(Described):
    """The layer y = s(map(x)) + W a(x) + c, with splines s and an activation a.

    It takes the place of a spline layer in a :class:`kanlib.nn.networks.KAN`, whose ``refine``,
    ``to_basis`` and ``free`` change the splines and leave the rest as it is.

    Args:
        splines: the spline layer, P inputs and Q outputs.
        activation: "silu" or "identity".
        map: a module on (..., P) before the splines, by default the identity.

    Attributes:
        base: W and c, an nn.Linear.

    Shape:
        Input (..., P), output (..., Q).

    Raises:
        TypeError: if ``splines`` is no spline layer.
        ValueError: if ``activation`` is unknown.

    Examples:
        >>> import torch
        >>> from kanlib import KnotGrid
        >>> layer = BranchedLayer(SplineLayer(2, 3, KnotGrid.uniform(4, 8)), activation="silu")
        >>> layer(torch.zeros(5, 2)).shape
        torch.Size([5, 3])
        >>> layer.base
        Linear(in_features=2, out_features=3, bias=True)
    """

    def __init__(
        self, splines: SplineLayer, activation: Activation = "silu", map: nn.Module | None = None
    ) -> None:
        super().__init__()
        check_option("activation", activation, ACTIVATIONS)
        if not isinstance(splines, SplineLayer):
            raise TypeError(f"splines must be a SplineLayer, got {type(splines).__name__}")
        self.map = nn.Identity() if map is None else map
        self.splines = splines
        self.activation = ACTIVATIONS[activation]()
        self.base = nn.Linear(
            splines.in_features,
            splines.out_features,
            device=splines.weight.device,
            dtype=splines.weight.dtype,
        )

    @property
    def weight(self) -> Tensor:
        """The weights of the splines."""
        return self.splines.weight

    def forward(self, x: Tensor) -> Tensor:
        """Evaluate the layer at x of shape (..., P)."""
        check_input(x, self.splines.in_features, self.weight)
        y: Tensor = self.splines(self.map(x)) + self.base(self.activation(x))
        return y

    def describe(self) -> dict[str, Any]:
        """Return the activation and the map; the parts describe themselves."""
        return {"activation": type(self.activation).__name__, "map": type(self.map).__name__}


@propagate.register
def _(module: BranchedLayer, jet: Jet) -> Jet:
    splines = propagate(module.splines, propagate(module.map, jet))
    branch = propagate(module.base, propagate(module.activation, jet))
    return replace(splines, channels=splines.channels + branch.channels)
