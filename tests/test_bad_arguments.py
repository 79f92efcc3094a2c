"""Whatever a public function is called with, it returns, or says in one sentence what is wrong."""

import inspect
import math
import re
import traceback
from functools import partial
from pathlib import Path

import pytest
import torch

import kanlib
from kanlib import (
    KAN,
    MLP,
    Attention,
    Ensemble,
    Jet,
    KnotGrid,
    MeanSquaredError,
    ResidualLoss,
    Schedule,
    SplineLayer,
    Term,
)
from kanlib.analysis import (
    conditioning,
    cost,
    estimates,
    importance,
    ntk,
    planner,
    pruning,
    relaxation,
    smoothing,
    spectra,
)
from kanlib.bases import projections
from kanlib.domains.polygons import Polygon
from kanlib.domains.shapes import Box, Difference, Disc
from kanlib.formulas import formula, regressors
from kanlib.nn import maps
from kanlib.objectives import penalties, squares
from kanlib.paper import comparison, refit
from kanlib.paper.problems.allen_cahn import AllenCahn
from kanlib.paper.problems.burgers import Burgers
from kanlib.paper.problems.poisson import Poisson
from kanlib.splines import bspline, change_of_basis, quadrature, truncated_power
from kanlib.splines.prolongation import dyadic_prolongation
from kanlib.training import adaptive
from kanlib.training.iterations import Iteration
from kanlib.training.jacobian import jacobian
from kanlib.viz import drawings

PACKAGE = Path(kanlib.__file__).parent
BAD = {
    "None": None,
    "nan": math.nan,
    "inf": math.inf,
    "-1": -1,
    "True": True,
    "1.5": 1.5,
    "x": "x",
    "[]": [],
    "{}": {},
    "object": object(),
    "integers": torch.tensor([1, 2]),
    "empty": torch.empty(0),
    "number": torch.tensor(0.5, dtype=torch.float64),
    "half": torch.ones(5, 2, dtype=torch.float16),
    "rank 3": torch.ones(1, 5, 2, dtype=torch.float64),
    "class": KAN,
    "huge": 10**400,
}

torch.manual_seed(0)
GRID, FINE = KnotGrid.uniform(3, 4), KnotGrid.uniform(3, 8)
BASIS = kanlib.Legendre(3)
X, MODEL, LAYER = (
    torch.rand(5, 2).double(),
    KAN([2, 1], dtype=torch.float64),
    SplineLayer(2, 1, GRID),
)
MATRIX, VECTOR = torch.eye(3).double(), torch.ones(3).double()


class Sine:
    """A symbolic regressor with a single candidate."""

    def fit(self, X, y):
        return self

    def __str__(self):
        return "sin(X0)"


def loss(model):
    return model(X).square().mean()


def use_backend(name):
    with kanlib.backend(name):
        pass


