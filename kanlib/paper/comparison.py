"""How many times larger one case's losses or errors are than another's, over all pairs of seeds.

Different starts share nothing but the number of their seed, so nothing pairs their runs: every run
of one case meets every run of the other. The ratio is the median over all pairs, the estimate of
Hodges and Lehmann of a shift of the logarithm. Its interval is the one of Wilcoxon's (Mann and
Whitney's) rank test, which is exact for any distribution and any number of seeds: it holds all
factors by which the test cannot tell the scaled cases apart.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from kanlib._checks import as_list, shown
from kanlib.paper.records import Record, runs_of, value_at

__all__ = ["Comparison", "compare", "compare_cases", "figures_of", "plain", "solved"]

LEVEL = 0.95
LEAST = 0.9
"""The level that an interval wants, and the least one that decides (of three against three)."""


@dataclass(frozen=True)
class Comparison:
    """A ratio over all pairs of seeds.

    Attributes:
        ratio: median over the pairs; above one, theirs is larger.
        low: lower end of the interval.
        high: upper end of the interval.
        level: probability that such an interval holds the true factor.
        wins: share of the pairs in which theirs is larger.
        seeds: how many runs there are, theirs and ours.

    Examples:
        >>> found = compare([4.0, 6.0, 8.0], [1.0, 2.0, 2.0])
        >>> found.ratio, found.seeds, found.verdict
        (4.0, (3, 3), 'larger')
    """

    ratio: float
    low: float
    high: float
    level: float
    wins: float
    seeds: tuple[int, int]

    @property
    def verdict(self) -> str:
        """Whether theirs is "larger" or "smaller", or that the runs "cannot tell".

        They cannot if the interval holds one, or if its level is below 0.9.
        """
        if self.level < LEAST - 1e-9 or self.low <= 1 <= self.high:
            return "cannot tell"
        return "larger" if self.low > 1 else "smaller"

    def __str__(self) -> str:
        return f"{plain(self.ratio)} ({plain(self.low)} to {plain(self.high)})"


def compare(theirs: Sequence[float], ours: Sequence[float]) -> Comparison:
    """Return how many times larger ``theirs`` is than ``ours``.

    The interval has a level of at least 0.95 where the number of runs allows it, and otherwise
    the highest that there is, with all pairs in it: 0.9 for three against three.

    Args:
        theirs: losses or errors, one a seed; infinity for a run that diverged.
        ours: the same of the other case, all finite.

    Raises:
        ValueError: if either is empty or holds what is no positive number.

    Examples:
        >>> print(compare([4.0, 6.0, 8.0], [1.0, 2.0, 2.0]))
        4.0 (2.0 to 8.0)
    """
    a, b = _as_array("theirs", theirs), _as_array("ours", ours)
    for name, values, most in (("theirs", a, math.inf), ("ours", b, np.finfo(np.float64).max)):
        if values.ndim != 1 or not len(values) or not ((values > 0) & (values <= most)).all():
            raise ValueError(
                f"{name} must hold a positive loss or error of each seed, got {values.tolist()!r}: "
                "leave out what was not run; only theirs may have infinity, for a diverged run"
            )
    ratios = np.sort((a[:, None] / b).ravel())
    orders = [_orders(len(a), len(b), pairs) for pairs in range(len(ratios))]
    tails = 2 * np.cumsum(orders) / math.comb(len(a) + len(b), len(a))
    cut = max(int((tails <= 1 - LEVEL + 1e-12).sum()) - 1, 0)
    middle = ratios[(len(ratios) - 1) // 2], ratios[len(ratios) // 2]
    return Comparison(
        ratio=math.sqrt(middle[0]) * math.sqrt(middle[1]),
        low=float(ratios[cut]),
        high=float(ratios[-1 - cut]),
        level=max(1 - float(tails[cut]), 0.0),
        wins=float((ratios > 1).mean()),
        seeds=(len(a), len(b)),
    )


def _as_array(name: str, values: Sequence[float]) -> np.ndarray:
    found = as_list(name, values, "losses or errors")
    try:
        return np.asarray(found, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        raise TypeError(f"{name} must hold numbers, got {shown(values)}") from None


def compare_cases(
    record: Record, theirs: str, ours: str, figure: str, work: float | None = None
) -> Comparison:
    """Return `compare` of two cases of a record.

    Args:
        record: a record.
        theirs: the case that is compared.
        ours: the case that it is compared with.
        figure: what to compare, such as "error".
        work: where to read ``theirs``, in coarse epochs; None for the end of the run.

    Raises:
        ValueError: if a case has no run in the record.

    Examples:
        >>> from kanlib.paper.records import Record, RecordedRun
        >>> record = Record("regression")
        >>> for case, errors in {"coarse": (0.4, 0.6, 0.8), "fine": (0.1, 0.2, 0.2)}.items():
        ...     for seed, error in enumerate(errors):
        ...         metrics = {"error": error}
        ...         record.runs.append(RecordedRun(case, seed, {}, 9, "completed", "", [], metrics))
        >>> print(compare_cases(record, "coarse", "fine", "error"))
        4.0 (2.0 to 8.0)
    """
    return compare(figures_of(record, theirs, figure, work), figures_of(record, ours, figure))


def figures_of(record: Record, case: str, figure: str, work: float | None = None) -> list[float]:
    """Return a figure of every seed of a case, at the end or after ``work``; diverged: infinity.

    Examples:
        >>> from kanlib.paper.records import Record, RecordedRun
        >>> record = Record("regression")
        >>> for seed, error in enumerate((0.1, None)):
        ...     metrics = {"error": error}
        ...     record.runs.append(RecordedRun("fine", seed, {}, 9, "completed", "", [], metrics))
        >>> figures_of(record, "fine", "error")
        [0.1, inf]
    """
    found = (
        run.metrics[figure] if work is None else value_at(run, figure, work)
        for run in runs_of(record, case)
    )
    return [math.inf if value is None else value for value in found]


def solved(record: Record, *cases: str, below: float = 0.2) -> str:
    """Return how many runs of some cases end with an error below a bound, as "none of 3".

    Examples:
        >>> from kanlib.paper.records import Record, RecordedRun
        >>> record = Record("regression")
        >>> for seed, error in enumerate((0.1, 0.3)):
        ...     metrics = {"error": error}
        ...     record.runs.append(RecordedRun("fine", seed, {}, 9, "completed", "", [], metrics))
        >>> solved(record, "fine")
        '1 of 2'
    """
    found = [error for case in cases for error in figures_of(record, case, "error")]
    return f"{sum(error < below for error in found) or 'none'} of {len(found)}"


def plain(value: float) -> str:
    """Return a ratio with two digits and no power of ten where that is legible: 0.40, 1.0, 220.

    Examples:
        >>> [plain(value) for value in (0.404, 1.0, 218.0)]
        ['0.40', '1.0', '220']
    """
    return f"{value:#.2g}" if value < 9.95 else f"{float(f'{value:.2g}'):g}"


@cache
def _orders(m: int, n: int, pairs: int) -> int:
    """Return in how many orders of m + n runs the first case is larger in so many pairs."""
    if pairs < 0 or not (m and n):
        return int(pairs == 0)
    return _orders(m - 1, n, pairs - n) + _orders(m, n - 1, pairs)  # the largest: first, or second
