"""The paper's problems, one a module: data or PDE, loss, and what the error is measured against.

A PDE problem is stated for jets (see :mod:`kanlib.nn.jets`), so that an exact solution can be put
into it like a network.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from kanlib._checks import as_integer
from kanlib.objectives.attention import Attention
from kanlib.objectives.residuals import ResidualLoss, Term
from kanlib.objectives.samplers import Sampler

__all__ = ["Problem", "relative_error"]


class Problem:
    """A PDE problem: equations, their points and weights, and a solution to compare with.

    Attributes:
        equations: functions from points, a ``weight`` and an ``attention`` to the terms, by name.
        points: the points (N, 2) of each term.
        weights: the weight of each term.
        error_points: points (N, 2) of a fine grid.
        reference: the solution there, (N, 1).

    Examples:
        >>> from kanlib.paper.problems.burgers import Burgers
        >>> problem = Burgers(nx=16, nt=8)
        >>> isinstance(problem, Problem), sorted(problem.equations)
        (True, ['boundary', 'initial', 'volume'])
        >>> problem.error(nn.Linear(2, 1, dtype=torch.float64)) > 0
        True
    """

    equations: dict[str, Callable[..., Term]]
    points: dict[str, Tensor]
    weights: dict[str, float]
    error_points: Tensor
    reference: Tensor

    def inputs(self, points: Tensor) -> Tensor:
        """Return the inputs of the network at points (N, 2): the points themselves."""
        return points

    def loss(
        self,
        damping: float | None = None,
        points: Mapping[str, Tensor | Sampler] | None = None,
        weights: Mapping[str, float] | None = None,
    ) -> ResidualLoss:
        """Return a loss, to be used for one training.

        Args:
            damping: residual-based attention on the volume with this damping; None: without.
            points: points, or samplers of them, in the place of those of some terms.
            weights: weights in the place of those of some terms.
        """
        at = {**self.points, **(points or {})}
        weight = {**self.weights, **(weights or {})}
        attention = {} if damping is None else {"volume": Attention(damping)}
        return ResidualLoss(
            **{
                name: term(at[name], weight=weight[name], attention=attention.get(name))
                for name, term in self.equations.items()
            }
        )

    @torch.no_grad()
    def error(self, model: nn.Module) -> float:
        """Return the error relative to the solution in the L2 norm, on the fine grid."""
        return relative_error(model(self.inputs(self.error_points)), self.reference)


def relative_error(value: Tensor, reference: Tensor) -> float:
    """Return the Euclidean norm of value - reference over that of reference.

    Raises:
        ValueError: if the shapes differ, which would compare all values with all others.

    Examples:
        >>> value, reference = torch.tensor([[3.0, 5.0], [3.0, 4.0]], dtype=torch.float64)
        >>> relative_error(value, reference)
        0.2
    """
    if value.shape != reference.shape:
        raise ValueError(
            f"value must have the shape {tuple(reference.shape)} of the reference, got "
            f"{tuple(value.shape)}: the model must have one output"
        )
    return float((value - reference).norm() / reference.norm())


def as_seed(seed: int) -> int:
    """Return a seed as an int, or raise unless it is an integer from 0 to 2**62."""
    return as_integer("seed", seed, 0, 2**62)
