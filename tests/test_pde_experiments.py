"""The PDE experiments: networks of the paper's sizes, equal work, state that survives, records."""

import json

import pytest
import torch

from kanlib.experiments import EXPERIMENTS, find_case, pdes
from kanlib.problems.burgers import Burgers
from kanlib.records import load_record
from kanlib.runner import run_and_record

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
    run, other = load_record(out, "burgers")["runs"]
    assert "solutions" not in other
    case, problem = find_case("burgers", "spline-multilevel"), Burgers()
    assert [*run["solutions"]] == ["0", "1", "2"]
    for level, weights in run["solutions"].items():
        model = pdes.restored(case, int(level), weights)
        assert problem.error(model) == pytest.approx(run["levels"][int(level)]["error"], rel=1e-4)


def test_attention_and_kept_weights_survive_a_checkpoint():
    problem, model = Burgers(8, 8), pdes.build(find_case("burgers", "spline-multilevel"))
    model = model.double()
    loss, other = (pdes.WeightedLoss(problem, damping=0.5) for _ in range(2))
    loss(model)
    loss.after_step()
    loss.error(model)
    other.load_state_dict(loss.state_dict())
    assert torch.equal(other(model), loss(model))
    assert other.seen.keys() == {5}


def test_loss_is_the_weighted_sum_of_means():
    problem, model = Burgers(8, 8), pdes.build(find_case("burgers", "mlp-20")).double()
    problem.weights["initial"] = 3.0
    r = problem.residuals(model)
    expected = sum(problem.weights[k] * float((v.detach() ** 2).mean()) for k, v in r.items())
    assert float(pdes.WeightedLoss(problem)(model).detach()) == pytest.approx(expected, rel=1e-12)


def test_long_histories_are_thinned(short, tmp_path, monkeypatch):
    monkeypatch.setattr(pdes, "QUICK_DIVISOR", 4)
    monkeypatch.setattr("kanlib.runner.HISTORY", 20)
    monkeypatch.setattr(Burgers.__init__, "__defaults__", (6, 6, 0.0, True))
    out = tmp_path / "burgers.json"
    [*run_and_record("burgers", ["spline-multilevel"], [1], out, quick=True)]
    history = json.loads(out.read_text())["runs"][0]["history"]
    assert 20 <= len(history["loss"]) <= 30
    assert [history["level"].count(k) > 0 for k in range(3)] == [True] * 3
    assert history["epoch"][-1] == 50
