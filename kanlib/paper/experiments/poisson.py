"""Section 5.2.1: Poisson with a discontinuous coefficient, Figures 5 and 6, with controls."""

from __future__ import annotations

from functools import partial
from typing import Any

from kanlib.paper.experiments.cases import Experiment, PDECase, equal_work, fine_controls
from kanlib.paper.experiments.pdes import execute
from kanlib.paper.problems.poisson import Poisson

EPOCHS = (1250,) * 4
PRINTED: dict[str, Any] = {"lr": 1e-2, "start_lr": 1e-4, "ramp": 10, "damping": 1e-4}
GENTLE: dict[str, Any] = {**PRINTED, "lr": 3e-3}
NETWORK: dict[str, Any] = {"widths": [3, 5, 1], "domain": (-1.0, 1.0)}
WIDER: dict[str, Any] = {**NETWORK, "hidden_domain": (-2.0, 2.0)}
COARSE_N, FINE_N = 4, 32


def _problem(seed: int, **options: Any) -> Poisson:
    return Poisson(**options)  # its points are not random


def _cases() -> dict[str, PDECase]:
    coarse = {"n": COARSE_N}
    cases = {
        "spline-multilevel-printed": PDECase(
            "spline basis, n = 4 to 32, as printed",
            {**NETWORK, **coarse},
            EPOCHS,
            PRINTED,
            keep=True,
        ),
        "spline-multilevel": PDECase(
            "spline basis, n = 4 to 32, hidden splines on [-2, 2], learning rate 3e-3",
            {**WIDER, **coarse},
            EPOCHS,
            GENTLE,
            keep=True,
        ),
        "relu-multilevel": PDECase(
            "ReLU basis, the same function at the start",
            {**WIDER, **coarse, "basis": "relu"},
            EPOCHS,
            GENTLE,
            keep=True,
        ),
        "relu-multilevel-printed": PDECase(
            "ReLU basis, as printed",
            {**NETWORK, **coarse, "basis": "relu"},
            EPOCHS,
            PRINTED,
        ),
        "mlp-printed": PDECase(
            "tanh MLP [3, 16, 16, 1], 5000 epochs, learning rate 1e-2",
            {"widths": [3, 16, 16, 1], "activation": "tanh"},
            (sum(EPOCHS),),
            PRINTED,
            mlp=True,
            keep=True,
        ),
        "mlp": PDECase(
            "tanh MLP [3, 16, 16, 1], 5000 epochs, learning rate 3e-3",
            {"widths": [3, 16, 16, 1], "activation": "tanh"},
            (sum(EPOCHS),),
            GENTLE,
            mlp=True,
        ),
        "spline-coarse": PDECase(
            "spline basis, n = 4, equal work",
            {**WIDER, **coarse},
            (8 * equal_work(EPOCHS),),
            GENTLE,
        ),
    }
    cases.update(fine_controls(WIDER, (COARSE_N, FINE_N), EPOCHS, GENTLE))
    variants: dict[str, tuple[str, dict[str, Any]]] = {
        "relu": ("level set max(x, 0)", {"level_set": "relu"}),
        "step": ("level set -1 or 1", {"level_set": "step"}),
        "none": ("no level set", {"level_set": "none"}),
        "summed": ("sums in place of means in the loss", {"summed": True}),
    }
    for name, (label, problem) in variants.items():
        cases[f"spline-multilevel-{name}"] = PDECase(
            f"spline basis, n = 4 to 32, {label}", {**WIDER, **coarse}, EPOCHS, GENTLE, problem
        )
    cases["spline-multilevel-scale0.01"] = PDECase(
        "spline basis, n = 4 to 32, scale 0.01",
        {**WIDER, **coarse, "init_scale": 0.01},
        EPOCHS,
        GENTLE,
    )
    return cases


EXPERIMENT = Experiment(
    title="Poisson equation with a discontinuous coefficient, section 5.2.1",
    source="Figures 5 and 6",
    cases=_cases(),
    seeds=(1234, 1235, 1236),
    execute=partial(execute, _problem),
)
