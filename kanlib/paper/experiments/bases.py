"""Beyond the paper: levels in other bases than B-splines, with as many parameters on each level.

Lemma 6 promises exact refinement for any nested bases. Each basis takes the place of B-splines on
all edges of a network of the Gauss-Newton experiment, one start a seed, with the same points, steps
and levels. On each level it has as many functions as the splines have; waves come in pairs, and
have one less where that number is even.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from kanlib.bases.fourier import Fourier
from kanlib.bases.multiscale import HierarchicalSplines, SplineWavelets
from kanlib.bases.polynomials import Chebyshev, Legendre
from kanlib.bases.protocol import FunctionBasis
from kanlib.bases.radial import Radial
from kanlib.nn.expansion import ExpansionKAN
from kanlib.nn.networks import KAN
from kanlib.paper.experiments import second_order
from kanlib.paper.experiments.cases import Experiment, Solutions
from kanlib.paper.experiments.formulations import PROBLEMS, STARTS, SecondOrderCase
from kanlib.splines.knots import KnotGrid
from kanlib.training.gauss_newton import GaussNewton
from kanlib.training.optimizers import OptimizerFactory, lbfgs
from kanlib.training.runs import Run

QUICK_DIVISOR, QUICK_POINTS = 12, 100
#: The error is measured so many times a level.
MEASUREMENTS = 8

#: Function from order, intervals of the coarsest splines, level and domain to a basis.
Maker = Callable[[int, int, int, tuple[float, float]], FunctionBasis]


def _count(r: int, n: int, level: int) -> int:
    """Return how many B-splines there are on a level."""
    return (n << level) + r - 1


#: Bases by name; "splines" are the B-splines of KAN.
BASES: dict[str, Maker] = {
    "chebyshev": lambda r, n, level, ends: Chebyshev(_count(r, n, level) - 1, ends),
    "legendre": lambda r, n, level, ends: Legendre(_count(r, n, level) - 1, ends),
    "fourier": lambda r, n, level, ends: Fourier((_count(r, n, level) - 1) // 2, ends),
    "fourier-double": lambda r, n, level, ends: Fourier(
        (_count(r, n, level) - 1) // 2, ends, 2 * (ends[1] - ends[0])
    ),
    "hierarchical": lambda r, n, level, ends: HierarchicalSplines(
        KnotGrid.uniform(r, n, ends), level
    ),
    "wavelets": lambda r, n, level, ends: SplineWavelets(KnotGrid.uniform(r, n, ends), level),
    "radial": lambda r, n, level, ends: Radial(_count(r, n, level) - 1, ends),
}
LABELS = {
    "splines": "B-splines",
    "chebyshev": "Chebyshev polynomials",
    "legendre": "Legendre polynomials",
    "fourier": "waves",
    "fourier-double": "waves of the double period",
    "hierarchical": "hierarchical splines",
    "wavelets": "spline wavelets",
    "radial": "radial functions",
}
#: Epochs of L-BFGS, 20 iterations each, on the levels of section 5.1.
LBFGS_EPOCHS = (32, 16, 8, 4)
OPTIMIZERS: dict[str, OptimizerFactory] = {"gauss-newton": GaussNewton(), "lbfgs": lbfgs}


@dataclass(frozen=True)
class BasisCase(SecondOrderCase):
    """One basis on one problem.

    Attributes:
        basis: "splines", or one of :data:`BASES`.
        optimizer: one of :data:`OPTIMIZERS`.
    """

    basis: str = "splines"
    optimizer: str = "gauss-newton"


def _cases() -> dict[str, BasisCase]:
    found: dict[str, BasisCase] = {}
    for problem, optimizer in (
        ("regression", "gauss-newton"),
        ("regression", "lbfgs"),
        ("poisson", "gauss-newton"),
        ("burgers", "gauss-newton"),
        ("allen-cahn", "gauss-newton"),
    ):
        case = second_order.EXPERIMENT.cases[f"{problem}-levels"]
        epochs = LBFGS_EPOCHS if optimizer == "lbfgs" else case.epochs
        way = {"gauss-newton": "Gauss-Newton", "lbfgs": "L-BFGS"}[optimizer]
        name = problem if optimizer == "gauss-newton" else f"{problem}-{optimizer}"
        for basis, label in LABELS.items():
            found[f"{name}-{basis}"] = case.become(
                BasisCase,
                description=f"{problem}, {label}, {way}",
                epochs=epochs,
                basis=basis,
                optimizer=optimizer,
            )
    return found


def network(case: BasisCase, device: str = "cpu") -> KAN | ExpansionKAN:
    """Return the network of a case on its coarsest level."""
    place: dict[str, Any] = {"device": device, "dtype": torch.float64}
    if case.basis == "splines":
        return KAN(**case.network, **place)
    options = dict(case.network)
    r, n = options.pop("r", 4), options.pop("n")
    ends = options.pop("domain", (0.0, 1.0))
    hidden = options.pop("hidden_domain", ends)
    make = BASES[case.basis]
    first = options.pop("first", "spline")
    return ExpansionKAN(
        **options,
        first="basis" if first == "spline" else first,
        basis=make(r, n, 0, ends),
        hidden_basis=make(r, n, 0, hidden),
        **place,
    )


def refinement(case: BasisCase) -> Callable[[Any], Any]:
    """Return the function from a network of a case to that of the next level."""
    if case.basis == "splines":
        return KAN.refine
    r, n, make = case.network.get("r", 4), case.network["n"], BASES[case.basis]
    levels = range(len(case.epochs))
    sizes = {make(r, n, level, (0.0, 1.0)).size: level for level in levels}

    def refined(model: ExpansionKAN) -> ExpansionKAN:
        return model.refine(lambda old: make(r, n, sizes[old.size] + 1, old.domain))

    return refined


def execute(
    case: BasisCase,
    seed: int,
    *,
    quick: bool = False,
    device: str = "cpu",
    checkpoint: Path | None = None,
    resume: bool = False,
    progress: bool = True,
) -> tuple[Run[Any], dict[str, float], Solutions]:
    """Train one case.

    Args:
        case: what to train.
        seed: seed of data, points and the start.
        quick: a twelfth of the steps, and few points.
        device: torch device.
        checkpoint: file whose name the folder of checkpoints is made from.
        resume: go on from them.
        progress: show a progress bar.

    Returns:
        The run, and its loss and error; no solutions.
    """
    points, epochs = case.points, case.epochs
    if quick:
        points = tuple(min(count, QUICK_POINTS) for count in points)
        epochs = tuple(max(1, count // QUICK_DIVISOR) for count in epochs)
    problem = PROBLEMS[case.problem](replace(case, points=points), seed, device)
    torch.manual_seed(STARTS * seed)
    model = network(case, device)
    if problem.calibrate is not None:
        model.calibrate_(problem.calibrate)
    refine, level = refinement(case), {model.n: 0}
    finer = model
    for number in range(1, len(epochs)):  # networks tell their level by n alone
        finer = refine(finer)
        level[finer.n] = number
    return second_order.raced(
        problem,
        {0: problem.solution(model)},
        epochs,
        checkpoint,
        resume,
        keep=(1,) * (len(epochs) - 1),
        refine=refine,
        work=lambda model: 2.0 ** level[model.n],
        optimizer=OPTIMIZERS[case.optimizer],
        metrics_every=max(1, max(epochs) // MEASUREMENTS),
        progress=progress,
    )


EXPERIMENT = Experiment(
    title="Levels in other bases than B-splines, beyond the paper",
    source="",
    cases=_cases(),
    seeds=(1234, 1235, 1236, 1237, 1238),
    execute=execute,
)
