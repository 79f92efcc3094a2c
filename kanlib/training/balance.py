"""Balance between the terms of a loss: weights that follow how strongly each term acts.

Terms with small gradients are drowned by those with large ones. Every few steps, term k gets the
factor mean_j(s_j) / s_k, beside its own weight, where s_k is, of the term without any weight,

- the norm of the gradient (S. Wang, S. Sankaran, H. Wang, P. Perdikaris, arXiv 2308.08468), or
- the sum of the diagonal of J^T J, the trace of its tangent kernel, which does not vanish where the
  term is solved (S. Wang, X. Yu, P. Perdikaris, Journal of Computational Physics 449, 2022).

Factors change between steps only, so that within a step of Gauss-Newton or of a line search the
loss is one function.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from kanlib._checks import as_integer, as_number, check_option
from kanlib.objectives.squares import Residual
from kanlib.objectives.unknowns import trained
from kanlib.training.coordinates import Coordinates
from kanlib.training.jacobian import POINTS, Jacobian, blocks_of

__all__ = ["Balance"]

Measure = Literal["gradient", "diagonal"]

#: A term acts at least as strongly as this share of the strongest one.
LEAST = 1e-8


class Balance:
    """Factors of the terms of a loss, for ``ResidualLoss(..., balance=Balance())``.

    Use one for each loss. ``run.history.weights`` has the weights of all terms at each entry;
    checkpoints hold them, and refinements keep them. Networks of an ensemble share them.

    Args:
        by: "gradient" for the norm of the gradient, "diagonal" for that of J^T J, which needs a
            loss whose Jacobian is known, see :func:`kanlib.training.jacobian.jacobian`.
        every: steps between updates; the first follows the first step.
        memory: share of the old factor that an update keeps, from 0 to below 1.

    Attributes:
        factors: the factors, by the names of the terms; none before the first step.

    Raises:
        TypeError: if an argument is of the wrong type.
        ValueError: if an argument is out of range.

    Examples:
        >>> from kanlib import KAN, ResidualLoss, Term, train
        >>> x = torch.linspace(0, 1, 9)[:, None]
        >>> loss = ResidualLoss(
        ...     steep=Term(lambda u, x: 100 * u.d(0), x),
        ...     start=Term(lambda u, x: u.value - 1, x[:1]),
        ...     balance=Balance(),
        ... )
        >>> run = train(KAN([1, 1]), loss, 1, progress=False)
        >>> loss.weights["steep"] < 1 < loss.weights["start"]
        True
    """

    def __init__(self, by: Measure = "gradient", *, every: int = 10, memory: float = 0.5) -> None:
        check_option("by", by, get_args(Measure))
        self.by, self.every = by, as_integer("every", every, minimum=1)
        self.memory = as_number("memory", memory, 0)
        if self.memory >= 1:
            raise ValueError(f"memory must be below 1, got {memory!r}: at 1 nothing would change")
        self.factors: dict[str, float] = {}
        self._steps = 0

    def after_step(
        self,
        model: nn.Module,
        objective: Any,
        parts: Callable[[], Mapping[str, Tensor]],
        residuals: Callable[[], list[Residual]],
    ) -> None:
        """Count a step, and update the factors when it is time.

        Args:
            model: the network.
            objective: the loss, whose unknowns count.
            parts: function that returns the terms without weights.
            residuals: function that returns their residuals.
        """
        due = self._steps % self.every == 0
        self._steps += 1
        if not due:
            return
        if self.by == "gradient":
            sizes = _gradients(model, objective, parts)
        else:
            sizes = _diagonals(model, objective, residuals())
        least = LEAST * max(sizes.values())
        mean = sum(sizes.values()) / len(sizes)
        for name, size in sizes.items():
            wanted = mean / max(size, least) if mean > 0 else 1.0
            old = self.factors.get(name, wanted)
            self.factors[name] = self.memory * old + (1 - self.memory) * wanted

    def state_dict(self) -> dict[str, Any]:
        """Return the factors, for a checkpoint."""
        return {"steps": self._steps, "factors": dict(self.factors)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self._steps, self.factors = state["steps"], dict(state["factors"])


def _gradients(
    model: nn.Module, objective: Any, parts: Callable[[], Mapping[str, Tensor]]
) -> dict[str, float]:
    """Return the norm of the gradient of each term."""
    parameters = [p for p in trained(model, objective) if p.requires_grad]
    with torch.enable_grad():
        found = parts()
        gradients = {
            name: torch.autograd.grad(part, parameters, retain_graph=True, materialize_grads=True)
            for name, part in found.items()
        }
    return {name: _norm(each) for name, each in gradients.items()}


def _norm(parts: tuple[Tensor, ...]) -> float:
    return float(torch.stack([part.norm() for part in parts]).norm().detach())


def _diagonals(model: nn.Module, objective: Any, residuals: list[Residual]) -> dict[str, float]:
    """Return the sum of the diagonal of J^T J of each term."""
    coordinates = Coordinates(model, objective)
    sizes: dict[str, float] = {}
    for block in blocks_of(model, residuals, coordinates, POINTS):
        squares = float(Jacobian(coordinates, [block]).squares().sum().detach())
        sizes[block.term] = sizes.get(block.term, 0.0) + squares
    return sizes
