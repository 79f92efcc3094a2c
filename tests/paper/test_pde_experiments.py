"""The PDE experiments: networks of the paper's sizes, equal work, state that survives, records."""

import json
from dataclasses import replace

import pytest
import torch
from functions import residuals

from kanlib import KAN, MLP
from kanlib.paper.experiments import EXPERIMENTS, find_case, knots, pdes, refinement, regression
from kanlib.paper.problems.burgers import Burgers
from kanlib.paper.records import load_record
from kanlib.paper.runner import run_and_record

PDES = {name: EXPERIMENTS[name] for name in ("poisson", "burgers", "allen-cahn")}
CASES = [(name, case) for name, experiment in PDES.items() for case in experiment.cases]
PARAMETERS = {
    ("poisson", "spline-multilevel"): [140, 220, 380, 700],
    ("burgers", "spline-multilevel"): [3400, 5500, 9700],
    ("poisson", "mlp"): [352],
    ("burgers", "mlp-20"): [500],
    ("burgers", "mlp-56"): [3416],
    ("allen-cahn", "spline-multilevel"): [280, 440, 760, 1400],
    ("allen-cahn", "mlp"): [336],
}


#: Table 3 of the paper: mean and standard deviation of the loss, and epochs on each level.
TABLE_3 = {
    "spline-coarse-printed": (6.635e-3, 4.060e-3, (3200,)),
    "spline-fine-printed": (4.072e-3, 2.514e-3, (800,)),
    "spline-multilevel-printed": (2.402e-5, 1.897e-5, (800, 400, 200)),
    "mlp-20": (2.334e-2, 1.740e-3, (3200,)),
    "mlp-56": (1.734e-2, 7.989e-3, (3200,)),
}


@pytest.fixture
def short(monkeypatch):
    """Make quick runs one epoch a level, on few points."""
    monkeypatch.setattr(pdes, "QUICK_DIVISOR", 10**6)


@pytest.mark.parametrize(("name", "case"), PARAMETERS)
def test_networks_have_the_sizes_of_the_paper(name, case):
    found = find_case(name, case)
    model = pdes.build(found)
    sizes = [model.num_parameters]
    for _ in found.epochs[1:]:
        model = model.refine()
        sizes.append(model.num_parameters)
    assert sizes == PARAMETERS[name, case]


def test_values_epochs_and_seeds_of_table_3_are_those_of_the_paper():
    cases = PDES["burgers"].cases
    for name, (mean, stdev, epochs) in TABLE_3.items():
        twin = name.removesuffix("-printed")  # tuned, it stands beside the same row
        assert cases[twin].paper == {"mean": mean, "stdev": stdev}
        assert cases[name].epochs == cases[twin].epochs == epochs
    assert {name for name, case in cases.items() if case.paper} == {
        name.removesuffix("-printed") for name in TABLE_3
    }
    assert PDES["burgers"].source == "Table 3"
    assert PDES["burgers"].seeds == (1234, 1244, 1254, 1264, 1274)
    printed = cases["spline-multilevel-printed"].training
    assert (printed["lr"], 2 * printed["cycle"], printed["gamma"]) == (1e-3, 100, 0.9995)


def test_figures_5_to_9_have_the_settings_of_the_paper():
    for name, case, epochs in (("poisson", "-printed", 1250), ("allen-cahn", "", 2500)):
        found = find_case(name, f"spline-multilevel{case}")
        assert (found.epochs, found.network["n"]) == ((epochs,) * 4, 4)
        assert PDES[name].seeds[0] == 1234
        keys = ("lr", "start_lr", "ramp", "damping")
        assert [found.training[key] for key in keys] == [1e-2, 1e-4, 10, 1e-4]


