"""What data tell of the unknowns of an equation: estimates with confidence intervals.

At a minimum of ``|r|^2``, linearised there, a small change e of the residuals of the data moves the
parameters by -(J^T J)^{-1} J_d^T e, where J has the rows of all residuals and J_d those of the
data. Independent errors of variance s^2 thus give the parameters the covariance

    s^2 (J^T J)^{-1} J_d^T J_d (J^T J)^{-1},

which is s^2 (J^T J)^{-1} where all residuals have errors. With H = J_d (J^T J)^{-1} J_d^T, the
residuals r_d of the data give the estimate ``s^2 = |r_d|^2 / tr (I - H)^2``.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kanlib._checks import as_list, check_types, shown
from kanlib.objectives.shares import Shares, shares_of
from kanlib.objectives.squares import SumOfSquares
from kanlib.objectives.unknowns import unknowns_of
from kanlib.training.coordinates import Coordinates
from kanlib.training.jacobian import (
    POINTS,
    Block,
    Jacobian,
    blocks,
    check,
    half_gradient,
    triangular,
)

__all__ = ["Estimate", "estimates"]

#: A squared share of an unknown in directions without effect that is more than rounding.
UNSEEN = 1e-8


@dataclass(frozen=True)
class Estimate:
    """The value of an unknown, its standard error, and the ends of its confidence interval.

    Examples:
        >>> rate = Estimate(value=2.01, error=0.02, low=1.97, high=2.05)
        >>> rate
        2.01 +- 0.02 (1.97 to 2.05)
    """

    value: float
    error: float
    low: float
    high: float

    def __repr__(self) -> str:
        return f"{self.value:.6g} +- {self.error:.2g} ({self.low:.6g} to {self.high:.6g})"


def estimates(
    model: nn.Module,
    objective: SumOfSquares,
    *,
    noisy: Sequence[str] | None = None,
    level: float = 0.95,
) -> dict[str, Estimate]:
    """Return the unknowns of an objective with confidence intervals, after training.

    They hold at a minimum of the loss, to first order in the errors, for independent errors of one
    variance after weighting. A term is a mean: for errors of variance s^2 at N points and K
    equations its weight must be in proportion to N K / s^2. Or name a single term in ``noisy``.
    An error of the network itself, or of its training, is not in them.

    Args:
        model: the trained network.
        objective: a sum of squares with unknowns, e.g. ``run.objective``. Those of a network
            within :class:`kanlib.objectives.unknowns.Unknowns` count, but are not reported. Where
            processes share its points, the estimates are those of all, in every process.
        noisy: names of the terms whose residuals have errors, such as those of measurements; by
            default all.
        level: probability that an interval holds the unknown.

    Returns:
        An estimate for each unknown number, by name, with an index for each entry of a tensor.

    Raises:
        TypeError: if the objective does not offer its residuals.
        ValueError: if it has no unknowns, one of them enters no residual, a term in ``noisy`` does
            not exist, the level is not between 0 and 1, or there are too few residuals to tell
            their variance.
        ModuleNotFoundError: without SciPy.

    Warns:
        RuntimeWarning: if J^T J is singular in an unknown, so that nothing determines it.

    Examples:
        >>> from kanlib import KAN, GaussNewton, ResidualLoss, Term, Unknowns, train
        >>> x = torch.linspace(0, 1, 40, dtype=torch.float64)[:, None]
        >>> y = torch.exp(2 * x) + 0.01 * torch.sin(99 * x)
        >>> def growth(u, x, q):
        ...     return u.d(0) - q.rate * u.value
        >>> unknowns = Unknowns(rate=1.0, dtype=torch.float64)
        >>> loss = ResidualLoss(
        ...     growth=Term(growth, x, unknowns=unknowns), data=Term(lambda u, x: u.value - y, x)
        ... )
        >>> model = KAN([1, 1], n=5, dtype=torch.float64)
        >>> run = train(model, loss, 20, optimizer=GaussNewton(), progress=False)
        >>> rate = estimates(run.model, run.objective, noisy=["data"])["rate"]
        >>> rate.low < 2 < rate.high
        True
    """
    check_types(estimates, locals())
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, got {level!r}")
    coordinates = Coordinates(model, objective)
    entries = dict(_entries(objective, coordinates))
    if not entries:
        raise ValueError(
            "objective must have unknown numbers, got none: give a Term unknowns=Unknowns(k=1.0)"
        )
    expected = half_gradient(model, objective, coordinates)
    found = [*blocks(model, objective, coordinates, POINTS)]
    shares = shares_of(objective)
    check(shares.total(Jacobian(coordinates, found).gradient())[0], *expected)
    data = _data(objective, found, noisy)
    solution = _Solution(coordinates, found, shares)
    rows = [solution.row(index) for index in entries.values()]
    # |J_d (J^T J)^{-1}|^2 of the column of each unknown.
    (spreads,) = shares.total(torch.stack([_spread(coordinates, data, row) for row in rows]))
    variance, freedom = solution.variance(data)
    quantile = _quantile(level, freedom)
    values = torch.cat([p.detach().flatten() for p in coordinates.parameters])
    result = {}
    for (name, index), spread in zip(entries.items(), spreads.tolist(), strict=True):
        value, error = float(values[index]), math.sqrt(variance * spread)
        if solution.unseen(index) > UNSEEN:
            warnings.warn(
                f"unknown {name!r} cannot be identified, J^T J is singular in it: add data or "
                "equations that depend on it, or fix what it can be exchanged for",
                RuntimeWarning,
                stacklevel=2,
            )
            error = math.inf
        reach = quantile * error
        result[name] = Estimate(value, error, value - reach, value + reach)
    return result


def _entries(objective: SumOfSquares, coordinates: Coordinates) -> Iterator[tuple[str, int]]:
    """Yield the name of each unknown number, and where it is among the parameters."""
    for name, parameter in unknowns_of(objective).items():
        if "." in name:  # of a network
            continue
        start = coordinates.start(parameter)
        for i, place in enumerate(torch.cartesian_prod(*map(torch.arange, parameter.shape or [1]))):
            at = [*map(int, place.reshape(-1))]
            yield (f"{name}{at}" if parameter.ndim else name), start + i


def _spread(coordinates: Coordinates, data: Sequence[Block], row: Tensor) -> Tensor:
    """Return |J_d v|^2 for some rows of the Jacobian."""
    squares = (Jacobian(coordinates, [block]).product(row).square().sum() for block in data)
    return sum(squares, row.new_zeros(()))


def _data(
    objective: SumOfSquares, found: Sequence[Block], noisy: Sequence[str] | None
) -> list[Block]:
    """Return the rows of this process whose residuals have errors."""
    if noisy is None:
        return [*found]
    names = as_list("noisy", noisy, "names of terms")
    terms = {residual.name for residual in objective.residuals()}
    for name in names:
        if name not in terms:
            raise ValueError(f"noisy must name terms of {sorted(terms)}, got {shown(name)}")
    if not names:
        raise ValueError("noisy must name at least one term, got none")
    return [block for block in found if block.term in names]


class _Solution:
    """(J^T J)^{-1}, or that of what is determined, from the singular values of J.

    Columns are scaled to length one, so that units do not decide what counts as zero.
    """

    def __init__(self, coordinates: Coordinates, found: Sequence[Block], shares: Shares) -> None:
        self._coordinates, self._shares = coordinates, shares
        factor, *_ = triangular(coordinates, found, shares)
        lengths = factor.norm(dim=0)
        self._lengths = torch.where(lengths > 0, lengths, 1.0)
        _, s, v = torch.linalg.svd(factor / self._lengths)
        own = factor.new_tensor(sum(len(block.residual) for block in found), dtype=torch.float64)
        count = float(shares.total(own)[0])
        cutoff = torch.finfo(s.dtype).eps * max(count, len(v)) * s[0]
        rank = int((s > cutoff).sum())
        self._null, self._inverse = v[rank:], v[:rank] / s[:rank, None]

    def unseen(self, index: int) -> float:
        """Return the squared share of a parameter in the directions that have no effect."""
        return float(self._null[:, index].square().sum())

    def row(self, index: int) -> Tensor:
        """Return a row of the inverse."""
        scaled = self._inverse.T @ self._inverse[:, index]
        return scaled / self._lengths / self._lengths[index]

    def variance(self, data: Sequence[Block]) -> tuple[float, float]:
        """Return the variance of the residuals of the data, and its degrees of freedom."""
        sums = self._inverse.new_zeros(2, dtype=torch.float64)  # of squares, and their number
        gram = self._inverse.new_zeros(2 * (len(self._inverse),))
        for block in data:
            rows = Jacobian(self._coordinates, [block]).dense() / self._lengths @ self._inverse.T
            gram += rows.T @ rows
            sums[0] += block.residual.square().sum()
            sums[1] += len(block.residual)
        gram, sums = self._shares.total(gram, sums)
        squares, count = sums.tolist()
        freedom = count - 2 * float(gram.trace()) + float(gram.square().sum())
        if freedom < 0.5:
            raise ValueError(
                f"objective must have more residuals than they determine parameters to tell their "
                f"variance, got {count:.0f} with {freedom:.2g} degrees of freedom left: add data"
            )
        return squares / freedom, freedom


def _quantile(level: float, freedom: float) -> float:
    """Return how many standard errors of Student's distribution an interval reaches."""
    try:
        from scipy.stats import t
    except ModuleNotFoundError:
        raise ModuleNotFoundError("estimates needs SciPy: pip install scipy") from None
    return float(t.ppf(0.5 + 0.5 * level, freedom))
