"""The experiment on bases: that sizes and starts are comparable, and that each case runs."""

import pytest
import torch

from kanlib import KAN
from kanlib.nn.expansion import ExpansionKAN
from kanlib.paper.experiments import bases, find_experiment

EXPERIMENT = find_experiment("bases")


def on_levels(case):
    models = [bases.network(case)]
    refine = bases.refinement(case)
    for _ in case.epochs[1:]:
        models.append(refine(models[-1]))
    return models


@pytest.mark.filterwarnings("ignore:refine")
@pytest.mark.parametrize("problem", ["regression", "poisson", "burgers", "allen-cahn"])
def test_all_bases_have_the_parameters_of_splines(problem):
    splines = on_levels(EXPERIMENT.cases[f"{problem}-splines"])
    assert all(isinstance(model, KAN) for model in splines)
    for basis in bases.BASES:
        models = on_levels(EXPERIMENT.cases[f"{problem}-{basis}"])
        for ours, theirs in zip(models, splines, strict=True):
            edges = sum(w.shape[0] * w.shape[1] for w in ours.parameters() if w.ndim == 3)
            missing = theirs.num_parameters - ours.num_parameters
            assert missing in ({0, edges} if "fourier" in basis else {0}), basis
            assert isinstance(ours, ExpansionKAN)
            domains = [layer.domain for layer in ours.expansion_layers]
            assert domains == [layer.domain for layer in theirs.spline_layers]


@pytest.mark.parametrize("basis", [b for b in bases.BASES if b != "radial"])
def test_refinement_keeps_the_network(basis):
    torch.manual_seed(0)
    x = torch.rand(50, 2, dtype=torch.float64)
    coarse, *finer = on_levels(EXPERIMENT.cases[f"regression-{basis}"])
    for model in finer:
        assert (model(x) - coarse(x)).abs().max() < 1e-12


def test_cases_of_a_problem_differ_in_the_basis_alone():
    for name, case in EXPERIMENT.cases.items():
        alike = EXPERIMENT.cases[name.removesuffix(case.basis) + "splines"]
        for field in ("problem", "network", "epochs", "points", "every", "keep", "optimizer"):
            assert getattr(case, field) == getattr(alike, field)


@pytest.mark.filterwarnings("ignore:refine")
@pytest.mark.parametrize(
    "name",
    [
        *("regression-splines", "regression-fourier-double", "regression-radial"),
        *("regression-lbfgs-wavelets", "regression-lbfgs-chebyshev", "poisson-legendre"),
    ],
)
def test_quick_case_runs(name, monkeypatch, tmp_path):
    monkeypatch.setattr(bases, "QUICK_DIVISOR", 40)
    monkeypatch.setattr(bases, "QUICK_POINTS", 30)
    case, options = EXPERIMENT.cases[name], {"quick": True, "progress": False}
    run, metrics, _ = EXPERIMENT.execute(case, 1234, **options, checkpoint=tmp_path / "run.pt")
    assert run.status == "completed"
    ratios = [level.work / level.epochs for level in run.levels]
    assert ratios == [2.0**level for level in range(len(case.epochs))]
    assert metrics["error"] == run.history.metrics[-1]["error"] > 0
    assert not [*tmp_path.iterdir()]
