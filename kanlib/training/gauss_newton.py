"""Gauss-Newton with Levenberg-Marquardt damping, for losses that are sums of squares.

A step delta minimises ``|r + J delta|^2 + damping |delta|_D^2``, in the weights of one basis. It is
kept if it lowers the loss, and the damping follows from the gain, the share of the predicted
decrease that came true (Nielsen): after a good step it falls to as little as a fifth, and it grows
ever faster until a step lowers the loss. Where D is the diagonal of J^T J (Marquardt), the units of
a weight do not matter; steps still depend on the basis, since D does.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from kanlib._checks import BASES, Basis, as_integer, as_number, check_option
from kanlib.objectives.shares import shares_of
from kanlib.objectives.squares import SumOfSquares
from kanlib.training.coordinates import Coordinates, Transfer, copies, put
from kanlib.training.jacobian import (
    POINTS,
    Jacobian,
    add_squares,
    blocks,
    check,
    half_gradient,
    normal_equations,
    over_all,
    triangular,
)
from kanlib.training.multigrid import DIRECT, GalerkinHierarchy, check_basis
from kanlib.training.runs import EndOfLevel

__all__ = ["GaussNewton"]

SCALINGS = ("marquardt", "identity")
SOLVERS = ("cholesky", "qr", "cg", "multigrid")
#: Squares of columns count as at least this share of the largest.
FLOOR = 1e-12


@dataclass(frozen=True)
class GaussNewton:
    """Gauss-Newton for ``train(..., optimizer=GaussNewton())`` and ``train_multilevel``.

    The objective offers its residuals, see :mod:`kanlib.objectives.squares`. One epoch is one step.
    With ``optimizer_state="carried"`` a level, of a race, too, starts with the damping that the
    last one ended with.

    Args:
        damping: damping of the first step.
        scaling: "marquardt" for the diagonal of J^T J, "identity" for its mean.
        geometry: "spline" or "relu", the basis in which a step is
            measured; by default that of each layer. With either, steps are the same functions
            whichever basis the layers hold (see :class:`kanlib.training.iterations.Iteration`).
        solver: "cholesky" of the normal equations; "qr" of J, which does not square the condition
            number and so reaches smaller losses; "cg", conjugate gradients, for many parameters;
            "multigrid", the same with a V-cycle over coarse grids as preconditioner, see
            :mod:`kanlib.training.multigrid`. "cholesky" takes time with the third power of the
            parameters, and memory with the second: from some thousand on, "multigrid" was faster.
        tolerance: "cg" and "multigrid" end where the residual, in the norm of the preconditioner,
            has fallen by this factor. Steps need not be exact: see the chapter on multigrid.
        tries: dampings that are tried in a step.
        points: points whose rows are computed at a time, which bounds the memory.

    Raises:
        TypeError: if an argument is of the wrong type.
        ValueError: if an argument is out of range.

    Examples:
        >>> from kanlib import KAN, MeanSquaredError, train
        >>> x = torch.linspace(0, 1, 100, dtype=torch.float64)[:, None]
        >>> model = KAN([1, 1], n=8, dtype=torch.float64)
        >>> objective = MeanSquaredError(x, torch.sin(6 * x))
        >>> train(model, objective, 5, optimizer=GaussNewton(), progress=False).loss < 1e-6
        True
    """

    damping: float = 1e-3
    scaling: str = "marquardt"
    geometry: Basis | None = None
    solver: str = "cholesky"
    tolerance: float = 1e-2
    tries: int = 20
    points: int = POINTS

    def __post_init__(self) -> None:
        as_number("damping", self.damping, above=0)
        check_option("scaling", self.scaling, SCALINGS)
        check_option("solver", self.solver, SOLVERS)
        if self.geometry is not None:
            check_option("geometry", self.geometry, BASES)
        if not 0 < as_number("tolerance", self.tolerance) < 1:
            raise ValueError(f"tolerance must be above 0 and below 1, got {self.tolerance!r}")
        as_integer("tries", self.tries, minimum=1)
        as_integer("points", self.points, minimum=1)

    def bind(
        self,
        model: nn.Module,
        objective: Any,
        transfers: Sequence[Transfer | None] | None = None,
    ) -> LevenbergMarquardt:
        """Return the optimizer of a model, or of its splines on a coarser grid.

        Args:
            model: the network.
            objective: what is minimised.
            transfers: prolongations P, one a parameter, None for those that stay; steps are then
                P delta with delta of the Galerkin system, in which J P stands for J.

        Raises:
            TypeError: if the network has parameters of half precision.
        """
        coordinates = Coordinates(model, objective, self.geometry)
        dtype = coordinates.parameters[0].dtype
        if dtype not in (torch.float32, torch.float64):
            raise TypeError(
                f"model must be of float32 or float64 for Gauss-Newton, got {dtype}: convert it "
                "with model.double(), and the data, too"
            )
        if transfers is not None:
            coordinates = coordinates.coarsened(transfers)
        return LevenbergMarquardt(self, model, objective, coordinates)


class LevenbergMarquardt:
    """The optimizer of one model, see :class:`GaussNewton`.

    Attributes:
        rate: the damping of the next step.
        evaluations: evaluations of the residuals so far.
        param_groups: all that it trains, as those of a torch optimizer.
        terms: the loss before the last step, by the names of its terms.
    """

    def __init__(
        self,
        options: GaussNewton,
        model: nn.Module,
        objective: SumOfSquares,
        coordinates: Coordinates,
    ) -> None:
        self.options, self.model, self.objective = options, model, objective
        self.coordinates = coordinates
        if options.solver == "multigrid":
            check_basis(coordinates)
        self.param_groups = [{"params": self.coordinates.parameters}]
        self.rate, self.growth, self.evaluations = float(options.damping), 2.0, 0
        self.solver, self._checked = options.solver, False
        self.terms: dict[str, float] = {}
        self.defaults = asdict(options)

    def __repr__(self) -> str:
        return repr(self.options)

    def step(self) -> float:
        """Do one step; return the loss before it.

        Raises:
            EndOfLevel: if no step lowers the loss.
        """
        first = not self._checked
        expected = half_gradient(self.model, self.objective, self.coordinates) if first else None
        system = self._system()
        self.terms = system.terms
        if expected is not None:
            check(system.gradient, *expected)
            self._checked = True
        if not math.isfinite(system.loss):
            return system.loss
        scale = self._scale(system.squares)
        before, start = copies(self.coordinates.parameters), self.rate
        for _ in range(self.options.tries):
            step = system.solve(self.rate * scale)
            if step is None:
                system = self._fall_back()
                step = system.solve(self.rate * scale)
            if step is not None and torch.isfinite(step).all():
                self.coordinates.add(step)
                loss = self._loss()
                predicted = float(self.rate * scale @ step.square() - system.gradient @ step)
                if loss < system.loss:
                    self._reward((system.loss - loss) / predicted)
                    return system.loss
                put(self.coordinates.parameters, before)
            self.rate, self.growth = self.rate * self.growth, self.growth * 2
        self.rate, self.growth = start, 2.0
        if not getattr(self.objective, "moves", False):  # other points may let it go on
            norm = 2 * float(system.gradient.norm())
            raise EndOfLevel(
                f"no Gauss-Newton step lowers the loss {system.loss:.6g} (gradient {norm:.3g})"
            )
        return system.loss

    def _reward(self, gain: float) -> None:
        self.rate = max(self.rate * max(0.2, 1 - (2 * gain - 1) ** 3), 1e-16)
        self.growth = 2.0

    def _scale(self, squares: Tensor) -> Tensor:
        """Return the diagonal of D."""
        if self.options.scaling == "identity":
            return squares.mean().expand_as(squares)
        return squares.clamp(min=FLOOR * float(squares.max()))

    def _system(self) -> System:
        self.evaluations += 1
        return SYSTEMS[self.solver](self.model, self.objective, self.coordinates, self.options)

    def _fall_back(self) -> System:
        """Return the system by another solver, which stays that of this level.

        It is QR, which squares no condition number; after multigrid, which is for systems that are
        too large for it, conjugate gradients with the diagonal.
        """
        self.solver = "cg" if self.solver == "multigrid" else "qr"
        warnings.warn(
            f"J^T J with damping {self.rate:.3g} is not positive definite up to rounding: "
            f"GaussNewton goes on as with solver={self.solver!r}",
            RuntimeWarning,
            stacklevel=2,
        )
        return self._system()

    @torch.no_grad()
    def _loss(self) -> float:
        self.evaluations += 1
        own = sum(
            float(part(self.model).square().sum())
            for residual in self.objective.residuals()
            for part in residual.blocks(self.options.points)
        )
        like = self.coordinates.parameters[0]
        return float(shares_of(self.objective).total(like.new_tensor(own, dtype=torch.float64))[0])

    def refined(self, model: nn.Module, objective: SumOfSquares) -> LevenbergMarquardt:
        """Return the optimizer of a refined model, which goes on with the damping of this one."""
        finer = self.options.bind(model, objective)
        finer.rate = self.rate
        return finer

    def state_dict(self) -> dict[str, Any]:
        """Return all that the next step depends on, beside the model and the objective."""
        names = ("rate", "growth", "evaluations", "solver")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self.rate, self.growth = float(state["rate"]), float(state["growth"])
        self.evaluations, self.solver = int(state["evaluations"]), str(state["solver"])


class System(Protocol):
    """The linear least-squares problem of one step."""

    loss: float
    terms: dict[str, float]  # the loss of each term
    gradient: Tensor  # J^T r
    squares: Tensor  # the diagonal of J^T J

    def solve(self, diagonal: Tensor) -> Tensor | None:
        """Return the minimiser of ``|r + J delta|^2 + delta . diagonal delta``, or None."""


class Cholesky:
    """The normal equations, solved by Cholesky's factors."""

    def __init__(
        self,
        model: nn.Module,
        objective: SumOfSquares,
        coordinates: Coordinates,
        options: GaussNewton,
    ) -> None:
        self._gram, self.gradient, self.terms = normal_equations(
            model, objective, coordinates, options.points
        )
        self.loss = sum(self.terms.values())
        self.squares = self._gram.diagonal().clone()

    def solve(self, diagonal: Tensor) -> Tensor | None:
        """Return the step, or None if the matrix is not positive definite up to rounding."""
        matrix = self._gram.clone()
        matrix.diagonal().add_(diagonal)
        factor, failed = torch.linalg.cholesky_ex(matrix)
        if failed:
            return None
        return -torch.cholesky_solve(self.gradient[:, None], factor)[:, 0]


