"""Ratios over all pairs of seeds, against SciPy's exact rank test."""

import itertools
import math
import statistics

import numpy as np
import pytest
from scipy import stats

from kanlib.paper.comparison import compare, compare_cases, figures_of, plain, solved
from kanlib.paper.records import Measurement, Record, RecordedHistory, RecordedRun

SIZES = [(5, 5), (3, 3), (3, 5), (5, 3), (1, 3), (1, 1), (4, 7), (8, 6)]


def samples(m, n, shift=0.0):
    rng = np.random.default_rng(100 * m + n)
    return np.exp(3 * rng.standard_normal(m) + shift), np.exp(rng.standard_normal(n))


@pytest.mark.parametrize(("m", "n"), SIZES)
def test_comparison_ratio_is_the_median_over_all_pairs(m, n):
    theirs, ours = samples(m, n)
    logs = [math.log(a / b) for a, b in itertools.product(theirs, ours)]
    found = compare(theirs, ours)
    assert found.ratio == pytest.approx(math.exp(statistics.median(logs)))
    assert found.wins == pytest.approx(sum(value > 0 for value in logs) / (m * n))
    assert found.seeds == (m, n)
    other = compare(ours, theirs)
    assert (other.ratio, other.low, other.high, other.level) == pytest.approx(
        (1 / found.ratio, 1 / found.high, 1 / found.low, found.level)
    )


@pytest.mark.parametrize(("m", "n"), SIZES)
def test_comparison_interval_holds_what_the_rank_test_does_not_reject(m, n):
    theirs, ours = samples(m, n)
    found = compare(theirs, ours)

    def p_value(factor):
        return stats.mannwhitneyu(theirs / factor, ours, method="exact").pvalue

    for end, outside in ((found.low, 1 - 1e-9), (found.high, 1 + 1e-9)):
        assert p_value(end * outside) == pytest.approx(1 - found.level)
        assert p_value(end / outside) > 0.05
    assert found.level >= 0.95 or p_value(1e9) == pytest.approx(1 - found.level)


def test_comparison_levels_that_five_and_three_seeds_can_have():
    levels = {(m, n): compare(*samples(m, n)).level for m, n in SIZES}
    assert levels[5, 5] == pytest.approx(1 - 8 / 252)
    assert levels[3, 3] == pytest.approx(0.9)
    assert levels[3, 5] == pytest.approx(1 - 2 / 56)
    assert levels[1, 3] == pytest.approx(0.5)


def test_comparison_does_not_depend_on_the_order_of_seeds():
    theirs, ours = samples(5, 5)
    for order in itertools.permutations(range(5)):
        assert compare(theirs[list(order)], ours) == compare(theirs, ours)


def test_comparison_decides_where_the_interval_leaves_out_one():
    small, large = [1.0, 2.0, 3.0], [4.0, 5.0, 6.0]
    assert compare(large, small).verdict == "larger"
    assert compare(small, large).verdict == "smaller"
    assert compare([1.5, 5.0, 6.0], small).verdict == "cannot tell"
    assert compare([0.9, 5.0, 6.0], small).verdict == "cannot tell"
    assert compare([9.0], small).verdict == "cannot tell", "one seed never decides"
    assert compare([8.0, 9.0], small).verdict == "cannot tell", "nor do two"


def test_comparison_with_runs_that_diverged():
    found = compare([math.inf, 2.0, math.inf], [1.0, 1.0, 1.0])
    assert (found.ratio, found.low, found.high) == (math.inf, 2.0, math.inf)


@pytest.mark.parametrize("bad", [[], [0.0], [-1.0], [math.nan], [[1.0]]])
def test_comparison_names_what_is_no_positive_number(bad):
    with pytest.raises(ValueError, match="theirs must hold a positive"):
        compare(bad, [1.0])
    with pytest.raises(ValueError, match="ours must hold a positive"):
        compare([1.0], bad)
    with pytest.raises(ValueError, match="ours must hold a positive"):
        compare([1.0], [math.inf])


def run(case, seed, error, history):
    errors = [Measurement(10.0 * k, k, value) for k, value in enumerate(history)]
    metrics, history = {"error": error}, RecordedHistory(errors=errors)
    return RecordedRun(case, seed, {}, 20, "completed", "", [], metrics, history)


def test_comparison_of_cases_reads_every_seed_at_the_end_or_after_some_work():
    runs = [
        run("fine", 2, 9.0, [90.0, 18.0, 9.0]),
        run("levels", 1, 2.0, [5.0, 2.0]),
        run("fine", 1, None, [90.0, 20.0, None]),
    ]
    record = Record("regression", runs=runs)
    found = compare_cases(record, "fine", "levels", "error")
    assert (found.low, found.high, found.seeds) == (4.5, math.inf, (2, 1))
    assert compare_cases(record, "fine", "levels", "error", 10).ratio == pytest.approx(90**0.5)
    assert figures_of(record, "fine", "error", 20) == [math.inf, 9.0]
    with pytest.raises(ValueError, match=r"theirs must .* \[\]"):
        compare_cases(record, "coarse", "levels", "error")


def test_solved_counts_the_runs_below_a_bound():
    runs = [run("a", 1, 0.1, []), run("a", 2, None, []), run("b", 1, 0.19, [])]
    record = Record("regression", runs=runs)
    assert solved(record, "a") == "1 of 2"
    assert solved(record, "a", "b") == "2 of 3"
    assert solved(record, "a", "b", below=0.1) == "none of 3"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (219.6, "220"),
        (0.00312, "0.0031"),
        (0.4, "0.40"),
        (1.004, "1.0"),
        (9.94, "9.9"),
        (9.96, "10"),
        (12960.0, "13000"),
        (math.inf, "inf"),
    ],
)
def test_plain_has_two_digits_and_no_power_of_ten(value, text):
    assert plain(value) == text
