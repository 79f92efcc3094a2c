"""The cost planner: counts against networks, the fit against known constants, controls alike."""

import numpy as np
import pytest
import torch

from benchmarks.measuring import peak_memory
from benchmarks.networks import network, points, training_step
from kanlib import KAN
from kanlib.planner import CostModel, Layer, layers_of, plan

MODEL = CostModel((1e-4, 1e-9, 2e-10, 3e-9))


@pytest.mark.parametrize("first", ["spline", "affine", "linear"])
def test_parameters_are_those_of_the_network(first):
    costs = plan([2, 5, 3, 1], 5, [8, 4, 2], 100, MODEL, r=3, first=first)
    coarse = KAN([2, 5, 3, 1], n=5, r=3, first=first)
    fine = coarse.refine().refine()
    assert costs["coarse, equal work"].parameters == coarse.num_parameters
    for name in ("multilevel", "fine, equal work", "fine, equal epochs"):
        assert costs[name].parameters == fine.num_parameters
        assert costs[name].n == fine.n == 20


def test_controls_do_the_same_work_or_epochs():
    costs = plan([2, 5, 1], 5, [32, 16, 8, 4], 20_000, MODEL, first="affine")
    assert {costs[name].work for name in costs if "work" in name} == {128.0}
    assert costs["multilevel"].work == 128.0
    assert [costs[name].epochs for name in costs] == [60, 128, 16, 60]


def test_operations_are_three_sums_over_r_rows_at_each_edge():
    costs = plan([3, 4, 2], 5, [7], 11, MODEL, r=3, evaluations=2.0)
    one_step = sum(3 * 2 * 11 * p * q * 3 for p, q in ((3, 4), (4, 2)))
    assert costs["multilevel"].operations == 2 * 7 * one_step


def test_seconds_are_the_four_terms_of_each_layer():
    seconds = MODEL.seconds(layers_of([3, 4, 2], 6, 50, r=2))
    expected = 0.0
    for p, q in ((3, 4), (4, 2)):
        expected += 1e-4 + 1e-9 * 50 * p * 4 + 2e-10 * 50 * p * q * 2 + 3e-9 * p * q * 7
    assert seconds == pytest.approx(expected, rel=1e-12)
    costs = plan([3, 4, 2], 6, [5, 3], 50, MODEL, r=2)
    fine = MODEL.seconds(layers_of([3, 4, 2], 12, 50, r=2))
    assert costs["multilevel"].seconds == pytest.approx(5 * seconds + 3 * fine)
    assert costs["fine, equal epochs"].seconds == pytest.approx(8 * fine)


def test_fit_finds_known_constants():
    random = np.random.default_rng(0)
    layers = [Layer(*(int(v) for v in random.integers(1, 400, 4)), r) for r in (2, 3, 4, 5) * 10]
    found = CostModel.fit([(layer, MODEL.seconds([layer])) for layer in layers])
    np.testing.assert_allclose(found.constants, MODEL.constants, rtol=1e-6)


def test_fit_has_no_negative_constant():
    layers = [Layer(b, 8, 8, n) for b in (100, 1000) for n in (5, 50, 500)]
    falling = [(layer, 1e-3 - 1e-6 * layer.n) for layer in layers]
    assert min(CostModel.fit(falling).constants) >= 0.0


@pytest.mark.parametrize(
    ("widths", "count", "n"),
    [
        ([2, 5, 1], 20_000, 50),
        ([64, 64, 64, 64], 1024, 5),
        ([64, 64, 64, 64], 1024, 200),
        ([784, 64, 10], 256, 50),
        ([64, 64], 16_384, 16),
    ],
)
def test_memory_is_what_a_step_allocates(widths, count, n):
    model, x = network(widths, n), points(count, widths[0])
    step = training_step(model, x, torch.zeros(count, widths[-1]))
    held = peak_memory(step, [*model.parameters()])
    predicted = plan(widths, n, [1], count, MODEL)["multilevel"].memory
    assert 0.95 < predicted / held < 1.2


def test_planner_refuses_what_it_cannot_plan():
    with pytest.raises(ValueError, match="widths must have a layer of splines"):
        layers_of([2, 5], 5, 100, first="affine")
    with pytest.raises(ValueError, match="points must be at least 1 and evaluations positive"):
        plan([2, 1], 5, [1], 0, MODEL)
    with pytest.raises(ValueError, match="at least 4 layers with positive times, got 1"):
        CostModel.fit([(Layer(1, 1, 1, 1), 1.0)])
    with pytest.raises(ValueError, match="epochs must be"):
        plan([2, 1], 5, [], 100, MODEL)