FACTORY = {"device": None, "dtype": torch.float64}
PLACE = {"device": "cpu", "dtype": torch.float64}
INITIAL = {"basis": "spline", "extension": "linear", "init_scale": 0.1, "init_basis": "spline"}
RATES = {"geometry": "spline", "gradient": "spline"}
ADAM = partial(torch.optim.Adam, lr=1e-3)
OPTIONS = {"optimizer": ADAM, "scheduler": None, "batches": None, "metrics": None}
OPTIONS |= {"metrics_every": 1, "callbacks": (), "checkpoint": None, "checkpoint_every": 5.0}
OPTIONS |= {"resume": False}
MSE = MeanSquaredError(X, X[:, :1])
PLACES = torch.rand(99, 2).double()
SHIFT = kanlib.Unknowns(k=0.0, dtype=torch.float64)
LINE = Term(lambda u, x, q: q.k + x[:, :1] ** 9 * (u.value - x[:, 1:]), PLACES, unknowns=SHIFT)
INVERSE = ResidualLoss(line=LINE)
BLOCK = planner.Layer(5, 2, 1, 4)
SQUARE, DISC = Box([(0, 1), (0, 1)]), Disc((0, 0), 0.5)
CIRCLE = kanlib.Interface(lambda x: x.square().sum(dim=1, keepdim=True) - 0.25)
CALLS = [
    # the networks
    (
        KAN,
        {"widths": [2, 3, 1], "n": 4, "r": 3, "domain": (0, 1), "first": "spline"}
        | {"breakpoints": None, "prolonged_from": 2, "input_domain": None, "hidden_domain": (0, 1)}
        | {"periodic": [1], "periodic_as": "circle", "normalisation": None, "outputs": ["u"]}
        | {**INITIAL, **FACTORY},
    ),
    (
        MLP,
        {"widths": [2, 3, 1], "activation": "tanh", "input_domain": None}
        | {"periodic": [1], "outputs": ["u"], **FACTORY},
    ),
    (SplineLayer, {"in_features": 2, "out_features": 1, "grid": GRID, **INITIAL, **FACTORY}),
    (LAYER.masked, {"mask": torch.tensor([[True, False]])}),
    (LAYER.select, {"inputs": [1], "outputs": [0]}),
    (MODEL.select, {"units": [[1], [0]]}),
    (LAYER.free, {"per": "input", "floor": 0.1}),
    (MODEL.refine, {"breakpoints": None}),
    (MODEL.to_basis, {"basis": "relu"}),
    (MODEL.free, {"per": "input", "floor": 0.1}),
    (KAN([2, 3, 1], first="affine", dtype=torch.float64).calibrate_, {"x": X}),
    (
        kanlib.ExpansionKAN,
        {"widths": [2, 3, 1], "basis": BASIS, "first": "basis", "hidden_basis": None}
        | {"init_scale": 0.1, "input_domain": None, "periodic": [1], "normalisation": None}
        | {"outputs": ["u"], **FACTORY},
    ),
    (
        kanlib.ExpansionLayer,
        {"in_features": 2, "out_features": 1, "basis": BASIS, "init_scale": 0.1, **FACTORY},
    ),
    (kanlib.ExpansionLayer(2, 1, BASIS).refine, {"basis": BASIS.refine()}),
    (kanlib.ExpansionKAN([2, 1], BASIS).refine, {"basis": BASIS.refine()}),
    (kanlib.ExpansionKAN([2, 1], BASIS, dtype=torch.float64).forward, {"x": X}),
    # bases
    (BASIS.prolongation, {"finer": BASIS.refine()}),
    (kanlib.Chebyshev, {"degree": 3, "domain": (0, 1)}),
    (kanlib.Legendre, {"degree": 3, "domain": (0, 1)}),
    (kanlib.Fourier, {"frequencies": 3, "domain": (0, 1), "period": None}),
    (kanlib.HierarchicalSplines, {"coarsest": GRID, "levels": 1}),
    (kanlib.SplineWavelets, {"coarsest": GRID, "levels": 1}),
    (kanlib.Radial, {"n": 3, "domain": (0, 1)}),
    (kanlib.Radial(2).prolongation, {"finer": kanlib.Radial(4)}),
    (projections.gram, {"basis": BASIS, "derivative": 1}),
    (projections.least_squares, {"coarse": BASIS, "finer": BASIS.refine()}),
    (projections.nesting_error, {"coarse": BASIS, "finer": BASIS.refine()}),
    (projections.check_basis, {"basis": BASIS}),
    (MODEL.forward, {"x": X}),
    (MLP([2, 1], dtype=torch.float64).forward, {"x": X}),
    (
        kanlib.HardConditions,
        {"network": MODEL, "g": 0.0, "d": lambda x: 0 * x[:, :1], "inputs": None, "boundary": X},
    ),
    (
        kanlib.HardConditions.on_box,
        {"network": MODEL, "intervals": [(0, 1), (0, 1)], "value": 0.0, "slope": 0.0, "of": None},
    ),
    (Ensemble, {"members": [MODEL, MODEL]}),
    (Jet.at, {"x": X, "pairs": [(0, 0)], "directions": [0, 1], "features": None}),
    (Jet, {"channels": torch.zeros(2, 5, 1), "directions": 1, "pairs": ()}),
    (partial(kanlib.propagate, MODEL), {"jet": Jet.at(X)}),
    # splines
    (KnotGrid, {"order": 3, "breakpoints": [0, 1], "periodic": True}),
    (KnotGrid.uniform, {"order": 3, "n": 4, "domain": (0, 1), "periodic": True}),
    (GRID.missing_from, {"finer": FINE}),
    (bspline.pieces, {"grid": GRID}),
    (bspline.supports, {"grid": GRID}),
    (bspline.dense_basis, {"x": X, "grid": GRID, "derivative": 0, "extension": "linear"}),
    (bspline.cox_de_boor, {"x": X, "grid": GRID}),
    (change_of_basis.ChangeOfBasis, {"grid": GRID}),
    (change_of_basis.ChangeOfBasis(GRID).apply, {"x": torch.ones(6)}),
    (change_of_basis.ChangeOfBasis(GRID).solve, {"x": torch.ones(6)}),
    (maps.InputMap, {"intervals": [(0, 1)], "domain": (0, 1), **FACTORY}),
    (maps.Circle, {"coordinates": [0], "features": 2, "domain": (0, 1)}),
    (maps.Normalisation, {"kind": "tanh", "domain": (0, 1)}),
    (truncated_power.pieces, {"grid": GRID}),
    (truncated_power.dense_basis, {"x": X, "grid": GRID, "derivative": 0, "extension": "linear"}),
    # refinement
    (kanlib.prolongation, {"coarse": GRID, "fine": FINE, "basis": "relu"}),
    (dyadic_prolongation, {"order": 3, "n": 4}),
    (kanlib.prolongation(GRID, FINE).apply, {"coarse": torch.ones(6)}),
    (kanlib.prolongation(GRID, FINE).restrict, {"fine": torch.ones(10)}),
    (
        kanlib.refine_adaptively,
        {"model": MODEL, "n": 9, "indicator": adaptive.jump_indicator, "per": "input"},
    ),
    (adaptive.jumps, {"weight": torch.ones(6), "grid": GRID, "basis": "spline"}),
    (adaptive.indicators, {"layer": LAYER}),
    (adaptive.bisected, {"grid": GRID, "indicator": torch.ones(4), "n": 6}),
    (adaptive.jump_indicator, {"model": MODEL}),
    (adaptive.residual_indicator(X, lambda model: model(X)), {"model": MODEL}),
    (adaptive.residual_indicator, {"x": X, "residual": loss}),
    (adaptive.gradient_indicator(loss), {"model": MODEL}),
    (adaptive.gradient_indicator, {"objective": loss}),
    (bspline.greville, {"grid": GRID}),
    (refit.refit_on_samples, {"model": MODEL, "x": X, "new_grid": KnotGrid.refine}),
    (refit.refit_at_greville, {"model": MODEL, "new_grid": KnotGrid.refine}),
    (refit.resample, {"model": MODEL, "new_grid": KnotGrid.refine}),
    # training
    (MeanSquaredError, {"x": X, "y": X}),
    (Attention, {"damping": 0.1, "rate": 0.1}),
    (Attention().__call__, {"residual": torch.ones(3)}),
    (
        Term,
        {"residual": lambda u, x: u.value, "points": X, "pairs": [(0, 0)], "weight": 1.0}
        | {"features": None, "attention": None, "causal": None, "unknowns": None},
    ),
    (kanlib.Balance, {"by": "diagonal", "every": 3, "memory": 0.5}),
    (
        kanlib.Causal,
        {"interval": (0, 1), "coordinate": 0, "slices": 3, "epsilon": 1.0, "least": 0.1},
    ),
    (penalties.SquaredNorms, {"weight": 1.0, "derivative": 2}),
    (penalties.Norms, {"weight": 1.0, "derivative": 0}),
    (penalties.Entropy, {"weight": 1.0, "entropy": 1.0}),
    (penalties.Penalised, {"objective": MSE, "smooth": penalties.Norms(1.0)}),
    (kanlib.Unknowns, {"k": 1.0, **FACTORY}),
    (ResidualLoss, {"term": Term(lambda u, x: u.value, X), "balance": kanlib.Balance()}),
    (
        squares.Residual,
        {"function": lambda u: u.value, "jets": [Jet.at(X)], "data": [X], "weight": 1.0}
        | {"name": "term 'a'"},
    ),
    (squares.evaluate, {"module": MODEL, "jet": Jet.at(X)}),
    (
        squares.sum_of_squares,
        {"model": MODEL, "residuals": [squares.Residual(lambda u: u.value, [Jet.at(X)])]},
    ),
    (Schedule, {"epochs": [1, 1], "until": kanlib.Stagnation()}),
    (kanlib.Interface, {"phi": CIRCLE.phi, "jump": False}),
    (CIRCLE.inputs, {"x": X}),
    (CIRCLE.project, {"x": X, "steps": 30}),
    (CIRCLE.normal, {"x": X}),
    (Box, {"intervals": [(0, 1)]}),
    (Disc, {"centre": (0, 0), "radius": 0.5}),
    (Difference, {"base": SQUARE, "hole": DISC}),
    (Polygon, {"vertices": [(0, 0), (1, 0), (0, 1)], "holes": ()}),
    (SQUARE.points, {"count": 5, "kind": "sobol", "seed": 0}),
    (SQUARE.normal, {"x": X}),
    (DISC.contains, {"x": X}),
    (
        kanlib.Sampler,
        {"box": [(0, 1)], "count": 3, "kind": "sobol", "every": 1, "share": 0.1, "pool": 2}
        | {"map": None, "seed": 0, "device": "cpu", "dtype": None},
    ),
    (
        kanlib.GaussNewton,
        {"damping": 1e-3, "scaling": "marquardt", "geometry": None, "solver": "qr"}
        | {"tolerance": 1e-2, "tries": 2, "points": 9},
    ),
    (kanlib.QuasiNewton, {"update": "bfgs", "iterations": 2}),
    (
        kanlib.Cycle,
        {"smoother": kanlib.lbfgs, "kind": "V", "steps": 1, "coarse": "subspace", "coarsest": 4},
    ),
    (kanlib.Additive, {"make": kanlib.lbfgs, "coarsest": 4}),
    (kanlib.Stagnation, {"patience": 5, "gain": 0.1, "every": 1, "validate": loss}),
    (
        partial(kanlib.race, progress=False),
        {"starts": [MODEL], "objective": loss, "schedule": [0], "keep": []}
        | {"validate": None, "refine": KAN.refine, "work": None, "optimizer_state": "carried"}
        | {"checkpoint": None, "resume": False},
    ),
    (
        partial(kanlib.train, progress=False),
        {"model": MODEL, "objective": loss, "epochs": 1, "work_per_epoch": 1.0, **OPTIONS},
    ),
    (
        partial(kanlib.train_multilevel, progress=False),
        {"model": MODEL, "objective": loss, "schedule": [1, 0], "optimizer_state": "fresh"}
        | {"refine": KAN.refine, **OPTIONS},
    ),
    (kanlib.TimeSlabs, {"times": [0, 1], "solutions": [MODEL], "coordinate": 0}),
    (
        partial(kanlib.train_slabs, progress=False),
        {"make": lambda interval, former: (MODEL, loss), "times": [0, 1], "schedule": [1]}
        | {"coordinate": 0, "checkpoint": None},
    ),
    (kanlib.linear_ramp, {"initial_lr": 1e-4, "steps": 10}),
    (kanlib.exponential_cycles, {"initial_lr": 1e-4, "steps": 10, "gamma": 0.9}),
    (Iteration, {"make": ADAM, "geometry": "spline", "gradient": "spline"}),
    (partial(jacobian, MODEL), {"objective": MSE, "points": 3, "basis": "relu"}),
    (use_backend, {"name": "torch"}),
    # the paper's problems, comparisons and pictures
    (Poisson, {"cells": 4, "level_set": "abs", "summed": False, **PLACE}),
    (
        Burgers,
        {"nx": 4, "nt": 4, "grading": 0.0, "boundary": True, "viscosity": 0.05, "nodes": 16}
        | PLACE,
    ),
    (AllenCahn, {"points": 20, "sign": "standard", "seed": 1, **PLACE}),
    (comparison.compare, {"theirs": [1.0, 2.0], "ours": [1.0]}),
    (drawings.draw_network, {"model": MODEL, "importance": None}),
    # theory and cost
    (planner.CostModel, {"constants": (1.0,) * 6}),
    (planner.CostModel.fit, {"measured": [(BLOCK, 1.0)], "terms": ["call"]}),
    (planner.CostModel((1.0,) * 6).seconds, {"layers": [BLOCK]}),
    (planner.measure_layers, {"layers": [BLOCK], "repeats": 1}),
    (planner.layers_of, {"widths": [2, 1], "n": 4, "points": 5, "r": 3, "first": "spline"}),
    (
        planner.plan,
        {"widths": [2, 1], "n": 4, "epochs": [1, 1], "points": 5, "r": 3, "first": "spline"}
        | {"model": planner.CostModel((1.0,) * 6), "itemsize": 4, "evaluations": 1.0},
    ),
    (spectra.eigenpairs, {"grid": GRID, "matrix": "AtA", "inverse": True}),
    (spectra.eigenvalue_ratio, {"grid": GRID}),
    (spectra.sign_changes, {"vectors": MATRIX, "tolerance": 1e-12}),
    (spectra.symbol, {"order": 3, "theta": VECTOR}),
    (quadrature.gram, {"grid": GRID, "derivative": 1}),
    (quadrature.quadrature, {"grid": GRID, "points": 3}),
    (relaxation.cosine_modes, {"grid": GRID}),
    (relaxation.rate_matrix, {"grid": GRID, "fine": FINE, "derivative": 0, **RATES}),
    (relaxation.spectrum, {"grid": GRID, "derivative": 0, **RATES}),
    (relaxation.largest_stable_step, {"eigenvalues": VECTOR}),
    (relaxation.attenuation, {"rates": MATRIX, "step": 0.5, "times": [0, 1], "start": None}),
    (relaxation.propagator, {"levels": [GRID, FINE], "steps": [1, 1], "derivative": 0, **RATES}),
    (relaxation.coarse_correction, {"coarse": GRID, "fine": FINE, "derivative": 0}),
    (ntk.jacobian, {"model": MODEL, "x": X, "weights": "all"}),
    (ntk.tangent_kernel, {"model": MODEL, "x": X, "weights": "all"}),
    (ntk.spectrum, {"rows": MATRIX}),
    (ntk.spectral_radius, {"rows": MATRIX}),
    (
        estimates.estimates,
        {"model": MODEL, "objective": INVERSE, "noisy": ["line"], "level": 0.9},
    ),
    (
        smoothing.smoothing_weight,
        {"model": MODEL, "objective": MSE, "noise": 9.0, "derivative": 2},
    ),
    (
        regressors.regressed,
        {"model": MODEL, "x": X, "edge": (0, 0, 0), "regressor": Sine(), "name": "f"},
    ),
    (formula.formula, {"model": MODEL, "x": X, "y": None, "names": ["a", "b"], "output": 0}),
    (importance.importance, {"model": MODEL, "x": X, "measure": "domain"}),
    (
        pruning.prune,
        {"model": MODEL, "objective": MSE, "x": X, "threshold": 0.1, "inputs": True},
    ),
    (conditioning.gauss_newton, {"model": MODEL, "x": X, "weights": "all"}),
    (conditioning.hessian, {"model": MODEL, "objective": loss}),
    (conditioning.lanczos, {"model": MODEL, "objective": loss, "count": 2, "lowest": False}),
    (conditioning.condition_number, {"values": VECTOR, "cutoff": 1e-13}),
    (conditioning.unit_diagonal, {"matrix": MATRIX}),
    (conditioning.best_descent, {"kappa": 9.0, "largest": 1.0, "momentum": True}),
    (conditioning.predicted_steps, {"kappa": 9.0, "tolerance": 1e-3, "momentum": True}),
    (
        conditioning.evaluations_to,
        {"rows": MATRIX, "targets": VECTOR, "start": VECTOR, "optimizer": ADAM}
        | {"tolerance": 0.9, "limit": 3},
    ),
    (cost.one_by_one, {"x": X, "grid": GRID}),
    (cost.evaluate, {"layer": LAYER, "x": X.float(), "method": "local"}),
    (cost.step, {"layers": [LAYER], "x": X.float(), "method": "local"}),
    (cost.count_operations, {"function": lambda: None}),
    (cost.measure, {"functions": {"a": lambda: None}, "repeats": 1}),
    (cost.float32_error, {"grid": GRID, "method": "local", "basis": "spline", "points": 5}),
]
MODULES = (
    adaptive,
    change_of_basis,
    conditioning,
    cost,
    estimates,
    ntk,
    planner,
    projections,
    refit,
    relaxation,
    smoothing,
    spectra,
)
#: The breakpoints of a finer grid are a grid of that name; a schedule has epochs.
ALIASES = {"breakpoints": "fine", "schedule": "epochs"}
#: It measures for seconds, and hands its argument on to measure_layers.
SLOW = {"kanlib.analysis.planner.calibrate"}
#: Results, settings of torch's own optimizers and schedulers, and what other tests try.
ELSEWHERE = {
    "FunctionBasis",  # has no arguments
    *("EndOfLevel", "Run", "State", "Stop", "lbfgs", "paper_lbfgs"),
}