MISTAKES = {
    "optimizer": (lambda: pdes.training(optimizer="sgd"), "optimizer must be .*, got 'sgd'"),
    "options": (lambda: pdes.training(optimizer="lbfgs", lr=1.0), "L-BFGS takes no .*, got lr"),
    "both": (lambda: pdes.adam(1.0, 0.1, ramp=3, cycle=4), "choose ramp or cycle, got ramp=3"),
    "weights": (
        lambda: pdes.restored(find_case("poisson", "mlp"), 0, [[1.0]]),
        r"weights of level 0 must have the shapes .*, got \[\(1,\)\]",
    ),
    "target": (lambda: knots.data_of("burgers", 1, 5), "target must be one of .*, got 'burgers'"),
    "indicator": (lambda: knots.indicator_of("j", None), "adaptive must be one of .*, got 'j'"),
    "refine": (
        lambda: refinement.refinement(
            replace(find_case("refinement", "kinks-exact"), refine="x"), torch.zeros(3, 2)
        ),
        "refine must be one of .*, got 'x'",
    ),
}


@pytest.mark.parametrize(("call", "text"), MISTAKES.values(), ids=MISTAKES)
def test_parts_of_cases_that_are_unknown_are_refused(call, text):
    with pytest.raises(ValueError, match=text):
        call()


def test_networks_are_restored_on_their_device_whatever_the_default():
    case = find_case("poisson", "mlp")
    weights = [p.tolist() for p in pdes.build(case, dtype=torch.float64).parameters()]
    with torch.device("meta"):  # whose tensors have no data
        model = pdes.restored(case, 0, weights)
    assert [p.tolist() for p in model.parameters()] == weights


STARTS = [
    ("regression", "spline-coarse"),
    ("regression", "mlp-5"),
    ("poisson", "spline-multilevel"),
    ("burgers", "spline-multilevel"),
    ("burgers", "mlp-20"),
    ("allen-cahn", "spline-multilevel"),
    ("knots", "kinks-uniform-multilevel"),
    ("knots", "burgers-uniform-multilevel"),
    ("refinement", "kinks-exact"),
]


@pytest.mark.parametrize(("name", "case"), STARTS)
@pytest.mark.parametrize("seed", [1234, 7])
def test_seed_of_a_run_is_that_of_its_network(name, case, seed, monkeypatch):
    """The weights that calibration does not touch, drawn here by hand."""
    found, seen = find_case(name, case), []

    def stop(case, model, *_, **__):
        seen.append(model)
        raise ZeroDivisionError

    for module in (regression, pdes, knots, refinement):
        monkeypatch.setattr(module, "train_case", stop)
    torch.manual_seed(99)
    with pytest.raises(ZeroDivisionError):
        EXPERIMENTS[name].execute(found, seed, quick=True)
    kind = MLP if getattr(found, "mlp", False) else KAN
    torch.manual_seed(seed)
    expected = kind(**found.network, dtype=torch.float64)
    *_, drawn = expected.parameters()
    *_, used = seen[0].parameters()
    assert torch.equal(used, drawn)
    assert drawn.std() > 0


@pytest.mark.parametrize("seed", [1234, 7])
def test_seed_of_an_allen_cahn_run_is_that_of_its_points(seed, monkeypatch):
    seen = []
    monkeypatch.setattr(pdes, "train_case", lambda case, model, loss, *_, **__: seen.append(loss))
    with pytest.raises(AttributeError):
        PDES["allen-cahn"].execute(find_case("allen-cahn", "spline-multilevel"), seed, quick=True)
    draw = torch.rand(20_000, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    expected = draw * torch.tensor([2.0, 1.0]) - torch.tensor([1.0, 0.0])
    torch.testing.assert_close(seen[0].terms["volume"].points, expected)


@pytest.mark.parametrize(
    ("name", "case"),
    [
        ("poisson", "spline-fine"),
        ("poisson", "spline-fine-prolonged"),
        ("poisson", "spline-coarse"),
        ("burgers", "spline-fine-equal-work"),
    ],
)
def test_controls_do_the_work_of_multilevel(name, case):
    levels = find_case(name, "spline-multilevel").epochs
    work = sum(e * 2**k for k, e in enumerate(levels))
    control = find_case(name, case)
    assert control.epochs[0] * 2**control.start_level == pytest.approx(work, rel=0.01)


@pytest.mark.parametrize("name", PDES)
def test_controls_do_the_epochs_of_multilevel(name):
    levels = find_case(name, "spline-multilevel").epochs
    assert find_case(name, "spline-fine-epochs").epochs == (sum(levels),)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "case"), CASES)
