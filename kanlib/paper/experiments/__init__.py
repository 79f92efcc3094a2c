"""The paper's tables and figures as named cases that can be run, killed, resumed and recorded."""

from __future__ import annotations

from typing import Any

from kanlib.paper.experiments import (
    allen_cahn,
    bases,
    burgers,
    cycles,
    knots,
    poisson,
    refinement,
    regression,
    second_order,
)
from kanlib.paper.experiments.cases import Case, Experiment, PDECase

__all__ = ["EXPERIMENTS", "Case", "Experiment", "PDECase", "find_case", "find_experiment"]

#: The experiments by name.
EXPERIMENTS: dict[str, Experiment] = {
    "regression": regression.EXPERIMENT,
    "poisson": poisson.EXPERIMENT,
    "burgers": burgers.EXPERIMENT,
    "allen-cahn": allen_cahn.EXPERIMENT,
    "knots": knots.EXPERIMENT,
    "refinement": refinement.EXPERIMENT,
    "second-order": second_order.EXPERIMENT,
    "bases": bases.EXPERIMENT,
    "cycles": cycles.EXPERIMENT,
}


def find_experiment(name: str) -> Experiment:
    """Return an experiment by name, or raise ValueError that names the known ones.

    Examples:
        >>> find_experiment("regression").source
        'Table 2'
    """
    if name not in EXPERIMENTS:
        raise ValueError(f"experiment must be one of {sorted(EXPERIMENTS)}, got {name!r}")
    return EXPERIMENTS[name]


def find_case(experiment: str, name: str) -> Any:
    """Return a case by name, or raise ValueError that names the known ones.

    Examples:
        >>> find_case("regression", "spline-multilevel").epochs
        (32, 16, 8, 4)
    """
    cases = find_experiment(experiment).cases
    if name not in cases:
        raise ValueError(f"case of {experiment} must be one of {', '.join(cases)}; got {name!r}")
    return cases[name]
