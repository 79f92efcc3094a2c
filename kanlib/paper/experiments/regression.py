"""Section 5.1: regression, Table 2 and Figure 4, with the controls that the paper lacks."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn

from kanlib.nn.networks import KAN, MLP
from kanlib.objectives.mean_squared_error import MeanSquaredError
from kanlib.paper.experiments.cases import Case, Experiment, Solutions, train_case
from kanlib.paper.problems.regression import regression
from kanlib.training.optimizers import OptimizerFactory, paper_lbfgs
from kanlib.training.runs import Run

COARSE_N = 5
QUICK_POINTS, QUICK_DIVISOR = 2000, 4

SPLINE: dict[str, Any] = {"widths": [2, 5, 1], "first": "affine", "init_scale": 0.1}
#: Spline coefficients of scale 1 and clamped splines, the start that comes closest to Table 2.
RELU: dict[str, Any] = {**SPLINE, "basis": "relu", "init_scale": 1.0, "extension": "clamp"}
MULTILEVEL = (32, 16, 8, 4)
SCALES = (1.0, 0.03, 0.01, 1e-4)


def _regression_cases() -> dict[str, Case]:
    coarse, fine = {"n": COARSE_N}, {"n": 8 * COARSE_N}

    def paper(mean: float, stdev: float) -> dict[str, float]:
        return {"mean": mean, "stdev": stdev}

    def trio(
        name: str, label: str, network: dict[str, Any], values: list[dict[str, float] | None]
    ) -> dict[str, Case]:
        return {
            f"{name}-coarse": Case(
                f"{label}, n = 5, 128 epochs", {**network, **coarse}, (128,), paper=values[0]
            ),
            f"{name}-fine": Case(
                f"{label}, n = 40, 16 epochs", {**network, **fine}, (16,), 3, paper=values[1]
            ),
            f"{name}-multilevel": Case(
                f"{label}, n = 5 to 40, 32+16+8+4 epochs",
                {**network, **coarse},
                MULTILEVEL,
                paper=values[2],
            ),
        }

    cases = {
        **trio(
            "relu",
            "ReLU basis",
            RELU,
            [paper(1.10e-2, 8.32e-3), paper(1.35, 1.50e-1), paper(1.06e-2, 8.03e-3)],
        ),
        **trio(
            "spline",
            "spline basis",
            SPLINE,
            [paper(1.65e-3, 4.18e-5), paper(2.54e-3, 5.64e-3), paper(3.67e-5, 7.19e-5)],
        ),
    }
    for widths, mean, stdev in (
        ([2, 5, 1], 2.94e-2, 1.60e-2),
        ([2, 30, 1], 1.02e-3, 9.42e-4),
        ([2, 20, 20, 1], 3.33e-4, 2.92e-4),
    ):
        name = "mlp-" + "-".join(str(w) for w in widths[1:-1])
        label = f"MLP {widths}, 128 epochs"
        cases[name] = Case(label, {"widths": widths}, (128,), mlp=True, paper=paper(mean, stdev))

    # Controls that the paper lacks: the same fine network from a smooth start.
    prolonged = {**SPLINE, **fine, "prolonged_from": COARSE_N}
    cases["spline-fine-prolonged"] = Case(
        "spline basis, n = 40, started as the prolonged untrained coarse network, 16 epochs",
        prolonged,
        (16,),
        3,
    )
    cases["spline-fine-prolonged-epochs60"] = Case(
        "the same for 60 epochs, the number of epochs of multilevel", prolonged, (60,), 3
    )
    cases["spline-fine-epochs60"] = Case(
        "spline basis, n = 40, 60 epochs", {**SPLINE, **fine}, (60,), 3
    )
    for scale in SCALES:
        start = {**SPLINE, "init_scale": scale}
        label = f"spline basis, initial scale {scale:g}"
        cases[f"spline-fine-scale{scale:g}"] = Case(
            f"{label}, n = 40, 16 epochs", {**start, **fine}, (16,), 3
        )
        cases[f"spline-fine-scale{scale:g}-epochs60"] = Case(
            f"{label}, n = 40, 60 epochs", {**start, **fine}, (60,), 3
        )
        cases[f"spline-multilevel-scale{scale:g}"] = Case(
            f"{label}, n = 5 to 40, 32+16+8+4 epochs", {**start, **coarse}, MULTILEVEL
        )
    # L-BFGS that does not stop at torch's default tolerances, which these losses reach.
    for name in ("spline-coarse", "spline-multilevel", "spline-fine", "spline-fine-prolonged"):
        cases[f"{name}-tight"] = _tightened(cases[name])
    for name in ("spline-fine-scale0.01", "spline-fine-scale0.01-epochs60"):
        cases[f"{name}-tight"] = _tightened(cases[name])
    # The ReLU basis from the very function that the spline basis starts from.
    same_start = {**SPLINE, "basis": "relu"}
    cases.update(trio("relu-samestart", "ReLU basis, start of the spline", same_start, [None] * 3))
    cases["relu-fine-prolonged"] = Case(
        "ReLU basis, n = 40, started as the prolonged untrained coarse network, 16 epochs",
        {**RELU, **fine, "prolonged_from": COARSE_N},
        (16,),
        3,
    )
    # Coefficients drawn in the ReLU basis itself.
    own_start = {**RELU, "init_basis": "relu"}
    cases.update(trio("relu-ownstart", "ReLU basis, drawn in it", own_start, [None] * 3))
    # The architecture as the paper's notation suggests it, splines on all 15 edges.
    all_edges = {**SPLINE, "first": "spline"}
    cases.update(trio("fullspline", "splines on all edges", all_edges, [None] * 3))
    return cases


def _tightened(case: Case) -> Case:
    return Case(
        f"{case.description}, tight tolerances",
        case.network,
        case.epochs,
        case.start_level,
        tight=True,
    )


def run_regression(
    case: Case,
    seed: int,
    *,
    quick: bool = False,
    device: str = "cpu",
    **options: Any,
) -> tuple[Run[Any], dict[str, float], Solutions]:
    """Train one case of section 5.1.

    Args:
        case: what to train.
        seed: seed of data and initial parameters.
        quick: a tenth of the points and a quarter of the epochs.
        device: torch device.
        **options: checkpoint, resume and progress, see :func:`kanlib.training.trainer.train`.

    Returns:
        The run, the mean squared errors on training and test set, and no solutions.
    """
    points = QUICK_POINTS if quick else 20_000
    data = regression(seed, points, points, device=device)
    torch.manual_seed(seed)
    network = {**case.network, "device": device, "dtype": torch.float64}
    model: nn.Module = MLP(**network) if case.mlp else KAN(**network)
    if isinstance(model, KAN) and network["first"] == "affine":
        model.calibrate_(data.x)
    optimizer: OptimizerFactory = paper_lbfgs
    if case.tight:
        optimizer = partial(paper_lbfgs, tolerance_grad=1e-14, tolerance_change=1e-16)
    run = train_case(
        case,
        model,
        MeanSquaredError(data.x, data.y),
        torch.no_grad()(MeanSquaredError(data.x_test, data.y_test)),
        divisor=QUICK_DIVISOR if quick else 1,
        optimizer=optimizer,
        **options,
    )
    return run, {"train_mse": run.loss, "test_mse": run.history.metrics[-1]["error"]}, {}


EXPERIMENT = Experiment(
    title="Regression of a non-smooth function, section 5.1",
    source="Table 2",
    cases=_regression_cases(),
    seeds=(1234, 1235, 1236, 1237, 1238),
    execute=run_regression,
    labels={"train_mse": "", "test_mse": "test "},
)
