"""Section 5.2.3: the Allen-Cahn equation, Figures 7 to 9, with controls."""

from __future__ import annotations

from functools import partial
from typing import Any

from kanlib.experiments.cases import Experiment, PDECase
from kanlib.experiments.pdes import execute
from kanlib.problems.allen_cahn import AllenCahn

EPOCHS = (2500,) * 4
EQUAL_WORK = sum(e * 2**level for level, e in enumerate(EPOCHS)) // 8
TRAINING: dict[str, Any] = {"lr": 1e-2, "start_lr": 1e-4, "ramp": 10, "damping": 1e-4}
NETWORK: dict[str, Any] = {
    "widths": [2, 5, 5, 1], "domain": (-1.0, 1.0), "normalisation": "sigmoid",
}  # fmt: skip
COARSE_N, FINE_N = 4, 32


def _cases() -> dict[str, PDECase]:
    coarse, fine = {"n": COARSE_N}, {"n": FINE_N}
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
        "spline-coarse": PDECase(
            "spline basis, n = 4, equal work", {**NETWORK, **coarse}, (EQUAL_WORK * 8,), TRAINING
        ),
    }
    starts: dict[str, tuple[str, dict[str, Any]]] = {
        "": ("scale 0.1", {}),
        "-scale0.01": ("scale 0.01", {"init_scale": 0.01}),
        "-prolonged": ("prolonged from n = 4", {"prolonged_from": COARSE_N}),
    }
    for suffix, (label, start) in starts.items():
        for kind, epochs in (("equal work", EQUAL_WORK), ("equal epochs", sum(EPOCHS))):
            name = f"spline-fine{suffix}{'-epochs' if kind == 'equal epochs' else ''}"
            cases[name] = PDECase(
                f"spline basis, n = 32, {label}, {kind}",
                {**NETWORK, **fine, **start},
                (epochs,),
                TRAINING,
                start_level=3,
            )
    return cases


EXPERIMENT = Experiment(
    title="Allen-Cahn equation, section 5.2.3",
    source="Figures 7 to 9",
    cases=_cases(),
    seeds=(1234, 1235, 1236),
    execute=partial(execute, AllenCahn),
)