def label(function):
    inner = getattr(function, "func", function)  # of a partial
    return getattr(inner, "__qualname__", type(inner).__name__)


def fault(function, arguments, name, value):
    """Return what is wrong with how a function treats a bad value, or nothing."""
    try:
        function(**arguments | {name: value})
    except (TypeError, ValueError) as error:
        message = str(error)
        where = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
        if PACKAGE not in where.parents:
            return f"{type(error).__name__} in {where.name}: {message}"
        named = name in message or ALIASES.get(name, name) in message
        one = "\n" not in message and len(re.findall(r"[.!?] [A-Z]", message)) == 0
        return None if named and one else f"not one sentence on {name}: {message}"
    except Exception as error:  # anything else is not an answer
        return f"{type(error).__name__}: {error}"
    return None


@pytest.mark.parametrize(("function", "arguments"), CALLS, ids=[label(f) for f, _ in CALLS])
def test_bad_arguments_are_named(function, arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # some arguments are paths
    function(**arguments)
    faults = {
        f"{name}={kind}": found
        for name in arguments
        for kind, value in BAD.items()
        if (found := fault(function, arguments, name, value))
    }
    assert faults == {}


def test_every_public_name_is_tried():
    tried = {label(function).split(".")[0] for function, _ in CALLS} | {"backend", "propagate"}
    assert {*kanlib.__all__} <= tried | ELSEWHERE
    public = {
        f"{module.__name__}.{name}"
        for module in MODULES
        for name, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__ and name[0] != "_"
    }
    assert public - SLOW <= {
        f"{f.__module__}.{label(f)}" for f, _ in CALLS if inspect.isfunction(f)
    }


def test_a_deep_traceback_and_a_message_without_the_name_are_faults():
    def deep(x):
        torch.ones(2).view(x)

    assert "view" in fault(deep, {}, "x", "three")
    assert fault(KnotGrid.uniform, {"order": 3}, "n", 0) is None
