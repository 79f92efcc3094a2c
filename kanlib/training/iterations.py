"""The four iterations of Table 1, around any torch optimizer.

A step turns a gradient, in one basis, into a displacement, in another:

    gradient   the basis in which the optimizer sees the gradient: nabla_u L = A nabla_w L
    geometry   the basis in which it takes the step; w = A^T u

The optimizer's own preconditioner D (I, Adam's, that of L-BFGS) acts on the gradient it sees.
Every iteration can be realised in spline weights u and in ReLU weights w, whichever the layers of
the model hold, and visits the same functions:

    geometry  gradient  in u                                in w
    relu      relu      u - eta A^{-T} D A^{-1} nabla_u L   w - eta D nabla_w L
    relu      spline    u - eta A^{-T} D nabla_u L          w - eta D A nabla_w L
    spline    spline    u - eta D nabla_u L                 w - eta A^T D A nabla_w L
    spline    relu      u - eta D A^{-1} nabla_u L          w - eta A^T D nabla_w L
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer

from kanlib._checks import BASES, Basis, check_function, check_option
from kanlib.nn.spline_layer import SplineLayer, convert_gradients, convert_weights
from kanlib.objectives.unknowns import trained

__all__ = ["Iteration"]

#: Options that pull the weights themselves, not only along gradients.
DECAYS = ("weight_decay", "lambd")


@dataclass(frozen=True)
class Iteration:
    """One row of Table 1: an optimizer for the geometry and the gradient of either basis.

    Pass it to ``train`` or ``train_multilevel`` as ``optimizer=``, or call it with a model for a
    torch optimizer. Parameters outside spline layers are optimized as usual. Inside a step the
    weights of transformed layers hold the displacement since its start, so that no digits are lost.

    Args:
        make: function from parameters to a torch optimizer, e.g. ``partial(Adam, lr=1e-3)``.
        geometry: "spline" or "relu", the basis in which the step is taken.
        gradient: "spline" or "relu", the basis of the gradient the optimizer sees.

    Raises:
        ValueError: if ``geometry`` or ``gradient`` is not a basis.

    Examples:
        >>> from functools import partial
        >>> from kanlib import KAN
        >>> descent = Iteration(partial(torch.optim.SGD, lr=0.1), geometry="relu", gradient="relu")
        >>> descent(KAN([1, 1], n=4, basis="spline")).param_groups[0]["lr"]
        0.1
    """

    make: Callable[[Sequence[nn.Parameter]], Optimizer]
    geometry: Basis = "relu"
    gradient: Basis = "relu"

    def __post_init__(self) -> None:
        check_function("make", self.make, "function from parameters to a torch optimizer")
        check_option("geometry", self.geometry, BASES)
        check_option("gradient", self.gradient, BASES)

    def __call__(self, model: nn.Module, objective: Any = None) -> Optimizer:
        """Return a torch optimizer of the model's parameters that performs this iteration.

        Unknowns of the objective are trained with them, as they are.

        Raises:
            ValueError: if the optimizer decays weights, or is L-BFGS with a gradient of the other
                basis: its curvature pairs and line search need gradients dual to the steps.
        """
        optimizer = self.make(trained(model, objective))
        own = {self.geometry, self.gradient}
        layers = [
            layer
            for layer in model.modules()
            if isinstance(layer, SplineLayer) and own != {layer.basis}
        ]
        if layers:
            self._check(optimizer)
            for layer in layers:
                if layer.knots is not None:
                    raise ValueError(
                        f"geometry and gradient must be of the {layer.basis} basis of a layer with "
                        f"free knots, got {self.geometry!r} and {self.gradient!r}: choose that, or "
                        "fix the knots with model.fixed()"
                    )
            step = _Step(layers, self.geometry, self.gradient)
            optimizer.register_step_pre_hook(step.begin)
            optimizer.register_step_post_hook(step.end)
        return optimizer

    def bind(self, model: nn.Module, objective: Any) -> Optimizer:
        """Return the same, as a :class:`kanlib.training.optimizers.Bindable`."""
        return self(model, objective)

    def _check(self, optimizer: Optimizer) -> None:
        if isinstance(optimizer, LBFGS) and self.geometry != self.gradient:
            raise ValueError(
                f"L-BFGS needs geometry and gradient in the same basis, got {self.geometry!r} and "
                f"{self.gradient!r}: its curvature pairs and line search multiply steps with "
                "gradients; use a first-order optimizer for this iteration"
            )
        for key, value in decays(optimizer):
            raise ValueError(
                f"{key} must be 0 where a change of basis is involved, got {value}: it acts on "
                "weights, not on gradients; add a penalty to the objective"
            )


def decays(optimizer: Optimizer) -> Iterator[tuple[str, Any]]:
    """Yield the options of a torch optimizer that pull weights themselves, and are not zero."""
    for group in optimizer.param_groups:
        yield from ((key, group[key]) for key in DECAYS if group.get(key))


class _Step:
    """The hooks around one optimizer step, which sees gradients and displacements in its bases."""

    def __init__(self, layers: list[SplineLayer], geometry: Basis, gradient: Basis) -> None:
        self.layers, self.geometry, self.gradient = layers, geometry, gradient
        self.start: list[Tensor] = []
        self.gradients: list[Tensor | None] = []

    @torch.no_grad()
    def begin(self, _: Optimizer, args: Any, kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """Hand displacements, zero so far, and gradients to the optimizer."""
        self.start = [layer.weight.clone() for layer in self.layers]
        closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
        if closure is None:
            self._turn_gradients()
        for layer in self.layers:
            layer.weight.zero_()
        return args[:1], {"closure": closure and (lambda: self._evaluate(closure))}

    @torch.no_grad()
    def end(self, *_: Any) -> None:
        """Apply the displacements; leave gradients in the basis of the layers."""
        self._move()
        for layer, gradient in zip(self.layers, self.gradients, strict=True):
            layer.weight.grad = gradient

    @torch.no_grad()
    def _evaluate(self, closure: Callable[[], Tensor]) -> Tensor:
        """Evaluate loss and gradient at the displaced weights."""
        displacements = [layer.weight.clone() for layer in self.layers]
        self._move()
        try:
            with torch.enable_grad():
                loss = closure()
        except BaseException:
            self._set(self.start)
            raise
        self._turn_gradients()
        self._set(displacements)
        return loss

    def _move(self) -> None:
        """Set the weights to where the displacements lead."""
        for layer, start in zip(self.layers, self.start, strict=True):
            grids = layer.distinct_grids
            step = convert_weights(layer.weight, grids, self.geometry, layer.basis)
            layer.weight.copy_(start + step)

    def _set(self, weights: list[Tensor]) -> None:
        for layer, weight in zip(self.layers, weights, strict=True):
            layer.weight.copy_(weight)

    def _turn_gradients(self) -> None:
        """Convert gradients to the basis in which the optimizer wants them (eq. 16)."""
        self.gradients = [layer.weight.grad for layer in self.layers]
        for layer, g in zip(self.layers, self.gradients, strict=True):
            if g is not None:
                grids = layer.distinct_grids
                layer.weight.grad = convert_gradients(g, grids, layer.basis, self.gradient)
