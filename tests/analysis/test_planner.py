"""The cost planner: counts against networks, the fit against known constants, controls alike."""

import json
import math
import statistics

import numpy as np
import pytest
import torch

from benchmarks import planner as command
from benchmarks.measuring import peak_memory
from benchmarks.networks import network, points, training_step
from kanlib import KAN, KnotGrid, SplineLayer
from kanlib.analysis import planner
from kanlib.analysis.cost import count_operations, evaluate
from kanlib.analysis.planner import (
    CALIBRATION,
    TERMS,
    CostModel,
    Layer,
    calibrate,
    layers_of,
    measure_layers,
    plan,
)

MODEL = CostModel((1e-4, 1e-9, 2e-10, 3e-9, 4e-9, 5e-9))
FINE = ("multilevel", "fine, equal work", "fine, equal epochs")
COARSE = ("coarse, equal work", "coarse, equal epochs")


@pytest.mark.parametrize("first", ["spline", "affine", "linear"])
def test_parameters_are_those_of_the_network(first):
    costs = plan([2, 5, 3, 1], 5, [8, 4, 2], 100, MODEL, r=3, first=first)
    coarse = KAN([2, 5, 3, 1], n=5, r=3, first=first)
    fine = coarse.refine().refine()
    assert {*costs} == {*FINE, *COARSE}
    for names, model in ((COARSE, coarse), (FINE, fine)):
        for name in names:
            assert costs[name].parameters == model.num_parameters
            assert costs[name].n == model.n


def test_controls_do_the_same_work_or_epochs():
    costs = plan([2, 5, 1], 5, [32, 16, 8, 4], 20_000, MODEL, first="affine")
    assert {costs[name].work for name in costs if "work" in name} == {128.0}
    assert costs["multilevel"].work == 128.0
    assert {name: cost.epochs for name, cost in costs.items()} == {
        "multilevel": 60,
        "coarse, equal work": 128,
        "coarse, equal epochs": 60,
        "fine, equal work": 16,
        "fine, equal epochs": 60,
    }


@pytest.mark.parametrize("differentiated", [True, False])
@pytest.mark.parametrize("r", [1, 2, 4, 5])
def test_operations_are_those_that_torch_executes(r, differentiated):
    layer = SplineLayer(3, 2, KnotGrid.uniform(r, 6), dtype=torch.float64)

    def products(count):
        x = torch.rand(count, 3, dtype=torch.float64, requires_grad=differentiated)
        return count_operations(lambda: evaluate(layer, x).sum().backward()).products

    # What does not depend on the points, the polynomials of the weights, cancels.
    one_point = products(12) - products(11)
    assert one_point == Layer(1, 3, 2, 6, r, differentiated).operations
    assert Layer(7, 3, 2, 60, r, differentiated).operations == 7 * one_point


def test_operations_of_a_plan_are_sums_over_r_rows_at_each_edge():
    costs = plan([3, 4, 2], 5, [7, 1], 11, MODEL, r=3, evaluations=2.0)
    one_step = 2 * 2 * 11 * 3 * 4 * 3 + 3 * 2 * 11 * 4 * 2 * 3
    assert costs["multilevel"].operations == 2 * 8 * one_step
    later = plan([3, 4, 2], 5, [7, 1], 11, MODEL, r=3, first="linear")
    assert later["multilevel"].operations == 8 * 3 * 2 * 11 * 4 * 2 * 3


