"""The loss of a network as a function of displacements on coarser grids, u + sum_l P_l e_l.

Any optimizer of parameters can minimise it over the e_l. The network itself is evaluated, so that
every objective will do, and the gradient in e_l is P_l^T g by the chain rule (eq. 20).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer

from kanlib._checks import shown
from kanlib.objectives.mean_squared_error import evaluated
from kanlib.training.coordinates import copies, put
from kanlib.training.gauss_newton import GaussNewton
from kanlib.training.hierarchy import LayerTransfer
from kanlib.training.iterations import Iteration, decays
from kanlib.training.optimizers import OptimizerFactory, new_optimizer

#: A parameter of the network, by its number, and the prolongation of a displacement of it.
Part = tuple[int, LayerTransfer | None]


class Displacements(nn.Module):
    """Displacements of the parameters of a network, zero where :meth:`start` is called.

    Args:
        model: the network, which is changed in place.
        objective: what is minimised.
        parameters: the trainable parameters of both.
        parts: what the displacements are of, any parameter as often as it is displaced.

    Attributes:
        evaluations: evaluations of the objective so far.
        terms: terms of the loss at the first of them since the start, if the objective is
            :class:`kanlib.objectives.mean_squared_error.Summed`.
    """

    def __init__(
        self, model: nn.Module, objective: Any, parameters: Sequence[Tensor], parts: Sequence[Part]
    ) -> None:
        super().__init__()
        self._held = model, objective, parameters  # a tuple: its parameters are not this module's
        self._parts = [*parts]
        self.displaced = nn.ParameterList()
        for number, transfer in self._parts:
            like = parameters[number].detach()
            shape = like.shape if transfer is None else (*like.shape[:-1], transfer.shape[1])
            self.displaced.append(nn.Parameter(like.new_zeros(shape)))
        self.evaluations = 0
        self.terms: dict[str, float] = {}
        self._base: list[Tensor] = []
        self._tilt: list[Tensor] | None = None
        self._fresh = True

    def start(self, tilt: list[Tensor] | None = None) -> None:
        """Count displacements from where the network is now.

        Args:
            tilt: for each parameter p, the multiple <tilt, p> that is added to the loss.
        """
        self._base, self._tilt, self._fresh = copies(self._held[2]), tilt, True
        with torch.no_grad():
            for each in self.displaced:
                each.zero_()

    def forward(self, _: Any = None) -> Tensor:
        """Return the loss with the present displacements, which the network then has."""
        loss: Tensor = _Loss.apply(self, *self.displaced)
        return loss

    @property
    def moves(self) -> bool:
        """Whether the points of the objective change between steps."""
        return bool(getattr(self._held[1], "moves", False))

    def loss(self) -> float:
        """Return the loss of the network where it is."""
        return float(self._evaluated().detach())

    def gradient(self) -> list[Tensor]:
        """Return the gradient of the loss in the parameters of the network, where it is."""
        return [*torch.autograd.grad(self._evaluated(), self._held[2], materialize_grads=True)]

    @torch.no_grad()
    def place(self) -> None:
        """Give the network its displaced parameters."""
        changes = [torch.zeros_like(p) for p in self._base]
        for (number, transfer), each in zip(self._parts, self.displaced, strict=True):
            changes[number] += each if transfer is None else transfer.apply(each)
        move(self._held[2], self._base, changes)

    def restricted(self, gradients: Sequence[Tensor]) -> list[Tensor]:
        """Return the gradients P^T g in the displacements from those in the parameters."""
        return [
            gradients[number] if transfer is None else transfer.restrict(gradients[number])
            for number, transfer in self._parts
        ]

    @torch.enable_grad()
    def _evaluated(self) -> Tensor:
        """Evaluate with a graph, which objectives may need for derivatives of their own."""
        model, objective, parameters = self._held
        self.evaluations += 1
        loss, terms = evaluated(objective, model)
        if self._fresh:
            self.terms = {name: float(term.detach()) for name, term in terms.items()}
            self._fresh = False
        if self._tilt is None:
            return loss
        return loss + sum((t * p).sum() for t, p in zip(self._tilt, parameters, strict=True))


class _Loss(torch.autograd.Function):
    """The loss of displaced parameters, and its gradient in the displacements."""

    @staticmethod
    def forward(ctx: Any, displacements: Displacements, *displaced: Tensor) -> Tensor:
        displacements.place()
        loss = displacements._evaluated()
        own = displacements._held[2]
        slopes = torch.autograd.grad(loss, own, materialize_grads=True)
        ctx.slopes = displacements.restricted(slopes)
        return loss.detach()

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> Any:
        return None, *(slopes[0] * each for each in ctx.slopes)


@torch.no_grad()
def move(
    parameters: Sequence[Tensor], start: Sequence[Tensor], changes: Sequence[Tensor], by: float = 1
) -> None:
    """Set parameters to a start and a multiple of changes of it."""
    put(parameters, [p + by * change for p, change in zip(start, changes, strict=True)])


def optimizer_of(name: str, make: OptimizerFactory, displacements: Displacements) -> Any:
    """Return a new optimizer of displacements.

    Args:
        name: what errors call the factory.
        make: function from parameters to an optimizer.
        displacements: what it optimizes.

    Raises:
        ValueError: if it decays weights, or acts in a basis or on residuals of its own.
    """
    if isinstance(make, Iteration | GaussNewton):
        raise ValueError(
            f"{name} must be an optimizer of parameters alone here, got {shown(make)}: a basis is "
            "chosen by model.to_basis(), and Gauss-Newton is for the levels of a Cycle"
        )
    optimizer = new_optimizer(make, displacements, displacements)
    if isinstance(optimizer, Optimizer):
        for key, value in decays(optimizer):
            raise ValueError(
                f"{name} must not decay displacements, got {key} = {value}: set it to 0, and add a "
                "penalty to the objective"
            )
    return optimizer


def step(optimizer: Any, displacements: Displacements) -> float:
    """Do one step from where the displacements are; return the loss before it."""
    if not isinstance(optimizer, Optimizer):
        before = float(optimizer.step())
        displacements.place()
        return before
    losses: list[float] = []

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss: Tensor = displacements()
        losses.append(float(loss.detach()))
        loss.backward()
        return loss

    optimizer.step(closure)  # type: ignore[arg-type]  # torch wants a float
    displacements.place()
    return losses[0]


def forget_last_step(optimizer: Any) -> None:
    """Let L-BFGS take no curvature from its last step, since the network moved after it."""
    if isinstance(optimizer, LBFGS):
        for state in optimizer.state.values():
            state["t"] = 0.0  # the step it would learn from is this multiple of its direction