def test_case_runs(name, case, short):
    found = find_case(name, case)
    run, metrics, solutions = PDES[name].execute(found, 1, quick=True, progress=False)
    assert run.status == "completed"
    assert metrics.keys() == {"loss", "error"}
    assert len(run.levels) == len(found.epochs)
    assert len(solutions) == (len(found.epochs) if found.keep else 0)


def test_recorded_weights_give_the_recorded_error(short, tmp_path):
    out = tmp_path / "burgers.json"
    [*run_and_record("burgers", ["spline-multilevel"], [1234, 1244], out, quick=True)]
    run, other = load_record(out, "burgers").runs
    assert not other.solutions
    case, problem = find_case("burgers", "spline-multilevel"), Burgers()
    assert [*run.solutions] == [0, 1, 2]
    for level, weights in run.solutions.items():
        model = pdes.restored(case, level, weights)
        assert problem.error(model) == pytest.approx(run.levels[level].error, rel=1e-4)


def test_weights_of_all_levels_survive_a_run_that_is_killed(short, tmp_path, monkeypatch):
    """Killed on the second level, and resumed."""
    case = replace(find_case("burgers", "spline-multilevel"), problem={"nx": 6, "nt": 6})
    options = {"quick": True, "progress": False, "checkpoint": tmp_path / "c.pt"}
    whole, _, solutions = PDES["burgers"].execute(case, 3, **options)
    (tmp_path / "c.pt").unlink()
    refine = KAN.refine

    def killed(model, *arguments):
        if model.n == 10:
            raise ZeroDivisionError
        return refine(model, *arguments)

    monkeypatch.setattr(KAN, "refine", killed)
    with pytest.raises(ZeroDivisionError):
        PDES["burgers"].execute(case, 3, **options)
    monkeypatch.setattr(KAN, "refine", refine)
    again, _, found = PDES["burgers"].execute(case, 3, **options, resume=True)
    assert found == solutions
    assert [*found] == [0, 1, 2]
    assert again.history.loss == whole.history.loss


def test_weights_of_a_run_that_diverged_are_those_that_it_returns(short):
    found = find_case("poisson", "spline-multilevel-printed")
    case = replace(
        found, problem={"cells": 4}, epochs=(10**8,), training={"lr": 1e9, "start_lr": 1.0}
    )
    with pytest.warns(RuntimeWarning, match="diverged"):
        run, _, solutions = PDES["poisson"].execute(case, 3, quick=True, progress=False)
    assert run.status == "diverged"
    assert solutions == {0: [p.tolist() for p in run.model.parameters()]}


def test_loss_is_the_weighted_sum_of_means():
    problem, network = Burgers(8, 8), pdes.build(find_case("burgers", "mlp-20")).double()
    found = residuals(problem, network)
    means = {name: (r.detach() ** 2).mean() for name, r in found.items()}
    parts = problem.loss(weights={"initial": 3.0}).parts(network)
    torch.testing.assert_close(parts, means | {"initial": 3.0 * means["initial"]})


def test_attention_is_on_the_volume_alone():
    terms = Burgers(4, 4).loss(damping=0.25).terms
    assert {name: term.attention and term.attention.damping for name, term in terms.items()} == {
        "volume": 0.25,
        "initial": None,
        "boundary": None,
    }
    assert all(term.attention is None for term in Burgers(4, 4).loss().terms.values())


def test_long_histories_are_thinned(short, tmp_path, monkeypatch):
    monkeypatch.setattr(pdes, "QUICK_DIVISOR", 4)
    monkeypatch.setattr("kanlib.paper.runner.HISTORY", 20)
    monkeypatch.setattr(Burgers.__init__, "__defaults__", (6, 6, 0.0, True))
    out = tmp_path / "burgers.json"
    [*run_and_record("burgers", ["spline-multilevel"], [1], out, quick=True)]
    history = json.loads(out.read_text())["runs"][0]["history"]
    assert 20 <= len(history["loss"]) <= 30
    ends = dict(zip(history["level"], history["epoch"], strict=True))
    assert ends == {0: 200, 1: 100, 2: 50}
    starts = [history["epoch"][history["level"].index(level)] for level in range(3)]
    assert max(starts) < 18  # every 18th is kept
    assert history["epoch"][-1] == 50