def test_seconds_are_the_six_terms_of_each_layer():
    seconds = MODEL.seconds(layers_of([3, 4, 2], 6, 50, r=2))
    expected = 0.0
    for p, q, sums in ((3, 4, 2), (4, 2, 3)):
        expected += 1e-4 + 1e-9 * 50 * p * 4 + 2e-10 * 50 * p * q * 2 * sums / 3
        expected += 3e-9 * p * q * 7 + 4e-9 * 50 * p + 5e-9 * 50 * q
    assert seconds == pytest.approx(expected, rel=1e-12)
    costs = plan([3, 4, 2], 6, [5, 3], 50, MODEL, r=2)
    fine = MODEL.seconds(layers_of([3, 4, 2], 12, 50, r=2))
    assert costs["multilevel"].seconds == pytest.approx(5 * seconds + 3 * fine)
    assert costs["coarse, equal epochs"].seconds == pytest.approx(8 * seconds)
    assert costs["fine, equal epochs"].seconds == pytest.approx(8 * fine)


def test_first_layer_needs_no_gradient_in_its_inputs():
    assert [layer.differentiated for layer in layers_of([2, 3, 3, 1], 5, 9)] == [False, True, True]
    assert [layer.differentiated for layer in layers_of([2, 3, 1], 5, 9, first="linear")] == [True]


@pytest.mark.parametrize("terms", [TERMS, TERMS[:4], ("weights", "call")])
def test_fit_finds_known_constants(terms):
    known = CostModel(
        tuple(c if t in terms else 0.0 for t, c in zip(TERMS, MODEL.constants, strict=True))
    )
    random = np.random.default_rng(0)
    layers = [
        Layer(*(int(v) for v in random.integers(1, 400, 4)), r, bool(i % 2))
        for i, r in enumerate((2, 3, 4, 5) * 10)
    ]
    found = CostModel.fit([(layer, known.seconds([layer])) for layer in layers], terms)
    np.testing.assert_allclose(found.constants, known.constants, rtol=1e-6)


def test_fit_has_no_negative_constant():
    layers = [Layer(b, 8, 8, n) for b in (100, 1000) for n in (5, 50, 500)]
    falling = [(layer, 1e-3 - 1e-6 * layer.n) for layer in layers]
    assert min(CostModel.fit(falling).constants) >= 0.0


def test_calibration_tells_all_terms_apart(monkeypatch):
    def synthetic(steps, repeats):
        seconds = [MODEL.seconds([layer]) for layer in CALIBRATION]
        noise = [0.5, *[1.0] * (repeats - 2), 3.0]
        return {
            name: [second * factor for factor in noise]
            for name, second in zip(steps, seconds, strict=True)
        }

    monkeypatch.setattr(planner, "measure", synthetic)
    np.testing.assert_allclose(calibrate().constants, MODEL.constants, rtol=1e-6)


def test_measured_steps_run_forward_and_backward(monkeypatch):
    shapes = []

    def run(steps, repeats):
        shapes.append([tuple(slope.shape for slope in step()) for step in steps.values()])
        return {name: [1.0] * repeats for name in steps}

    monkeypatch.setattr(planner, "measure", run)
    layers = [Layer(7, 3, 2, 4, 2), Layer(7, 3, 2, 4, 2, differentiated=False)]
    assert measure_layers(layers, 2) == [(layer, 1.0) for layer in layers]
    assert shapes == [[((2, 3, 5), (7, 3)), ((2, 3, 5),)]]


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


def test_memory_is_that_of_the_finest_level():
    costs = plan([64, 64], 5, [4, 2, 1], 256, MODEL, itemsize=8)
    single = {n: plan([64, 64], n, [1], 256, MODEL)["multilevel"].memory for n in (5, 20)}
    assert single[5] < single[20]
    assert {costs[name].memory for name in FINE} == {2 * single[20]}
    assert {costs[name].memory for name in COARSE} == {2 * single[5]}


