"""Section 5.2.3: the Allen-Cahn equation, Figures 7 to 9, with controls."""

from __future__ import annotations

from functools import partial
from typing import Any

from kanlib.paper.experiments.cases import Experiment, PDECase, fine_controls
from kanlib.paper.experiments.pdes import execute
from kanlib.paper.problems.allen_cahn import AllenCahn
from kanlib.training.schedule import Schedule

EPOCHS = (2500,) * 4
TRAINING: dict[str, Any] = {"lr": 1e-2, "start_lr": 1e-4, "ramp": 10, "damping": 1e-4}
NETWORK: dict[str, Any] = {
    "widths": [2, 5, 5, 1], "domain": (-1.0, 1.0), "normalisation": "sigmoid",
}  # fmt: skip
COARSE_N, FINE_N = 4, 32


def _cases() -> dict[str, PDECase]:
    coarse = {"n": COARSE_N}
    cases = {
        "spline-multilevel": PDECase(
            "spline basis, n = 4 to 32", {**NETWORK, **coarse}, EPOCHS, TRAINING, keep=True
        ),
        "relu-multilevel": PDECase(
            "ReLU basis, the same function at the start",
            {**NETWORK, **coarse, "basis": "relu"},
            EPOCHS,
            TRAINING,
            keep=True,
        ),
        "mlp": PDECase(
            "tanh MLP [2, 16, 16, 1], 10000 epochs",
            {"widths": [2, 16, 16, 1], "activation": "tanh"},
            (sum(EPOCHS),),
            TRAINING,
            mlp=True,
            keep=True,
        ),
        "spline-multilevel-lr1e-3": PDECase(
            "spline basis, n = 4 to 32, the learning rate of the text",
            {**NETWORK, **coarse},
            EPOCHS,
            {**TRAINING, "lr": 1e-3},
        ),
        "spline-multilevel-printed-sign": PDECase(
            "spline basis, n = 4 to 32, the equation with the printed sign",
            {**NETWORK, **coarse},
            EPOCHS,
            TRAINING,
            {"sign": "printed"},
        ),
        "spline-multilevel-grid": PDECase(
            "spline basis, n = 4 to 32, the 251001 points of Table D",
            {**NETWORK, **coarse},
            EPOCHS,
            TRAINING,
            {"points": "grid"},
        ),
        "spline-coarse": PDECase(
            "spline basis, n = 4, equal work",
            {**NETWORK, **coarse},
            (int(Schedule(EPOCHS).work),),
            TRAINING,
        ),
    }
    controls = fine_controls(NETWORK, (COARSE_N, FINE_N), EPOCHS, TRAINING)
    # At constant learning rate a run of equal work is the beginning of one of equal epochs.
    cases.update({name: case for name, case in controls.items() if name.endswith("-epochs")})
    return cases


EXPERIMENT = Experiment(
    title="Allen-Cahn equation, section 5.2.3",
    source="Figures 7 to 9",
    cases=_cases(),
    seeds=(1234, 1235, 1236),
    execute=partial(execute, AllenCahn),
)