class QR:
    """The triangular factor of [J, r], gathered block by block."""

    def __init__(
        self,
        model: nn.Module,
        objective: SumOfSquares,
        coordinates: Coordinates,
        options: GaussNewton,
    ) -> None:
        found = blocks(model, objective, coordinates, options.points)
        self._factor, self._right, self.terms = triangular(coordinates, found, shares_of(objective))
        over_all(objective, self.terms, self._right[:0])
        self.loss = sum(self.terms.values())
        self.gradient = self._factor.T @ self._right
        self.squares = self._factor.square().sum(0)

    def solve(self, diagonal: Tensor) -> Tensor | None:
        """Return the step."""
        size = len(diagonal)
        rows = torch.cat([self._factor, torch.diag(diagonal.sqrt())])
        right = torch.cat([self._right, self._right.new_zeros(size)])
        factor = torch.linalg.qr(torch.cat([rows, right[:, None]], dim=1), mode="r").R
        upper, target = factor[:size, :size], factor[:size, size:]
        return -torch.linalg.solve_triangular(upper, target, upper=True)[:, 0]


class ConjugateGradients:
    """Products with J and J^T, and the diagonal as preconditioner."""

    def __init__(
        self,
        model: nn.Module,
        objective: SumOfSquares,
        coordinates: Coordinates,
        options: GaussNewton,
    ) -> None:
        self._tolerance = options.tolerance
        found = [*blocks(model, objective, coordinates, options.points)]
        self._jacobian = Jacobian(coordinates, found)
        self.terms: dict[str, float] = {}
        for block in found:
            add_squares(self.terms, block)
        self._shares = shares_of(objective)
        self.gradient, self.squares = over_all(
            objective, self.terms, self._jacobian.gradient(), self._jacobian.squares()
        )
        self.loss = sum(self.terms.values())

    def solve(self, diagonal: Tensor) -> Tensor | None:
        """Return the step, up to a reduction of the residual."""
        scale = 1 / (self.squares + diagonal).clamp(min=torch.finfo(diagonal.dtype).tiny)

        def product(v: Tensor) -> Tensor:
            own = self._jacobian.transposed(self._jacobian.product(v))
            return self._shares.total(own)[0] + diagonal * v

        return conjugate_gradients(product, -self.gradient, lambda v: scale * v, self._tolerance)[0]