ONE = (Layer(1, 1, 1, 1), 1.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: layers_of([2, 5], 5, 9, first="affine"), "layer of splines, got .2, 5. .* add a"),
        (lambda: layers_of([2, 5], 5, 9, first="mlp"), "first must be one of .*, got 'mlp'"),
        (lambda: layers_of([2, 0], 5, 9), "widths must be at least 1, got 0"),
        (lambda: layers_of([2, 1], 5, 9, r=0), "r must be at least 1, got 0"),
        (lambda: plan([2, 1], 0, [1], 9, MODEL), "n must be at least 1, got 0"),
        (lambda: plan([2, 1], 5.0, [1], 9, MODEL), "n must be an integer.*, got 5.0"),
        (lambda: plan([2, 1], 5, [1], 0, MODEL), "points must be at least 1, got 0"),
        (lambda: plan([2, 1], 5, [1], 9, MODEL, itemsize=0), "itemsize must be at least 1, got 0"),
        (lambda: plan([2, 1], 5, [], 9, MODEL), "epochs must be"),
        (
            lambda: plan([2, 1], 5, [1], 9, MODEL, evaluations=0),
            "evaluations must be a finite number above 0, got 0",
        ),
        (lambda: CostModel.fit([ONE]), "at least 6 layers, .*, got 1: measure more"),
        (lambda: CostModel.fit([]), "at least 6 layers, .*, got 0: measure more"),
        (lambda: CostModel.fit([ONE] * 5 + [(ONE[0], 0.0)]), r"measured\[5\] .* above 0, got 0.0"),
        (lambda: CostModel.fit([ONE] * 6, ["cache"]), r"some of .*, got \['cache'\]"),
    ],
)
def test_planner_refuses_what_it_cannot_plan(call, message):
    with pytest.raises((TypeError, ValueError), match=message):
        call()


def test_command_writes_a_record(tmp_path):
    out = tmp_path / "planner.json"
    command.main(["--quick", "--out", str(out)])
    record = json.loads(out.read_text(encoding="utf-8"))
    assert record["quick"] is True
    assert {*record["constants"]} == {*TERMS}
    assert {case["optimizer"] for case in record["trainings"]} == {*command.OPTIMIZERS}


def test_outside_is_the_part_of_inputs_beyond_the_domain():
    model = KAN([2, 2, 1], n=4, first="linear")
    with torch.no_grad():
        model.layers[0].weight.copy_(torch.diag(torch.tensor([1.0, 2.0])))
    x = torch.tensor([[0.5, 0.25], [0.5, 0.75], [-0.5, 0.25], [1.5, 0.25]])
    assert command.outside(model, x) == 3 / 8


def test_committed_record_is_complete_and_fitted_to_its_layers():
    record = json.loads(command.RECORD.read_text(encoding="utf-8"))
    assert record["quick"] is False
    cases = [(c["widths"], c["first"], c["points"], c["n"], c["r"]) for c in record["networks"]]
    assert cases == [
        (*each, n, r) for each in command.NETWORKS for n in command.GRIDS for r in command.ORDERS
    ]
    middle = [
        (Layer(**{key: each[key] for key in Layer._fields}), statistics.median(each["seconds"]))
        for each in record["layers"]
    ]
    assert [layer for layer, _ in middle] == CALIBRATION
    stored = CostModel(tuple(record["constants"].values()))
    np.testing.assert_allclose(CostModel.fit(middle).constants, stored.constants, rtol=0.05)
    for case in record["networks"]:
        assert command.predicted(stored, case) == pytest.approx(case["predicted"], rel=2e-3)
        ratio = case["predicted"] / case["seconds"]["median"]
        assert 0.9 * min(case["ratio"]) < ratio < 1.1 * max(case["ratio"])


def test_committed_record_needs_the_terms_that_do_not_know_the_order():
    record = json.loads(command.RECORD.read_text(encoding="utf-8"))
    layers = [
        (Layer(**{key: each[key] for key in Layer._fields}), statistics.median(each["seconds"]))
        for each in record["layers"]
    ]

    def error(terms):
        model = CostModel.fit(layers, terms)
        logs = [
            math.log(command.predicted(model, case) / case["seconds"]["median"])
            for case in record["networks"]
        ]
        return math.sqrt(statistics.fmean(log**2 for log in logs))

    assert error(TERMS) < 0.5 * error(TERMS[:4])
