"""The committed records of the PDE problems: full scale, every case and seed, weights that fit."""

from pathlib import Path

import pytest
import torch

from kanlib.paper.experiments import EXPERIMENTS, pdes
from kanlib.paper.problems.allen_cahn import AllenCahn
from kanlib.paper.problems.burgers import Burgers
from kanlib.paper.problems.poisson import Poisson
from kanlib.paper.records import load_record, runs_of

PROBLEMS = {"poisson": Poisson, "burgers": Burgers, "allen-cahn": AllenCahn}
RESULTS = Path(__file__).parents[2] / "book" / "results"
RECORDS = {name: load_record(RESULTS / f"{name}.json", name) for name in PROBLEMS}
CASES = [(name, case) for name in PROBLEMS for case in EXPERIMENTS[name].cases]
#: Cases with every seed of the experiment: the paper's rows. Controls may have fewer.
EVERY_SEED = {
    *(("poisson", case) for case in EXPERIMENTS["poisson"].cases),
    *(
        ("burgers", f"spline-{kind}{setting}")
        for kind in ("coarse", "fine", "multilevel")
        for setting in ("", "-printed")
    ),
    ("burgers", "mlp-20"),
    ("allen-cahn", "spline-multilevel"),
    ("allen-cahn", "relu-multilevel"),
    ("allen-cahn", "mlp"),
    *(("allen-cahn", f"spline-fine{start}-epochs") for start in ("", "-scale0.01", "-prolonged")),
}


@pytest.mark.parametrize(("name", "case"), CASES)
def test_record_is_at_full_scale_with_its_seeds(name, case):
    runs, experiment = runs_of(RECORDS[name], case), EXPERIMENTS[name]
    seeds = [run.seed for run in runs]
    expected = experiment.seeds if (name, case) in EVERY_SEED else experiment.seeds[:1]
    assert {*expected} <= {*seeds}
    for run in runs:
        assert run.config["quick"] is False
        assert tuple(level.steps for level in run.levels) == experiment.cases[case].epochs


def test_record_has_all_cases_and_no_other():
    for name, record in RECORDS.items():
        assert {run.case for run in record.runs} == {c for n, c in CASES if n == name}


@pytest.mark.parametrize("case", [c for c in CASES if EXPERIMENTS[c[0]].cases[c[1]].keep])
def test_kept_weights_have_the_recorded_error(case):
    name, key = case
    found = EXPERIMENTS[name].cases[key]
    problem = PROBLEMS[name](**found.problem)
    run = next(run for run in runs_of(RECORDS[name], key) if run.solutions)
    assert len(run.solutions) == len(found.epochs)
    for level, weights in run.solutions.items():
        model = pdes.restored(found, level, weights)
        with torch.no_grad():
            error = problem.error(model)
        assert error == pytest.approx(run.levels[level].error, rel=1e-3)