class Multigrid:
    """Conjugate gradients with a V-cycle as preconditioner."""

    def __init__(
        self,
        model: nn.Module,
        objective: SumOfSquares,
        coordinates: Coordinates,
        options: GaussNewton,
        direct: int = DIRECT,
    ) -> None:
        if shares_of(objective).size > 1:
            raise ValueError(
                "solver must be 'cholesky', 'qr' or 'cg' where processes share the points, got "
                "'multigrid': take 'cg'"
            )
        self._tolerance = options.tolerance
        found = [*blocks(model, objective, coordinates, options.points)]
        self.hierarchy = GalerkinHierarchy(model, coordinates, found, direct)
        self.terms: dict[str, float] = {}
        for block in found:
            add_squares(self.terms, block)
        self.loss = sum(self.terms.values())
        self._finest, self._coordinates = self.hierarchy.levels[0], coordinates
        self._right = -self._finest.transposed(torch.cat([block.residual for block in found]))
        self.gradient = -coordinates.transposed(self._right)
        self.squares = coordinates.transposed(self._finest.squares())

    def solve(self, diagonal: Tensor) -> Tensor | None:
        """Return the step, up to a reduction of the residual, or None.

        It is None if a block is not positive definite up to rounding.
        """
        columns = self._coordinates.to_columns(diagonal)
        cycle = self.hierarchy.damped(columns)
        if cycle is None:
            return None
        level = self._finest
        step, _ = conjugate_gradients(
            lambda v: level.transposed(level.product(v)) + columns * v,
            self._right,
            cycle,
            self._tolerance,
        )
        return self._coordinates.transposed(step)


def conjugate_gradients(
    product: Callable[[Tensor], Tensor],
    right: Tensor,
    precondition: Callable[[Tensor], Tensor],
    tolerance: float,
) -> tuple[Tensor, int]:
    """Return an approximate solution of A x = b, and the number of iterations.

    The residual is measured in the norm of the preconditioner M, (r . M r)^(1/2).

    Args:
        product: A v for v.
        right: b.
        precondition: M v for v, symmetric and positive definite.
        tolerance: reduction of the residual at which it ends.
    """
    x, residual = torch.zeros_like(right), right.clone()
    direction = precondition(residual)
    power = start = float(residual @ direction)
    for iteration in range(len(right)):
        if not power > tolerance**2 * start:
            return x, iteration
        image = product(direction)
        curvature = float(direction @ image)
        if not curvature > 0:  # all that is left of the residual is rounding
            return x, iteration
        length = power / curvature
        x += length * direction
        residual -= length * image
        scaled = precondition(residual)
        before, power = power, float(residual @ scaled)
        direction = scaled + power / before * direction
    return x, len(right)


SYSTEMS: dict[str, Callable[..., System]] = {
    "cholesky": Cholesky,
    "qr": QR,
    "cg": ConjugateGradients,
    "multigrid": Multigrid,
}
